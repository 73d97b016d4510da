//! The health of the server as a whole and of the service, in gRPC's health protocol.

use tonic::server::NamedService;
use tonic_health::{
    ServingStatus,
    pb::health_server::{Health, HealthServer},
    server::HealthReporter,
};

use crate::{
    grpc::Service, proto::server::store_image_task_service_server::StoreImageTaskServiceServer,
};

/// The names whose health is reported. The empty name is the server as a whole.
const NAMES: [&str; 2] = ["", <StoreImageTaskServiceServer<Service> as NamedService>::NAME];

/// Sets the health that clients read.
#[derive(Clone, Debug)]
pub(super) struct HealthStatus(HealthReporter);

impl HealthStatus {
    /// A status that is `NOT_SERVING`, and the service from which clients read it.
    pub(super) async fn not_serving() -> (Self, HealthServer<impl Health>) {
        let (reporter, service) = tonic_health::server::health_reporter();
        let status = Self(reporter);
        status.set_not_serving().await;
        (status, service)
    }

    pub(super) async fn set_serving(&self) {
        self.set(ServingStatus::Serving).await;
    }

    pub(super) async fn set_not_serving(&self) {
        self.set(ServingStatus::NotServing).await;
    }

    /// Ends the streams of health watchers: tonic-health ends them only when their name is removed.
    pub(super) async fn end_streams(&mut self) {
        for name in NAMES {
            self.0.clear_service_status(name).await;
        }
    }

    async fn set(&self, status: ServingStatus) {
        for name in NAMES {
            self.0.set_service_status(name, status).await;
        }
    }
}
