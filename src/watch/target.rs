//! The target of a watch: one task, or the next task of an image.

use std::sync::Arc;

use crate::{
    cache::{Query, Snapshot},
    domain::{BucketName, ImageId, StoreImageTask, TaskKey},
};

/// The task that a topic follows.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Target {
    /// A task that EC2 has shown.
    Task(TaskKey),
    /// The first task that appears for an image without a task, into one bucket or into any.
    NextTask { image: ImageId, bucket: Option<BucketName> },
}

impl Target {
    /// The query whose refresh updates the target.
    pub(super) fn query(&self) -> Query {
        match self {
            Self::Task(key) => Query::Task(key.clone()),
            Self::NextTask { image, bucket } => Query::latest(*image, bucket.as_ref()),
        }
    }

    /// The task in a snapshot, if the snapshot has it.
    pub(super) fn find<'a>(&self, snapshot: &'a Snapshot) -> Option<&'a Arc<StoreImageTask>> {
        match self {
            Self::Task(key) => snapshot.task(key),
            Self::NextTask { image, bucket } => {
                snapshot.latest(image, bucket.as_ref().map(BucketName::as_str))
            }
        }
    }
}
