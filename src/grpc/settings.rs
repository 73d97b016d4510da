//! The settings of the gRPC service.

use std::time::Duration;

/// Settings of the gRPC service.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Time limit for a request to arrive, and for a List to be answered, unless the client's deadline
    /// is earlier.
    pub request_timeout: Duration,
    /// Maximum number of Lists that wait at once, over all scopes.
    pub max_requests: usize,
    /// Maximum total size of the cached responses, in bytes.
    pub max_answer_bytes: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            request_timeout: Duration::from_secs(30),
            max_requests: 20_000,
            max_answer_bytes: 64 << 20,
        }
    }
}
