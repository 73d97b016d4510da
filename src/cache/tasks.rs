//! All known tasks of a scope, in the orders in which they are looked for. Persistent, as the snapshot
//! is: a clone is cheap and shares what does not change.

use std::{ops::Bound, sync::Arc};

use imbl::{OrdMap, OrdSet};

use super::order::{
    ByBucket, ByImage, ByState, ByTime, Merged, Order, Range, Sorted, kind_of, place, top,
};
use crate::domain::{BucketName, ImageId, StoreImageTask, TaskFilter, TaskKey, TaskStateKind};

/// The kind of a task's state. None is a word that this gateway does not know.
type Kind = Option<TaskStateKind>;

const IN_PROGRESS: Kind = Some(TaskStateKind::InProgress);
const COMPLETED: Kind = Some(TaskStateKind::Completed);
const FAILED: Kind = Some(TaskStateKind::Failed);

/// All known tasks.
#[derive(Clone, Debug, Default)]
pub(super) struct Tasks {
    by_time: OrdSet<Sorted<ByTime>>,
    by_state: OrdSet<Sorted<ByState>>,
    by_bucket: OrdSet<Sorted<ByBucket>>,
    /// The newest task of each image, which most requests ask for.
    latest: OrdMap<ImageId, Arc<StoreImageTask>>,
    /// All other tasks, of the few images that were stored more than once.
    older: OrdSet<Sorted<ByImage>>,
}

impl Tasks {
    pub(super) fn len(&self) -> usize {
        self.by_time.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_time.is_empty()
    }

    /// A task by its key.
    pub(super) fn get(&self, key: &TaskKey) -> Option<&Arc<StoreImageTask>> {
        match self.latest(&key.image_id)? {
            latest if latest.key == *key => Some(latest),
            _ => self.by_time.get(&place(key.clone(), None)).map(Sorted::task),
        }
    }

    /// All tasks after a place, in the listing's order.
    pub(super) fn after(&self, after: Option<&TaskKey>) -> Range<'_> {
        match after {
            None => Box::new(self.by_time.iter().map(Sorted::task)),
            Some(key) => from(&self.by_time, Bound::Excluded(place(key.clone(), None))),
        }
    }

    /// The tasks after a place that a filter selects, in the listing's order. No other task is looked
    /// at.
    pub(super) fn matching(&self, filter: &TaskFilter, after: Option<&TaskKey>) -> Merged<'_> {
        if filter.states.is_empty() && filter.buckets.is_empty() {
            return Merged::of(vec![self.after(after)]);
        }
        let mut kinds: Vec<Kind> = filter.states.iter().copied().map(Some).collect();
        if kinds.is_empty() {
            kinds = vec![None, IN_PROGRESS, COMPLETED, FAILED];
        }
        self.of_kinds(&kinds, filter, after)
    }

    /// The unfinished tasks after a place that a filter selects in some state.
    pub(super) fn unfinished(&self, filter: &TaskFilter, after: Option<&TaskKey>) -> Merged<'_> {
        self.of_kinds(&[None, IN_PROGRESS], filter, after)
    }

    /// The tasks after a place in some states, and in the buckets of a filter if it names any.
    fn of_kinds(&self, kinds: &[Kind], filter: &TaskFilter, after: Option<&TaskKey>) -> Merged<'_> {
        let mut ranges = Vec::new();
        let top = top();
        let after = after.unwrap_or(&top);
        for kind in kinds {
            if filter.buckets.is_empty() {
                ranges.push(self.in_state(*kind, after));
            }
            for bucket in &filter.buckets {
                ranges.push(self.in_bucket(bucket, *kind, after));
            }
        }
        Merged::of(ranges)
    }

    fn in_state(&self, kind: Kind, after: &TaskKey) -> Range<'_> {
        let tasks = from(&self.by_state, Bound::Excluded(place(after.clone(), kind)));
        Box::new(tasks.take_while(move |task| kind_of(task) == kind))
    }

    fn in_bucket(&self, bucket: &BucketName, kind: Kind, after: &TaskKey) -> Range<'_> {
        let (bucket, is_later) = (bucket.clone(), *bucket.as_str() > *after.bucket);
        let place = place(TaskKey { bucket: bucket.as_str().into(), ..after.clone() }, kind);
        let start = if is_later { Bound::Included(place) } else { Bound::Excluded(place) };
        let is_here = move |task: &&Arc<StoreImageTask>| {
            kind_of(task) == kind && *task.key.bucket == *bucket.as_str()
        };
        Box::new(from(&self.by_bucket, start).take_while(is_here))
    }

    /// From the oldest to the newest.
    pub(super) fn oldest_first(&self) -> impl Iterator<Item = &Arc<StoreImageTask>> {
        self.by_time.iter().rev().map(Sorted::task)
    }

    /// All tasks of an image, newest first.
    pub(super) fn of(&self, image: ImageId) -> impl Iterator<Item = &Arc<StoreImageTask>> {
        let mut older = None;
        if !self.older.is_empty() {
            let start = place(TaskKey { image_id: image, ..top() }, None);
            older = Some(from(&self.older, Bound::Excluded(start)));
        }
        let older = older.into_iter().flatten();
        self.latest(&image)
            .into_iter()
            .chain(older.take_while(move |task| task.key.image_id == image))
    }

    /// The newest task of an image.
    pub(super) fn latest(&self, image: &ImageId) -> Option<&Arc<StoreImageTask>> {
        self.latest.get(image)
    }

    /// Adds a task, or replaces the one with its key.
    pub(super) fn insert(&mut self, task: Arc<StoreImageTask>) {
        if let Some(known) = self.get(&task.key).cloned()
            && kind_of(&known) != kind_of(&task)
        {
            self.by_state.remove(&Sorted::new(known.clone()));
            self.by_bucket.remove(&Sorted::new(known));
        }
        let image = task.key.image_id;
        match self.latest(&image).cloned() {
            Some(latest) if latest.key < task.key => {
                self.older.insert(Sorted::new(task.clone()));
            }
            Some(latest) if latest.key > task.key => {
                self.older.insert(Sorted::new(latest));
                self.latest.insert(image, task.clone());
            }
            _ => {
                self.latest.insert(image, task.clone());
            }
        }
        self.by_state.insert(Sorted::new(task.clone()));
        self.by_bucket.insert(Sorted::new(task.clone()));
        self.by_time.insert(Sorted::new(task));
    }

    pub(super) fn remove(&mut self, key: &TaskKey) {
        let Some(task) = self.get(key).cloned() else { return };
        let image = &key.image_id;
        if self.older.remove(&Sorted::new(task.clone())).is_none() {
            self.latest.remove(image);
            let next = self.of(*image).next().cloned();
            if let Some(next) = next {
                self.older.remove(&Sorted::new(next.clone()));
                self.latest.insert(*image, next);
            }
        }
        self.by_state.remove(&Sorted::new(task.clone()));
        self.by_bucket.remove(&Sorted::new(task.clone()));
        self.by_time.remove(&Sorted::new(task));
    }
}

