//! The tasks that a request selects, and the part of the selection that EC2 can filter.

use std::{collections::BTreeSet, time::SystemTime};

use super::{
    limits::MAX_FILTER_VALUES,
    name::BucketName,
    task::{StoreImageTask, TaskKey, TaskState},
};

/// A state that a request can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TaskStateKind {
    /// Queued or running.
    InProgress,
    /// Terminal: stored.
    Completed,
    /// Terminal: failed.
    Failed,
}

impl TaskStateKind {
    /// EC2's word for it.
    #[must_use]
    pub fn as_ec2(self) -> &'static str {
        match self {
            Self::InProgress => "InProgress",
            Self::Completed => "Completed",
            Self::Failed => "Failed",
        }
    }

    /// The kind of a state. None for a word that EC2 invented later: no request can name it.
    #[must_use]
    pub fn of(state: &TaskState) -> Option<Self> {
        match state {
            TaskState::InProgress => Some(Self::InProgress),
            TaskState::Completed => Some(Self::Completed),
            TaskState::Failed => Some(Self::Failed),
            TaskState::Other(_) => None,
        }
    }
}

/// Selects tasks: each condition that is set must hold. Sets have neither order nor duplicates.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct TaskFilter {
    /// Any of these states; empty is any state.
    pub states: BTreeSet<TaskStateKind>,
    /// Any of these buckets; empty is any bucket.
    pub buckets: BTreeSet<BucketName>,
    /// Started later than this, in EC2's time; exclusive.
    pub started_after: Option<SystemTime>,
}

impl TaskFilter {
    /// Whether the filter selects the task.
    #[must_use]
    pub fn matches(&self, task: &StoreImageTask) -> bool {
        self.could_match(&task.key) && any_state(&self.states, task)
    }

    /// Whether the filter selects the task in some state. Bucket and start time never change.
    #[must_use]
    pub fn could_match(&self, key: &TaskKey) -> bool {
        let is_late_enough = self.started_after.is_none_or(|limit| key.start_time.0 > limit);
        is_late_enough && any_bucket(&self.buckets, key)
    }

    /// The listing of EC2 that holds every task that the filter selects, and perhaps others.
    #[must_use]
    pub fn listing(&self) -> ListingFilter {
        let fits = self.states.len() + self.buckets.len() <= MAX_FILTER_VALUES;
        ListingFilter {
            states: if fits { self.states.clone() } else { BTreeSet::new() },
            buckets: self.buckets.clone(),
        }
    }
}

fn any_state(states: &BTreeSet<TaskStateKind>, task: &StoreImageTask) -> bool {
    match TaskStateKind::of(&task.state) {
        _ if states.is_empty() => true,
        Some(kind) => states.contains(&kind),
        None => false,
    }
}

fn any_bucket(buckets: &BTreeSet<BucketName>, key: &TaskKey) -> bool {
    buckets.is_empty() || buckets.contains(&*key.bucket)
}

/// What EC2 can filter a listing by. Empty: the listing of all tasks.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ListingFilter {
    /// Any of these states; empty is any state.
    pub states: BTreeSet<TaskStateKind>,
    /// Any of these buckets; empty is any bucket.
    pub buckets: BTreeSet<BucketName>,
}

impl ListingFilter {
    /// The filter of tasks in progress.
    #[must_use]
    pub fn in_progress() -> Self {
        Self { states: [TaskStateKind::InProgress].into(), ..Self::default() }
    }

    /// Whether the listing holds all tasks.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.states.is_empty() && self.buckets.is_empty()
    }

    /// Whether a task that is listed stays listed. Its state changes; its bucket does not.
    #[must_use]
    pub fn is_lasting(&self) -> bool {
        self.states.is_empty()
    }

    /// Whether the task is listed.
    #[must_use]
    pub fn matches(&self, task: &StoreImageTask) -> bool {
        any_state(&self.states, task) && any_bucket(&self.buckets, &task.key)
    }
}
