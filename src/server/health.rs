//! The readiness of the gateway, in gRPC's health protocol and for the admin listener.

use tokio::sync::watch;
use tonic::server::NamedService;
use tonic_health::{
    ServingStatus,
    pb::health_server::{Health, HealthServer},
    server::HealthReporter,
};

use crate::{
    domain::Readiness, grpc::Service,
    proto::server::store_image_task_service_server::StoreImageTaskServiceServer,
};

/// The names whose health is reported. The empty name is the server as a whole.
const NAMES: [&str; 2] = ["", <StoreImageTaskServiceServer<Service> as NamedService>::NAME];

/// Sets the readiness of the gateway. gRPC health and the admin listener follow it alone, so that they say
/// the same.
#[derive(Clone, Debug)]
pub(super) struct HealthStatus {
    readiness: watch::Sender<Readiness>,
    reporter: HealthReporter,
}

impl HealthStatus {
    /// The status of a gateway, and the service from which clients read it.
    pub(super) async fn new(readiness: Readiness) -> (Self, HealthServer<impl Health>) {
        let (reporter, service) = tonic_health::server::health_reporter();
        let status = Self { readiness: watch::Sender::new(readiness), reporter };
        status.set(readiness).await;
        (status, service)
    }

    /// The readiness, for those who do not speak gRPC.
    pub(super) fn readiness(&self) -> watch::Receiver<Readiness> {
        self.readiness.subscribe()
    }

    pub(super) async fn set(&self, readiness: Readiness) {
        self.readiness.send_replace(readiness);
        let status = match readiness {
            Readiness::Serving => ServingStatus::Serving,
            Readiness::Starting | Readiness::Draining => ServingStatus::NotServing,
        };
        for name in NAMES {
            self.reporter.set_service_status(name, status).await;
        }
    }
}
