//! Unfinished tasks beside their state: which calls told of each, and how it moves along.

use std::time::Duration;

use crate::domain::{CallTime, StoreImageTask};

/// How long an unfinished task may be missing from answers that should have it before it counts as
/// gone, in at least [`MISSING_ANSWERS`] of them. EC2 is eventually consistent: one answer without
/// the task means nothing, however long ago the task was listed.
const MISSING_FOR: Duration = Duration::from_mins(5);
const MISSING_ANSWERS: u32 = 3;

/// The facts about an unfinished task beside its state.
#[derive(Clone, Debug)]
pub(super) struct Progress {
    /// The newest call whose answer tells of it, if only by leaving it out.
    pub(super) observed_at: CallTime,
    /// When it was first seen, and how far it was then: the basis of the estimate.
    first: (CallTime, u8),
    missing: Option<Missing>,
}

/// Answers that should have had the task, since it was last listed.
#[derive(Clone, Debug)]
struct Missing {
    since: CallTime,
    answers: u32,
}

impl Progress {
    /// The task is seen for the first time.
    pub(super) fn begin(task: &StoreImageTask, at: CallTime) -> Self {
        Self { observed_at: at, first: (at, percent(task)), missing: None }
    }

    /// An answer has the task.
    pub(super) fn listed(&mut self, at: CallTime) {
        self.observed_at = self.observed_at.max(at);
        self.missing = None;
    }

    /// An answer should have the task, and has not.
    pub(super) fn left_out(&mut self, at: CallTime) {
        self.observed_at = self.observed_at.max(at);
        let missing = self.missing.get_or_insert(Missing { since: at, answers: 0 });
        missing.answers += 1;
    }

    /// Whether EC2 no longer lists the task.
    pub(super) fn is_gone(&self) -> bool {
        let Some(missing) = &self.missing else { return false };
        let missing_for = self.observed_at.instant.duration_since(missing.since.instant);
        missing.answers >= MISSING_ANSWERS && missing_for >= MISSING_FOR
    }

    /// How the task moves along.
    pub(super) fn rate(&self, task: &StoreImageTask) -> ProgressRate {
        let (first_at, first_progress) = self.first;
        ProgressRate {
            watched_for: self.observed_at.instant.duration_since(first_at.instant),
            gained: percent(task).saturating_sub(first_progress),
            left: 100_u8.saturating_sub(percent(task)),
        }
    }
}

/// The progress of a task, 0 if EC2 has given none yet.
fn percent(task: &StoreImageTask) -> u8 {
    task.progress.unwrap_or(0)
}

/// How a task moves along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProgressRate {
    /// Time between the first and the newest call that told of the task.
    pub watched_for: Duration,
    /// Percent gained in that time.
    pub gained: u8,
    /// Percent left.
    pub left: u8,
}

impl ProgressRate {
    /// How long one percent takes. None until something is gained.
    #[must_use]
    pub fn per_percent(&self) -> Option<Duration> {
        self.watched_for.checked_div(u32::from(self.gained))
    }

    /// How long the rest takes at this rate.
    #[must_use]
    pub fn remaining(&self) -> Option<Duration> {
        self.per_percent()?.checked_mul(u32::from(self.left))
    }
}
