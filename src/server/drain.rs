//! The drain: a server that shuts down lets its calls end, within a time limit.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{
    connection::{Connections, Drained},
    health::HealthStatus,
    serve::ServeError,
};

/// Time for which a draining server still serves health watchers, so that they read `NOT_SERVING`
/// before their streams end.
const HEALTH_LINGERS: Duration = Duration::from_secs(1);

/// Drains all connections of a server that was asked to stop at `began`, and accepts no more.
///
/// # Errors
/// If calls were still in progress at the end of the drain timeout `limit`.
pub(super) async fn drain(
    connections: &Connections,
    mut health: HealthStatus,
    began: Instant,
    limit: Duration,
) -> Result<(), ServeError> {
    let end_health = async {
        sleep(HEALTH_LINGERS).await;
        health.end_streams().await;
        std::future::pending::<()>().await;
    };
    let Drained { unread, cut } = tokio::select! {
        drained = connections.drain(began) => drained,
        () = end_health => Drained::default(),
    };
    if unread > 0 {
        tracing::warn!(streams = unread, "streams were cut because their clients did not read");
    }
    if cut > 0 {
        return Err(ServeError::Undrained { calls: cut, limit });
    }
    Ok(())
}
