//! The drain: a server that shuts down lets its calls end, within a time limit.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    connection::{Connections, Drained},
    serve::ServeError,
};

/// Drains all connections of a server that was asked to stop at `began`, and accepts no more.
///
/// # Errors
/// If calls were still in progress at the end of the drain timeout `limit`.
pub(super) async fn drain(
    connections: &Connections,
    began: Instant,
    limit: Duration,
) -> Result<(), ServeError> {
    let Drained { unread, cut } = connections.drain(began).await;
    if unread > 0 {
        tracing::warn!(streams = unread, "streams were cut because their clients did not read");
    }
    if cut > 0 {
        return Err(ServeError::Undrained { calls: cut, limit });
    }
    Ok(())
}
