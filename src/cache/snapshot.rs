//! The snapshot: everything that EC2 has told of one scope, and as of when.
//!
//! An immutable value. A merge (`merge.rs`) makes the next one out of an answer; both share what did
//! not change, so that readers hold a consistent state for as long as they like, and a merge costs
//! what the answer costs, not what the snapshot holds.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use imbl::OrdMap;
use tokio::time::Instant;

use super::{
    coverage::Coverage,
    ec2_clock::Ec2Clock,
    pages::Pages,
    progress::{Progress, ProgressRate},
    tasks::Tasks,
};
use crate::domain::{CallTime, ImageId, ListingFilter, StoreImageTask, TaskFilter, TaskKey};

/// A look-up of an image.
#[derive(Clone, Debug)]
pub(super) struct Lookup {
    /// When its call started.
    pub(super) at: CallTime,
    /// The latest task of the image, or why EC2 told none.
    pub(super) told: Told,
    /// No task of the image that started at this time or before can still appear.
    pub(super) watermark: SystemTime,
}

/// The result of a look-up of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// Its latest task, or that it has none.
    Latest(Option<TaskKey>),
    /// EC2 refuses to look the image up, with this code. That says nothing about its tasks.
    Refused(Arc<str>),
}

/// Everything that EC2 has told of one scope.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    pub(super) version: u64,
    pub(super) newest_call: Option<CallTime>,
    pub(super) clock: Ec2Clock,
    pub(super) tasks: Tasks,
    pub(super) unfinished: OrdMap<TaskKey, Progress>,
    pub(super) lookups: OrdMap<ImageId, Lookup>,
    /// How far down the listing of all tasks is known.
    pub(super) coverage: Coverage,
    /// The pages that were read of each listing, that of all tasks included.
    pub(super) pages: OrdMap<ListingFilter, Pages>,
}

impl Snapshot {
    /// Grows with every merge.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// A task by its key.
    #[must_use]
    pub fn task(&self, key: &TaskKey) -> Option<&Arc<StoreImageTask>> {
        self.tasks.get(key)
    }

    /// All known tasks after a place, in the listing's order.
    pub fn tasks_after(
        &self,
        after: Option<&TaskKey>,
    ) -> impl Iterator<Item = &Arc<StoreImageTask>> {
        self.tasks.after(after)
    }

    /// All known tasks of an image, newest first.
    pub fn tasks_of(&self, image: ImageId) -> impl Iterator<Item = &Arc<StoreImageTask>> {
        self.tasks.of(image)
    }

    /// The latest known task of an image, into one bucket or into any.
    #[must_use]
    pub fn latest(&self, image: &ImageId, bucket: Option<&str>) -> Option<&Arc<StoreImageTask>> {
        let Some(bucket) = bucket else { return self.tasks.latest(image) };
        self.tasks_of(*image).find(|task| *task.key.bucket == *bucket)
    }

    /// The latest known task of an image that a filter could select, whatever its state.
    pub(super) fn candidate(
        &self,
        image: ImageId,
        filter: &TaskFilter,
    ) -> Option<&Arc<StoreImageTask>> {
        self.tasks_of(image).find(|task| filter.could_match(&task.key))
    }

    /// The newest call whose answer tells of an unfinished task.
    #[must_use]
    pub fn observed_at(&self, key: &TaskKey) -> Option<CallTime> {
        self.unfinished.get(key).map(|progress| progress.observed_at)
    }

    /// How an unfinished task moves along.
    #[must_use]
    pub fn progress_rate(&self, task: &StoreImageTask) -> Option<ProgressRate> {
        self.unfinished.get(&task.key).map(|progress| progress.rate(task))
    }

    /// When an unfinished task will be completed at its present rate. None until it has one.
    #[must_use]
    pub fn estimated_completion(&self, task: &StoreImageTask) -> Option<SystemTime> {
        let remaining: Duration = self.progress_rate(task)?.remaining()?;
        self.observed_at(&task.key)?.wall.checked_add(remaining)
    }

    /// The newest call that was merged.
    #[must_use]
    pub fn newest_call(&self) -> Option<CallTime> {
        self.newest_call
    }

    /// How many tasks are known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tasks.len()
    }

    /// Whether no task is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }

    /// The pages that were read of a listing.
    pub(super) fn pages(&self, filter: &ListingFilter) -> Option<&Pages> {
        self.pages.get(filter)
    }

    /// Whether the first page of all tasks is new enough.
    pub(super) fn first_page_is_fresh(&self, not_before: Instant) -> bool {
        self.coverage.first_page_at().is_some_and(|at| at.instant >= not_before)
    }

    /// Whether a look-up need not tell of this task: it names only the latest task of an image, or one
    /// of those that started together last, and EC2 refuses some images.
    pub(super) fn is_hidden(&self, key: &TaskKey) -> bool {
        let mut others = self.tasks.of(key.image_id).filter(|task| task.key != *key);
        let has_rival = others.next().is_some_and(|other| other.key.start_time <= key.start_time);
        has_rival || self.is_refused(&key.image_id)
    }

    /// EC2's code if it refused to look an image up when it was last asked.
    #[must_use]
    pub fn refusal_of(&self, image: &ImageId) -> Option<Arc<str>> {
        match &self.lookups.get(image)?.told {
            Told::Refused(code) => Some(code.clone()),
            Told::Latest(_) => None,
        }
    }

    /// The start of the newest look-up of an image, if it is remembered.
    #[must_use]
    pub fn looked_up_at(&self, image: &ImageId) -> Option<Instant> {
        Some(self.lookups.get(image)?.at.instant)
    }

    /// Whether a task is so old that EC2 lists it no longer. False before the first answer.
    #[must_use]
    pub fn is_too_old(&self, key: &TaskKey, now: Instant) -> bool {
        key.start_time.0 <= self.clock.forgotten(now)
    }

    /// Whether EC2 refused to look an image up when it was last asked.
    pub(super) fn is_refused(&self, image: &ImageId) -> bool {
        let lookup = self.lookups.get(image);
        lookup.is_some_and(|lookup| matches!(lookup.told, Told::Refused(_)))
    }
}
