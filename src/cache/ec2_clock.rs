//! What time it is by EC2's clock, judged by the tasks that EC2 lists and by the monotonic clock.
//!
//! The gateway's wall clock may be wrong and may leap, so neither the age of a task nor the watermark
//! of a call is read from it.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use crate::domain::{Answer, CallTime};

/// How long EC2 lists a task (API reference: "tasks of the last 31 days").
pub(super) const LISTED_FOR: Duration = Duration::from_hours(744);

/// EC2 is eventually consistent: a new task may appear late, below others that started after it. What
/// is older than this has appeared (EC2 API reference, "Eventual consistency", waits for up to five
/// minutes where it advises to wait).
const APPEARS_WITHIN: Duration = Duration::from_mins(5);

/// How far the wall clock may be off at a call that EC2 answers. EC2 refuses signatures that are older
/// than five minutes (IAM user guide, "Signature Version 4").
const MAX_SKEW: Duration = Duration::from_mins(5);

/// The least difference of two times.
const INSTANT: Duration = Duration::from_nanos(1);

/// A time of EC2's at a moment of the monotonic clock.
#[derive(Clone, Copy, Debug)]
struct Reference {
    moment: Instant,
    time: SystemTime,
}

impl Reference {
    fn at(&self, moment: Instant) -> SystemTime {
        self.time + moment.saturating_duration_since(self.moment)
    }
}

/// EC2's clock.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ec2Clock {
    /// The wall clock at the first call, corrected by what EC2 lists.
    estimate: Option<Reference>,
    /// The start of the newest task that was listed: EC2's clock is at least as late.
    least: Option<Reference>,
}

impl Ec2Clock {
    /// Takes over what an answer tells. No listed task starts in EC2's future, and none started
    /// more than 31 days ago.
    pub(super) fn learn(&mut self, answer: &Answer, at: CallTime) {
        let moment = at.instant;
        let estimate = self.estimate.get_or_insert(Reference { moment, time: at.wall });
        for task in &answer.tasks {
            let start = task.key.start_time.0;
            let newest = Reference { moment, time: start };
            if self.least.is_none_or(|least| least.at(moment) < start) {
                self.least = Some(newest);
            }
            let now = estimate.at(moment);
            if now < start {
                *estimate = newest;
            } else if now >= start + LISTED_FOR {
                *estimate = Reference { moment, time: start + LISTED_FOR - INSTANT };
            }
        }
    }

    /// EC2's time at a moment, as far as it is known.
    pub(super) fn time(&self, moment: Instant) -> SystemTime {
        earlier(self.estimate, moment, Duration::ZERO)
    }

    /// No task that started at this time or before can appear after a call of this moment.
    pub(super) fn watermark(&self, moment: Instant) -> SystemTime {
        let by_least = earlier(self.least, moment, APPEARS_WITHIN);
        by_least.max(earlier(self.estimate, moment, APPEARS_WITHIN + MAX_SKEW))
    }

    /// A call of this moment no longer lists tasks that started at this time or before.
    pub(super) fn forgotten(&self, moment: Instant) -> SystemTime {
        earlier(self.estimate, moment, LISTED_FOR)
    }

    /// The moment until which a task that started at this time is listed.
    pub(super) fn listed_until(&self, start: SystemTime) -> Option<Instant> {
        let Reference { moment, time } = self.estimate?;
        let left = (start + LISTED_FOR).duration_since(time).unwrap_or(Duration::ZERO);
        moment.checked_add(left)
    }
}

/// So much earlier than a clock shows at a moment.
fn earlier(clock: Option<Reference>, moment: Instant, by: Duration) -> SystemTime {
    let Some(clock) = clock else { return SystemTime::UNIX_EPOCH };
    clock.at(moment).checked_sub(by).unwrap_or(SystemTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::tests::support::{Clock, answer};

    const MINUTE: Duration = Duration::from_secs(60);
    const DAY: Duration = Duration::from_secs(86_400);

    fn leapt(call: CallTime, ahead: Duration) -> CallTime {
        CallTime { wall: call.wall + ahead, ..call }
    }

    #[test]
    fn a_wall_clock_that_leaps_changes_nothing() {
        let clock = Clock::new();
        let tasks = answer(clock.done([1, 10]), None);
        let mut ec2 = Ec2Clock::default();
        ec2.learn(&tasks, clock.at(0));
        let right = (ec2.forgotten(clock.at(60).instant), ec2.watermark(clock.at(60).instant));
        ec2.learn(&tasks, leapt(clock.at(30), 40 * DAY));
        let now = (ec2.forgotten(clock.at(60).instant), ec2.watermark(clock.at(60).instant));
        assert_eq!(now, right);
        assert_eq!(right, (clock.at(60).wall - LISTED_FOR, clock.at(60).wall - 6 * MINUTE));
    }

    #[test]
    fn a_wall_clock_that_was_wrong_from_the_start_is_corrected_by_what_is_listed() {
        let clock = Clock::new();
        let tasks = clock.done([1, 10]);
        let oldest = tasks[1].key.start_time.0;
        for ahead in [true, false] {
            let call = clock.at(0);
            let wrong = if ahead { call.wall + 40 * DAY } else { call.wall - 40 * DAY };
            let mut ec2 = Ec2Clock::default();
            ec2.learn(&answer(tasks.clone(), None), CallTime { wall: wrong, ..call });
            assert!(ec2.forgotten(call.instant) <= oldest, "ahead: {ahead}");
        }
    }
}
