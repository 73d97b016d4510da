//! A question to the cache and its answer, at the level of the contract.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::time::Instant;

use crate::{
    cache::{CacheError, Outcome},
    domain::{BucketName, ImageId, StoreImageTask, TaskKey, TaskStateKind},
};

/// What a caller asks for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Ask {
    /// A page of all tasks that are selected.
    Listing(ListingAsk),
    /// The latest candidate of each of these images.
    Images(ImagesAsk),
    /// One task that a caller has seen.
    Task(TaskKey),
}

/// A page of a listing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct ListingAsk {
    /// Any of these states; empty is any state.
    pub(super) states: BTreeSet<TaskStateKind>,
    /// Any of these buckets; empty is any bucket.
    pub(super) buckets: BTreeSet<BucketName>,
    /// Starts of selected tasks are later than this time of EC2's.
    pub(super) started_after: Option<SystemTime>,
    /// The task that the page before ended with.
    pub(super) after: Option<TaskKey>,
    /// Most tasks on the page.
    pub(super) count: usize,
}

/// A page of images.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct ImagesAsk {
    /// The images of this page, in the order of the request.
    pub(super) images: Vec<ImageId>,
    /// Any of these states; empty is any state.
    pub(super) states: BTreeSet<TaskStateKind>,
    /// Any of these buckets; empty is any bucket.
    pub(super) buckets: BTreeSet<BucketName>,
    /// Starts of candidates are later than this time of EC2's.
    pub(super) started_after: Option<SystemTime>,
}

/// What a caller is told.
#[derive(Clone, Debug)]
pub(super) struct Told {
    /// The tasks, in the order of the answer.
    pub(super) tasks: Vec<Arc<StoreImageTask>>,
    /// Images of which no candidate is known.
    pub(super) missing: Vec<Missing>,
    /// Other tasks follow, or may follow.
    pub(super) more: bool,
    /// When the oldest call started that the answer rests on. None if the answer cannot change.
    pub(super) as_of: Option<Instant>,
    /// How the answer came about.
    pub(super) outcome: Outcome,
}

/// An image without a candidate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Missing {
    /// The image.
    pub(super) image: ImageId,
    /// EC2's code if it refuses to look the image up.
    pub(super) ec2_code: Option<Arc<str>>,
    /// The time of EC2's down to which the listing is known. None if
    /// it is certain that there is no candidate.
    pub(super) known_since: Option<SystemTime>,
}

/// One caller's question and its end.
#[derive(Clone, Debug)]
pub(super) struct Heard {
    /// The question.
    pub(super) ask: Ask,
    /// How old the answer may be. None leaves it to the settings.
    pub(super) max_staleness: Option<Duration>,
    /// When it was asked.
    pub(super) arrived: Instant,
    /// When the caller was told, or gave up.
    pub(super) ended: Instant,
    /// What the caller was told. None if it gave up.
    pub(super) result: Option<Result<Told, CacheError>>,
}

impl Ask {
    /// Whether a task can be selected, in whatever state it is.
    pub(super) fn selects(&self, key: &TaskKey) -> bool {
        match self {
            Self::Listing(ask) => ask.selects(key),
            Self::Images(ask) => ask.images.contains(&key.image_id) && ask.is_candidate(key),
            Self::Task(wanted) => wanted == key,
        }
    }
}

impl ListingAsk {
    /// The first page of all tasks.
    pub(super) fn everything(count: usize) -> Self {
        Self { count, ..Self::default() }
    }

    fn selects(&self, key: &TaskKey) -> bool {
        names_bucket(&self.buckets, key) && starts_after(self.started_after, key)
    }

    /// Whether a task in this state is selected and stands on this page or a later one.
    pub(super) fn wants(&self, task: &StoreImageTask) -> bool {
        let follows = self.after.as_ref().is_none_or(|after| task.key > *after);
        follows && self.selects(&task.key) && names_state(&self.states, task)
    }
}

impl ImagesAsk {
    /// Whether a task of one of the images is a candidate.
    pub(super) fn is_candidate(&self, key: &TaskKey) -> bool {
        names_bucket(&self.buckets, key) && starts_after(self.started_after, key)
    }

    /// Whether a task in this state stays.
    pub(super) fn keeps(&self, task: &StoreImageTask) -> bool {
        names_state(&self.states, task)
    }
}

fn names_state(states: &BTreeSet<TaskStateKind>, task: &StoreImageTask) -> bool {
    states.is_empty() || states.iter().any(|state| state.as_ec2() == task.state.as_ec2())
}

pub(super) fn names_bucket(buckets: &BTreeSet<BucketName>, key: &TaskKey) -> bool {
    buckets.is_empty() || buckets.iter().any(|bucket| *bucket.as_str() == *key.bucket)
}

fn starts_after(limit: Option<SystemTime>, key: &TaskKey) -> bool {
    limit.is_none_or(|limit| key.start_time.0 > limit)
}
