//! How the cache behaves.

use std::time::Duration;

/// How the cache behaves.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How old an answer may be if its request does not say.
    pub ttl: Duration,
    /// How long past the TTL such a request gets the old answer at once, while the cache refreshes
    /// it in the background. Zero switches this off.
    pub stale_while_revalidate: Duration,
    /// How long past the TTL such a request gets the old answer if the refresh fails transiently,
    /// takes longer than two seconds, or finds the call budget spent. Zero switches this off.
    pub stale_if_error: Duration,
    /// How long a refusal of EC2's (denied, bad request) is remembered. Zero switches this off.
    pub refusal_ttl: Duration,
    /// Most callers of `get` that may wait for EC2 at once in one scope.
    pub max_waiting: usize,
    /// Most different queries of theirs that may wait for EC2 at once in one scope.
    pub max_queries: usize,
    /// Most refreshes of watches that may wait for EC2 at once in one scope, apart from `get`.
    pub max_refreshes: usize,
    /// Most tasks that are kept, all scopes together. Tasks in progress, watched tasks and first
    /// pages are kept beyond that.
    pub max_tasks: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            ttl: Duration::from_secs(5),
            stale_while_revalidate: Duration::from_secs(5),
            stale_if_error: Duration::from_mins(5),
            refusal_ttl: Duration::from_secs(1),
            max_waiting: 100_000,
            max_queries: 10_000,
            max_refreshes: 50_000,
            max_tasks: 200_000,
        }
    }
}
