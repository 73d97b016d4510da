//! Runs a gateway from its first connection to the end of its drain.

use std::{pin::pin, time::Duration};

use tokio::time::{Instant, sleep};
use tokio_util::task::AbortOnDropHandle;

use super::{
    admin as admin_listener, connection::Connections, connection_limit::ConnectionLimit,
    drain::drain, health::HealthStatus, listener::accept, ports::Ports, settings::Settings, wiring,
};
use crate::{
    admin,
    domain::{DefaultRegion, MakeUpstream, Readiness, RegionSearch},
};

/// The error with which the server stopped.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The reflection service could not be built.
    #[error("the contract's descriptor set cannot be decoded: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// Calls were still in progress at the end of the drain timeout.
    #[error("{calls} calls were still in progress after {limit:?} and were cut off")]
    Undrained {
        /// Number of calls.
        calls: u64,
        /// The drain timeout.
        limit: Duration,
    },
}

/// Serves until `shutdown` completes, then drains. Health says `NOT_SERVING` while the default region is
/// searched for. In the drain, health says `NOT_SERVING` (`/readyz` says so until the end), no further connection is
/// accepted, watches end with `UNAVAILABLE` and a pushback, and unary calls finish.
///
/// # Errors
/// If the server fails, or the drain takes longer than its timeout.
pub async fn serve(
    ports: impl Into<Ports>,
    settings: Settings,
    make_upstream: MakeUpstream,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let drain_settings = settings.connections.drain;
    let mut default_region = settings.default_region.clone();
    let limit = ConnectionLimit::of_process(settings.connections.max_connections);
    let connections = Connections::new(settings.connections, settings.tls.clone());
    let (health, health_service) = HealthStatus::new(readiness_at_start(&default_region)).await;
    let services = wiring::services(settings, make_upstream, health_service)?;
    let Ports { grpc, admin } = ports.into();
    // Ends when this function does, so that checks are answered during the drain.
    let _admin = admin.map(|listeners| {
        let pages = admin::router(health.readiness());
        AbortOnDropHandle::new(tokio::spawn(admin_listener::serve(listeners, pages)))
    });

    let began = {
        let accepting = accept(grpc, limit, &connections, &services);
        let mut serving = pin!(async { tokio::join!(accepting, connections.watch_over()) });
        let started = async {
            default_region.known().await;
            health.set(Readiness::Serving).await;
            std::future::pending::<()>().await;
        };
        tokio::select! {
            _ = &mut serving => {}
            () = shutdown => {}
            () = started => {}
        }
        let began = Instant::now();
        tracing::info!("draining");
        health.set(Readiness::Draining).await;
        tokio::select! {
            _ = &mut serving => {}
            () = sleep(drain_settings.delay) => {}
        }
        began
    };
    drain(&connections, began, drain_settings.timeout).await
}

/// A gateway that knows its region is ready from its first answer on.
fn readiness_at_start(default_region: &DefaultRegion) -> Readiness {
    match default_region.get() {
        RegionSearch::Running => Readiness::Starting,
        RegionSearch::Ended(_) => Readiness::Serving,
    }
}