/// The tasks of a set from a place on.
fn from<O: Order + Send + Sync>(set: &OrdSet<Sorted<O>>, start: Bound<Sorted<O>>) -> Range<'_> {
    Box::new(set.range((start, Bound::Unbounded)).map(Sorted::task))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cache::tests::support::{Clock, image_id},
        domain::TaskState,
    };

    #[test]
    fn the_latest_of_an_image_is_the_newest_that_is_left() {
        let clock = Clock::new();
        let task = |minutes| Arc::new(clock.task(1, minutes, TaskState::Completed, 100));
        let (new, middle, old) = (task(10), task(20), task(30));
        let mut tasks = Tasks::default();
        let latest = |tasks: &Tasks| tasks.latest(&image_id(1)).map(|task| task.key.clone());
        for added in [&middle, &new, &old] {
            tasks.insert(added.clone());
        }
        assert_eq!(latest(&tasks), Some(new.key.clone()));
        for (removed, left) in [(&new, Some(&middle)), (&old, Some(&middle)), (&middle, None)] {
            tasks.remove(&removed.key);
            assert_eq!(latest(&tasks), left.map(|left| left.key.clone()));
            assert_eq!(tasks.get(&removed.key), None);
        }
        assert!(tasks.is_empty());
    }

    #[test]
    fn a_task_that_is_replaced_is_replaced_in_every_order() {
        let clock = Clock::new();
        let mut tasks = Tasks::default();
        for progress in [10, 20] {
            for minutes in [10, 20] {
                tasks.insert(Arc::new(clock.task(1, minutes, TaskState::InProgress, progress)));
            }
        }
        assert_eq!(tasks.len(), 2);
        let all = TaskFilter::default();
        let listed = tasks.after(None).chain(tasks.of(image_id(1)));
        let found: Vec<_> = listed.chain(tasks.unfinished(&all, None)).collect();
        assert_eq!(found.len(), 6);
        assert!(found.iter().all(|task| task.progress == Some(20)), "{found:?}");
    }

    /// Tasks of the same start time included: their order is by image, then by bucket.
    #[test]
    fn a_filter_selects_what_it_matches_from_any_place_on() {
        use TaskState::{Completed, Failed, InProgress};
        let clock = Clock::new();
        let mut tasks = Tasks::default();
        let states = [InProgress, Completed, Failed, TaskState::Other("Paused".into())];
        for number in 0..200_u64 {
            let state = states[usize::try_from(number % 7 % 4).expect("small")].clone();
            let mut task = clock.task(number % 11, number / 9, state, 1);
            task.key.bucket = ["a-bucket", "b-bucket", "c-bucket"][(number % 3) as usize].into();
            tasks.insert(Arc::new(task));
        }
        let all: Vec<_> = tasks.after(None).cloned().collect();
        let bucket = |name| BucketName::parse(name).expect("valid");
        for buckets in [vec![], vec!["b-bucket"], vec!["a-bucket", "c-bucket"]] {
            for states in [vec![], vec![TaskStateKind::Failed], vec![TaskStateKind::InProgress]] {
                for after in [None, Some(0), Some(57), Some(150)] {
                    let filter = TaskFilter {
                        buckets: buckets.iter().copied().map(bucket).collect(),
                        states: states.iter().copied().collect(),
                        started_after: None,
                    };
                    let rest = after.map_or(0, |place| place + 1);
                    let expected: Vec<_> =
                        all[rest..].iter().filter(|task| filter.matches(task)).collect();
                    let after = after.map(|place| &all[place].key);
                    let found: Vec<_> = tasks.matching(&filter, after).collect();
                    assert_eq!(found, expected, "{filter:?} after {after:?}");
                }
            }
        }
    }
}
