//! The queries that callers put to the cache.

use std::{collections::BTreeSet, sync::Arc, time::SystemTime};

use tokio::time::Instant;

use crate::domain::{BucketName, ImageId, TaskFilter, TaskKey, TaskStateKind};

/// A caller's question.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Query {
    /// A page of the tasks that a filter selects, newest first.
    Listing {
        /// Which tasks.
        filter: TaskFilter,
        /// The task that the page before ended with. None begins at the newest task.
        after: Option<TaskKey>,
        /// Most tasks on the page.
        count: usize,
    },
    /// The latest candidate of each of some images. Candidates are the tasks of the image that are
    /// into one of the buckets and started after the time, each if given.
    Images {
        /// The images, distinct, in the order of the answer.
        images: Arc<[ImageId]>,
        /// Any of these buckets; empty is any bucket.
        buckets: BTreeSet<BucketName>,
        /// Started later than this, in EC2's time; exclusive.
        started_after: Option<SystemTime>,
        /// Leaves out latest candidates in other states; empty leaves out none.
        states: BTreeSet<TaskStateKind>,
    },
    /// The task of an image that a watch follows: the first candidate that started after a time, or
    /// without one the latest candidate.
    Candidate {
        /// The image.
        image: ImageId,
        /// The bucket of the candidates. None is any bucket.
        bucket: Option<BucketName>,
        /// Candidates started later than this, in EC2's time; exclusive.
        started_after: Option<SystemTime>,
        /// The listing may be read further, as for a List.
        reads_further: bool,
        /// If there is no candidate, a look-up must tell so, too: it shows whether EC2 refuses the image.
        looks_up: bool,
    },
    /// One task.
    Task(TaskKey),
}

impl Query {
    /// The latest task of one image, into one bucket or into any.
    #[must_use]
    pub fn latest(image: ImageId, bucket: Option<&BucketName>) -> Self {
        Self::Images {
            images: [image].into(),
            buckets: bucket.into_iter().cloned().collect(),
            started_after: None,
            states: BTreeSet::new(),
        }
    }

    /// The same about the first images alone. A query of another kind stays as it is.
    #[must_use]
    pub(super) fn of_first_images(&self, count: usize) -> Self {
        match self {
            Self::Images { images, buckets, started_after, states } => Self::Images {
                images: images[..count.min(images.len())].into(),
                buckets: buckets.clone(),
                started_after: *started_after,
                states: states.clone(),
            },
            Self::Listing { .. } | Self::Candidate { .. } | Self::Task(_) => self.clone(),
        }
    }

    /// How many images it is about.
    pub(super) fn images(&self) -> usize {
        match self {
            Self::Images { images, .. } => images.len(),
            Self::Candidate { .. } => 1,
            Self::Listing { .. } | Self::Task(_) => 0,
        }
    }

    /// Bytes that it takes to keep, roughly.
    pub(super) fn weight(&self) -> usize {
        let (images, buckets) = match self {
            Self::Listing { filter, .. } => (0, filter.buckets.len()),
            Self::Images { images, buckets, .. } => (images.len(), buckets.len()),
            Self::Candidate { bucket, .. } => (0, usize::from(bucket.is_some())),
            Self::Task(_) => (0, 0),
        };
        size_of::<Self>() + images * size_of::<ImageId>() + buckets * BUCKET
    }
}

/// Bytes of a bucket's name with its place in a set, roughly.
const BUCKET: usize = 64;

/// A query that is not answered yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PendingQuery {
    /// The caller's question.
    pub(super) query: Arc<Query>,
    /// The answer must be from calls that started at this time or later.
    pub(super) not_before: Instant,
}
