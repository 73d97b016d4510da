//! The task that a watch follows.

use std::time::SystemTime;

use crate::{
    cache::Query,
    domain::{BucketName, ImageId, TaskKey},
};

/// The task that a watch follows.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// This task.
    Task(TaskKey),
    /// A task that the watch has yet to find.
    Candidate(Candidate),
}

/// A task of an image: the first one that started after a time, or without one the latest.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Candidate {
    /// The image.
    pub image: ImageId,
    /// The bucket of the task. None is any bucket.
    pub bucket: Option<BucketName>,
    /// The task started later than this, in EC2's time; exclusive.
    pub started_after: Option<SystemTime>,
}

/// The EC2 calls that may be made for a candidate beside the usual ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Means {
    /// The listing may be read for a candidate that look-ups do not tell.
    pub(super) reads_further: bool,
    /// If there is none, the image is looked up, to show whether EC2 refuses it.
    pub(super) looks_up: bool,
}

impl Target {
    /// The query whose answer tells of the target.
    pub(super) fn query(&self, by: Means) -> Query {
        match self {
            Self::Task(key) => Query::Task(key.clone()),
            Self::Candidate(candidate) => {
                let Candidate { image, bucket, started_after } = candidate.clone();
                let Means { reads_further, looks_up } = by;
                Query::Candidate { image, bucket, started_after, reads_further, looks_up }
            }
        }
    }

    /// The image of the task.
    pub(super) fn image(&self) -> ImageId {
        match self {
            Self::Task(key) => key.image_id,
            Self::Candidate(candidate) => candidate.image,
        }
    }

    /// Whether a task of the image counts.
    pub(super) fn counts(&self, key: &TaskKey) -> bool {
        match self {
            Self::Task(wanted) => wanted == key,
            Self::Candidate(Candidate { bucket, started_after, .. }) => {
                let is_late_enough = started_after.is_none_or(|limit| key.start_time.0 > limit);
                is_late_enough && bucket.as_ref().is_none_or(|name| name.as_str() == &*key.bucket)
            }
        }
    }
}
