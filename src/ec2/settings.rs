//! The settings of the calls to EC2.

use std::time::Duration;

use super::{budget::RateSettings, retry::RetrySettings};

/// Settings of the calls to EC2.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Time limit of one attempt.
    pub attempt_timeout: Duration,
    /// The number of attempts of a call, and the pauses between them.
    pub retry: RetrySettings,
    /// The rate at which a scope may make attempts.
    pub rate: RateSettings,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            attempt_timeout: Duration::from_secs(10),
            retry: RetrySettings::default(),
            rate: RateSettings::default(),
        }
    }
}
