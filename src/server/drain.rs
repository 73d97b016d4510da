//! The drain: a server that shuts down finishes its requests within a time limit.

use std::time::Duration;

use tokio::time::timeout;

use super::health::HealthStatus;

/// Time for which a draining server still serves health watchers, so that they read `NOT_SERVING`
/// before their streams end.
const HEALTH_LINGERS: Duration = Duration::from_secs(1);

/// Requests were still in progress when the drain timeout passed.
#[derive(Debug)]
pub(super) struct TimedOut;

/// Waits until `server`, which is shutting down, has finished its requests.
pub(super) async fn drain<T>(
    server: impl Future<Output = T>,
    mut health: HealthStatus,
    limit: Duration,
) -> Result<T, TimedOut> {
    tokio::pin!(server);
    let drained = async {
        if let Ok(ended) = timeout(HEALTH_LINGERS, &mut server).await {
            return ended;
        }
        health.end_streams().await;
        server.await
    };
    timeout(limit, drained).await.map_err(|_| TimedOut)
}
