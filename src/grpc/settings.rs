//! The settings of the gRPC service.

use std::time::Duration;

/// How the gRPC service behaves.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Time that a List, or the beginning of a Watch, may take if the client sets no deadline.
    pub request_timeout: Duration,
    /// Bytes of encoded responses that are kept to be sent again.
    pub max_answer_bytes: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { request_timeout: Duration::from_secs(30), max_answer_bytes: 64 << 20 }
    }
}
