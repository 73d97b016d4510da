//! Which tasks a question is about.

use std::collections::BTreeSet;

use super::{BucketName, ImageId, StoreImageTask, TaskState};

/// A state that a question can name.
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

    fn is(self, state: &TaskState) -> bool {
        matches!(
            (self, state),
            (Self::InProgress, TaskState::InProgress)
                | (Self::Completed, TaskState::Completed)
                | (Self::Failed, TaskState::Failed)
        )
    }
}

/// A task passes when each non-empty set has its value. Sets: order and duplicates mean nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct TaskFilter {
    /// Any of these images; empty is any image.
    pub images: BTreeSet<ImageId>,
    /// Any of these states; empty is any state.
    pub states: BTreeSet<TaskStateKind>,
    /// Any of these buckets; empty is any bucket.
    pub buckets: BTreeSet<BucketName>,
}

impl TaskFilter {
    /// Whether the task passes.
    #[must_use]
    pub fn matches(&self, task: &StoreImageTask) -> bool {
        self.could_match(task) && any_state(&self.states, task)
    }

    /// Whether the task passes in some state: what it would take to change the answer.
    #[must_use]
    pub fn could_match(&self, task: &StoreImageTask) -> bool {
        (self.images.is_empty() || self.images.contains(&task.key.image_id))
            && any_bucket(&self.buckets, task)
    }

    /// The listing that EC2 can give of it, which has all tasks that pass and may have others.
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
    states.is_empty() || states.iter().any(|state| state.is(&task.state))
}

fn any_bucket(buckets: &BTreeSet<BucketName>, task: &StoreImageTask) -> bool {
    buckets.is_empty() || buckets.iter().any(|bucket| bucket.as_str() == &*task.key.bucket)
}

/// Most values of all filters of one call together (EC2 API reference, "Filtering": "up to 200
/// filter values in a single request").
const MAX_FILTER_VALUES: usize = 200;

/// What EC2 can filter a listing by. Empty: the listing of everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ListingFilter {
    /// Any of these states; empty is any state.
    pub states: BTreeSet<TaskStateKind>,
    /// Any of these buckets; empty is any bucket.
    pub buckets: BTreeSet<BucketName>,
}

impl ListingFilter {
    /// The unfinished tasks.
    #[must_use]
    pub fn in_progress() -> Self {
        Self { states: [TaskStateKind::InProgress].into(), ..Self::default() }
    }

    /// Whether it lets everything pass.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.states.is_empty() && self.buckets.is_empty()
    }

    /// Whether a task that passes will pass for ever. Its state changes; its bucket does not.
    #[must_use]
    pub fn is_lasting(&self) -> bool {
        self.states.is_empty()
    }

    /// Whether the task passes.
    #[must_use]
    pub fn matches(&self, task: &StoreImageTask) -> bool {
        any_state(&self.states, task) && any_bucket(&self.buckets, task)
    }
}
