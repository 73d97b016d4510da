//! A log line that is written at most once a minute.

use std::time::Duration;

use tokio::time::Instant;

const MINUTE: Duration = Duration::from_mins(1);

/// Remembers when a log line was written last.
#[derive(Debug, Default)]
pub(super) struct OnceAMinute(Option<Instant>);

impl OnceAMinute {
    /// Returns whether the line may be written. If so, it may be again in a minute.
    pub(super) fn is_due(&mut self) -> bool {
        let is_due = self.0.is_none_or(|last| last.elapsed() >= MINUTE);
        if is_due {
            self.0 = Some(Instant::now());
        }
        is_due
    }
}
