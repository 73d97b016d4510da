//! How often EC2 is asked for a watched task.

use std::time::Duration;

use crate::cache::ProgressRate;

/// Where nothing is known of a task's pace.
const UNKNOWN_RATE: Duration = Duration::from_secs(5);

/// The shortest and the longest interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// The shortest.
    pub min: Duration,
    /// The longest.
    pub max: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { min: Duration::from_millis(2500), max: Duration::from_secs(30) }
    }
}

impl Bounds {
    /// Short while progress is quick and near the expected end, long when it is slow: about one
    /// question per percent, and one more half-way to the end.
    pub(super) fn interval(&self, rate: Option<ProgressRate>) -> Duration {
        let wanted = match rate {
            None => UNKNOWN_RATE,
            Some(rate) => match (rate.per_percent(), rate.remaining()) {
                (Some(per_percent), Some(remaining)) => per_percent.min(remaining / 2),
                // Nothing gained: the longer it stands still, the longer it is left alone.
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
    fn the_interval_follows_the_pace_within_bounds() {
        let bounds = Bounds::default();
        let millis = |rate| bounds.interval(rate).as_millis();
        assert_eq!(millis(None), 5000);
        assert_eq!(millis(progress_rate(0, 0, 100)), 5000, "just seen");
        assert_eq!(millis(progress_rate(200, 0, 100)), 20000, "queued for long");
        assert_eq!(millis(progress_rate(100_000, 0, 100)), 30000, "bounded above");
        assert_eq!(millis(progress_rate(100, 10, 50)), 10000, "one question per percent");
        assert_eq!(millis(progress_rate(990, 99, 1)), 5000, "half-way to the end");
        assert_eq!(millis(progress_rate(10, 50, 50)), 2500, "bounded below");
        assert_eq!(millis(progress_rate(10, 50, 0)), 2500, "about to end");
    }
}
