//! Filters: the tasks that a query selects, and the listings that EC2 can filter.

use std::collections::BTreeSet;

use super::{
    image::ImageId,
    limits::MAX_FILTER_VALUES,
    name::BucketName,
    task::{StoreImageTask, TaskState},
};

/// A task state that a filter can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TaskStateKind {
    /// The task is queued or running.
    InProgress,
    /// The task has stored the image. Terminal.
    Completed,
    /// The task has failed. Terminal.
    Failed,
}

impl TaskStateKind {
    /// EC2's word for the state.
    #[must_use]
    pub fn as_ec2(self) -> &'static str {
        match self {
            Self::InProgress => "InProgress",
            Self::Completed => "Completed",
            Self::Failed => "Failed",
        }
    }

    /// The kind of a task's state. None for a state that no filter can name.
    fn of(state: &TaskState) -> Option<Self> {
        match state {
            TaskState::InProgress => Some(Self::InProgress),
            TaskState::Completed => Some(Self::Completed),
            TaskState::Failed => Some(Self::Failed),
            TaskState::Other(_) => None,
        }
    }
}

/// The tasks that a query selects. A task matches if each non-empty set contains its value.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct TaskFilter {
    /// The images to match. Empty matches any image.
    pub images: BTreeSet<ImageId>,
    /// The states to match. Empty matches any state.
    pub states: BTreeSet<TaskStateKind>,
    /// The buckets to match. Empty matches any bucket.
    pub buckets: BTreeSet<BucketName>,
}

impl TaskFilter {
    /// Returns whether the task matches.
    #[must_use]
    pub fn matches(&self, task: &StoreImageTask) -> bool {
        self.could_match(task) && state_matches(&self.states, task)
    }

    /// Returns whether the task would match in some state. If so, a change of its state can change
    /// the result of the query.
    #[must_use]
    pub fn could_match(&self, task: &StoreImageTask) -> bool {
        (self.images.is_empty() || self.images.contains(&task.key.image_id))
            && bucket_matches(&self.buckets, task)
    }

    /// The narrowest listing that contains all matching tasks and that EC2 can filter. It may
    /// contain other tasks too: EC2 cannot filter by image, nor by more than 200 values.
    #[must_use]
    pub fn listing(&self) -> ListingFilter {
        let fits = self.states.len() + self.buckets.len() <= MAX_FILTER_VALUES;
        ListingFilter {
            states: if fits { self.states.clone() } else { BTreeSet::new() },
            buckets: self.buckets.clone(),
        }
    }
}

/// A filter that EC2 can apply to a listing. The empty filter selects all tasks.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ListingFilter {
    /// The states to match. Empty matches any state.
    pub states: BTreeSet<TaskStateKind>,
    /// The buckets to match. Empty matches any bucket.
    pub buckets: BTreeSet<BucketName>,
}

impl ListingFilter {
    /// The filter for tasks that are in progress.
    #[must_use]
    pub fn in_progress() -> Self {
        Self { states: [TaskStateKind::InProgress].into(), ..Self::default() }
    }

    /// Returns whether the filter is empty, so that every task matches.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.states.is_empty() && self.buckets.is_empty()
    }

    /// Returns whether a task that matches once matches forever. A task's state can change, but its
    /// bucket cannot.
    #[must_use]
    pub fn is_lasting(&self) -> bool {
        self.states.is_empty()
    }

    /// Returns whether the task matches.
    #[must_use]
    pub fn matches(&self, task: &StoreImageTask) -> bool {
        state_matches(&self.states, task) && bucket_matches(&self.buckets, task)
    }
}

fn state_matches(states: &BTreeSet<TaskStateKind>, task: &StoreImageTask) -> bool {
    if states.is_empty() {
        return true;
    }
    match TaskStateKind::of(&task.state) {
        Some(kind) => states.contains(&kind),
        None => false,
    }
}

fn bucket_matches(buckets: &BTreeSet<BucketName>, task: &StoreImageTask) -> bool {
    buckets.is_empty() || buckets.contains(&*task.key.bucket)
}
