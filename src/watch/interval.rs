//! The interval between two refreshes of a watched task.

use std::time::Duration;

use crate::cache::ProgressRate;

/// The interval while the progress rate of a task is unknown.
const UNKNOWN_RATE: Duration = Duration::from_secs(5);

/// The shortest and the longest interval between two refreshes of a watched task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// The shortest interval.
    pub min: Duration,
    /// The longest interval. If it is below `min`, `min` applies.
    pub max: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { min: Duration::from_millis(2500), max: Duration::from_secs(30) }
    }
}

impl Bounds {
    /// The interval at this progress rate: the time for one percent, or half of the remaining time
    /// if that is shorter. The longer a task makes no progress, the longer its interval.
    pub(super) fn interval(&self, rate: Option<ProgressRate>) -> Duration {
        let wanted = match rate {
            None => UNKNOWN_RATE,
            Some(rate) => match (rate.per_percent(), rate.remaining()) {
                (Some(per_percent), Some(remaining)) => per_percent.min(remaining / 2),
                _ => UNKNOWN_RATE.max(rate.watched_for / 10),
            },
        };
        wanted.clamp(self.min, self.max.max(self.min))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress_rate(seconds: u64, gained: u8, left: u8) -> Option<ProgressRate> {
        Some(ProgressRate { watched_for: Duration::from_secs(seconds), gained, left })
    }

    #[test]
    fn the_interval_follows_the_progress_rate_within_bounds() {
        let bounds = Bounds::default();
        let millis = |rate| bounds.interval(rate).as_millis();
        assert_eq!(millis(None), 5000);
        assert_eq!(millis(progress_rate(0, 0, 100)), 5000, "just seen");
        assert_eq!(millis(progress_rate(200, 0, 100)), 20000, "without progress for 200 s");
        assert_eq!(millis(progress_rate(100_000, 0, 100)), 30000, "the longest interval");
        assert_eq!(millis(progress_rate(100, 10, 50)), 10000, "one refresh per percent");
        assert_eq!(millis(progress_rate(990, 99, 1)), 5000, "half-way to the expected end");
        assert_eq!(millis(progress_rate(10, 50, 50)), 2500, "the shortest interval");
        assert_eq!(millis(progress_rate(10, 50, 0)), 2500, "the expected end has come");
    }
}
