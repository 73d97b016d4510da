//! The bound of open connections.

use std::sync::Arc;

use rustix::process::{Resource, getrlimit};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::{info, warn};

use super::once_a_minute::OnceAMinute;

/// Descriptors that connections leave to everything else: listeners, calls to EC2, the admin listener,
/// files of certificates and credentials. A process with a low limit leaves half of it.
const RESERVED_DESCRIPTORS: u64 = 128;

/// Places for connections. A connection holds one for as long as it is open.
#[derive(Debug)]
pub struct ConnectionLimit {
    places: Arc<Semaphore>,
    limit: usize,
    warning: OnceAMinute,
}

/// A place. It is free again when this is dropped.
#[derive(Debug)]
pub struct ConnectionPermit(#[expect(dead_code, reason = "held")] OwnedSemaphorePermit);

impl ConnectionLimit {
    /// As many places as are asked for.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        let limit = limit.min(Semaphore::MAX_PERMITS);
        Self { places: Arc::new(Semaphore::new(limit)), limit, warning: OnceAMinute::default() }
    }

    /// As many places as are asked for, or fewer if the process may not open that many files. Says so
    /// in the log.
    #[must_use]
    pub fn of_process(asked: usize) -> Self {
        let open_files = getrlimit(Resource::Nofile).current;
        let limit = within(open_files, asked);
        if limit < asked {
            info!(
                max_connections = limit,
                asked, open_files, "the limit of open files lowers the bound of connections"
            );
        }
        Self::new(limit)
    }

    /// Waits for a place. A caller who accepts a connection only with a place in hand leaves further
    /// connections in the queue of the system, where they wait for one to end.
    pub async fn place(&mut self) -> ConnectionPermit {
        if let Ok(permit) = self.places.clone().try_acquire_owned() {
            return ConnectionPermit(permit);
        }
        if self.warning.is_due() {
            let limit = self.limit;
            warn!(limit, "the bound of connections is reached; further ones wait until others end");
        }
        match self.places.clone().acquire_owned().await {
            Ok(permit) => ConnectionPermit(permit),
            // The semaphore is never closed.
            Err(_) => std::future::pending().await,
        }
    }
}

/// The number of connections for which the limit of open files has room. `open_files` is None if there is
/// no limit.
fn within(open_files: Option<u64>, asked: usize) -> usize {
    let Some(open_files) = open_files else { return asked };
    let reserved = RESERVED_DESCRIPTORS.min(open_files / 2);
    let room = usize::try_from(open_files - reserved).unwrap_or(usize::MAX);
    asked.min(room.max(1))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::{advance, timeout};

    use super::*;
    use crate::domain::log_capture::LogCapture;

    #[test]
    fn the_limit_of_open_files_leaves_room_for_others() {
        for (open_files, asked, expected) in [
            (None, 10_000, 10_000),
            (Some(u64::MAX), 10_000, 10_000),
            (Some(10_128), 10_000, 10_000),
            (Some(10_127), 10_000, 9_999),
            (Some(1024), 10_000, 896),
            (Some(1024), 100, 100),
            (Some(64), 10_000, 32),
            (Some(1), 10_000, 1),
            (Some(0), 10_000, 1),
        ] {
            assert_eq!(within(open_files, asked), expected, "{open_files:?}, {asked}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_over_the_bound_waits_for_another_to_end() {
        let log = LogCapture::start();
        let mut limit = ConnectionLimit::new(2);
        let (first, _second) = (limit.place().await, limit.place().await);
        assert!(log.lines().is_empty(), "{:?}", log.lines());
        for _ in 0..59 {
            assert!(timeout(Duration::from_secs(1), limit.place()).await.is_err());
        }
        let warning = "WARN the bound of connections is reached; further ones wait until others end \
            limit=2";
        assert_eq!(log.lines(), [warning]);
        advance(Duration::from_secs(1)).await;
        assert!(timeout(Duration::from_secs(1), limit.place()).await.is_err());
        assert_eq!(log.lines(), [warning, warning]);
        drop(first);
        limit.place().await;
        assert_eq!(log.lines(), [warning, warning]);
    }
}
