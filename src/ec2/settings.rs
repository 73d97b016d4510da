//! The settings of the calls to EC2.

use std::time::Duration;

use super::{budget::RateSettings, retry::RetrySettings};

/// How the gateway calls EC2.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How long one attempt may take.
    pub attempt_timeout: Duration,
    /// How many attempts a call has, and the pauses between them.
    pub retry: RetrySettings,
    /// How many attempts a scope may make.
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
