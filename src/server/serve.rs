//! Runs a gateway from its first connection to the end of its drain.

use std::{io, time::Duration};

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{drain, health::HealthStatus, listener::incoming, settings::Settings, wiring};
use crate::domain::MakeUpstream;

/// The error with which the server stopped.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The gRPC server failed.
    #[error("the gRPC server failed: {0}")]
    Transport(#[from] tonic::transport::Error),
    /// The reflection service could not be built.
    #[error("the contract's descriptor set cannot be decoded: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// Requests were still in progress when the drain timeout passed.
    #[error("requests were still in progress after {0:?} and were cut off")]
    Undrained(Duration),
    /// The listener failed.
    #[error("cannot listen: {0}")]
    Listen(#[from] io::Error),
}

/// Serves until `shutdown` completes, then drains. Health says `NOT_SERVING` while the default region is
/// searched for. In the drain, health says `NOT_SERVING`, no further connection is
/// accepted, watches end with `UNAVAILABLE` and a pushback, and unary calls finish.
///
/// # Errors
/// If the server fails, or the drain takes longer than `settings.drain_timeout`.
pub async fn serve(
    listener: TcpListener,
    settings: Settings,
    make_upstream: MakeUpstream,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let draining = CancellationToken::new();
    let drain_timeout = settings.drain_timeout;
    let mut default_region = settings.default_region.clone();
    let (health, health_service) = HealthStatus::not_serving().await;
    let router = wiring::router(settings, make_upstream, draining.clone(), health_service)?;
    let stopped = draining.clone().cancelled_owned();
    let server = router.serve_with_incoming_shutdown(incoming(listener), stopped);

    let started = async {
        default_region.known().await;
        health.set_serving().await;
        std::future::pending::<()>().await;
    };
    tokio::pin!(server);
    tokio::select! {
        ended = &mut server => return Ok(ended?),
        () = shutdown => {}
        () = started => {}
    }
    tracing::info!("draining");
    health.set_not_serving().await;
    draining.cancel();
    match drain::drain(server, health, drain_timeout).await {
        Ok(ended) => Ok(ended?),
        Err(drain::TimedOut) => Err(ServeError::Undrained(drain_timeout)),
    }
}
