//! A simulated task: its plan, and EC2's description of it at a given time.

use std::time::{Duration, SystemTime};

use super::answer::Item;

/// EC2's word for a task that is queued or runs.
const IN_PROGRESS: &str = "InProgress";

/// The plan of a task, from its start to its end.
#[derive(Clone, Debug, PartialEq)]
pub struct TaskPlan {
    /// The image.
    pub image_id: String,
    /// The bucket.
    pub bucket: String,
    /// The start time of the task.
    pub start: SystemTime,
    /// The time from which EC2 lists the task.
    pub listed_from: SystemTime,
    /// The time that the task waits in the queue, without progress.
    pub queued_for: Duration,
    /// The time that the task then takes from 0 to 100 percent.
    pub runs_for: Duration,
    /// The end of the task.
    pub outcome: Outcome,
    /// EC2's word for the state while the task runs. An empty one is left out.
    pub running_state: String,
    /// Whether EC2 leaves out the percentage, from this progress on.
    pub omits_progress_from: Option<u8>,
}

/// The end of a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The task stores the image.
    Completes,
    /// The task fails.
    Fails {
        /// The progress at which the task fails, in percent.
        at: u8,
        /// The reason that EC2 gives.
        reason: String,
    },
}

impl TaskPlan {
    /// A task that runs for this long and completes.
    #[must_use]
    pub fn new(image_id: &str, bucket: &str, start: SystemTime, runs_for: Duration) -> Self {
        Self {
            image_id: image_id.to_owned(),
            bucket: bucket.to_owned(),
            start,
            listed_from: start,
            queued_for: Duration::ZERO,
            runs_for,
            outcome: Outcome::Completes,
            running_state: IN_PROGRESS.to_owned(),
            omits_progress_from: None,
        }
    }

    /// The same task, which fails at this progress for this reason.
    #[must_use]
    pub fn failing(mut self, at: u8, reason: &str) -> Self {
        self.outcome = Outcome::Fails { at, reason: reason.to_owned() };
        self
    }

    /// The same task, which fails this long after its start.
    #[must_use]
    pub fn failing_after(mut self, after: Duration) -> Self {
        self.runs_for = after * 2;
        self.failing(50, "The bucket policy does not allow EC2 to write the object")
    }

    /// Returns whether the task is in progress at this time.
    #[must_use]
    pub fn is_running(&self, now: SystemTime) -> bool {
        self.at(now).store_task_state == IN_PROGRESS
    }

    /// The task as EC2 describes it at this time.
    pub(super) fn at(&self, now: SystemTime) -> Item {
        let percent = self.percent(now);
        let (state, progress, reason) = match &self.outcome {
            Outcome::Fails { at, reason } if percent >= *at => {
                ("Failed", *at, Some(reason.clone()))
            }
            _ if percent == 100 => ("Completed", 100, None),
            _ => (self.running_state.as_str(), percent, None),
        };
        Item {
            ami_id: self.image_id.clone(),
            task_start_time: self.start,
            bucket: self.bucket.clone(),
            s3_object_key: format!("{}.bin", self.image_id),
            progress_percentage: self.shown(progress),
            store_task_state: state.to_owned(),
            store_task_failure_reason: reason,
        }
    }

    /// The percentage, unless EC2 leaves it out.
    fn shown(&self, progress: u8) -> Option<u8> {
        match self.omits_progress_from {
            Some(from) if progress >= from => None,
            _ => Some(progress),
        }
    }

    fn percent(&self, now: SystemTime) -> u8 {
        let ran = now.duration_since(self.start + self.queued_for).unwrap_or_default();
        let done = ran.as_secs_f64() / self.runs_for.as_secs_f64().max(f64::MIN_POSITIVE);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 100")]
        let percent = (done * 100.0).clamp(0.0, 100.0) as u8;
        percent
    }
}

/// The time without fractions of a millisecond, as EC2 gives start times.
pub(super) fn whole_millis(time: SystemTime) -> SystemTime {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    SystemTime::UNIX_EPOCH + Duration::new(since.as_secs(), since.subsec_millis() * 1_000_000)
}
