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
        self.could_match(task)
            && (self.states.is_empty() || self.states.iter().any(|state| state.is(&task.state)))
    }

    /// Whether the task passes in some state: what it would take to change the answer.
    #[must_use]
    pub fn could_match(&self, task: &StoreImageTask) -> bool {
        (self.images.is_empty() || self.images.contains(&task.key.image_id))
            && (self.buckets.is_empty()
                || self.buckets.iter().any(|bucket| bucket.as_str() == &*task.key.bucket))
    }
}
