//! All known tasks of a scope, in the listing's order and by image. Persistent, as the ledger is:
//! a clone is cheap and shares what does not change.

use std::{cmp::Reverse, ops::Bound, sync::Arc, time::SystemTime};

use equivalent::{Comparable, Equivalent};
use imbl::{OrdMap, OrdSet};

use crate::domain::{ImageId, StoreImageTask, TaskKey};

/// See the module.
#[derive(Clone, Debug, Default)]
pub(super) struct Tasks {
    by_time: OrdSet<ByTime>,
    /// The newest of each image: what is mostly asked for.
    latest: OrdMap<ImageId, Arc<StoreImageTask>>,
    /// All others, for the few images that were stored more than once.
    older: OrdSet<ByImage>,
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
            _ => self.from(Bound::Included(key)).next().filter(|task| task.key == *key),
        }
    }

    /// From a place on, in the listing's order.
    pub(super) fn from(
        &self,
        place: Bound<&TaskKey>,
    ) -> impl Iterator<Item = &Arc<StoreImageTask>> {
        self.by_time.range::<_, TaskKey>((place, Bound::Unbounded)).map(|ByTime(task)| task)
    }

    pub(super) fn oldest(&self) -> Option<&Arc<StoreImageTask>> {
        self.by_time.get_max().map(|ByTime(task)| task)
    }

    /// From the oldest to the newest.
    pub(super) fn oldest_first(&self) -> impl Iterator<Item = &Arc<StoreImageTask>> {
        self.by_time.iter().rev().map(|ByTime(task)| task)
    }

    /// The last one before a place.
    pub(super) fn before(&self, place: &TaskKey) -> Option<&Arc<StoreImageTask>> {
        let above = (Bound::Unbounded, Bound::Excluded(place));
        self.by_time.range::<_, TaskKey>(above).next_back().map(|ByTime(task)| task)
    }

    /// All tasks of an image, newest first.
    pub(super) fn of(&self, image: &ImageId) -> impl Iterator<Item = &Arc<StoreImageTask>> {
        self.latest(image).into_iter().chain(self.older(image))
    }

    fn older(&self, image: &ImageId) -> impl Iterator<Item = &Arc<StoreImageTask>> {
        self.older
            .range((Bound::Included(ImageProbe(image)), Bound::Unbounded))
            .map(|ByImage(task)| task)
            .take_while(|task| task.key.image_id == *image)
    }

    /// The newest task of an image.
    pub(super) fn latest(&self, image: &ImageId) -> Option<&Arc<StoreImageTask>> {
        self.latest.get(image)
    }

    /// Adds a task, or replaces the one with its key.
    pub(super) fn insert(&mut self, task: Arc<StoreImageTask>) {
        let image = task.key.image_id;
        match self.latest(&image).cloned() {
            Some(latest) if latest.key < task.key => {
                self.older.insert(ByImage(task.clone()));
            }
            Some(latest) if latest.key > task.key => {
                self.older.insert(ByImage(latest));
                self.latest.insert(image, task.clone());
            }
            _ => {
                self.latest.insert(image, task.clone());
            }
        }
        self.by_time.insert(ByTime(task));
    }

    pub(super) fn remove(&mut self, key: &TaskKey) {
        let Some(task) = self.get(key).cloned() else { return };
        let image = &key.image_id;
        if self.older.remove(&ByImage(task.clone())).is_none() {
            let next = self.older(image).next().cloned();
            self.latest.remove(image);
            if let Some(next) = next {
                self.older.remove(&ByImage(next.clone()));
                self.latest.insert(*image, next);
            }
        }
        self.by_time.remove(&ByTime(task));
    }
}

/// A task in the listing's order.
#[derive(Clone, Debug)]
struct ByTime(Arc<StoreImageTask>);

/// A task in the order of images, and of the listing among those of one image.
#[derive(Clone, Debug)]
struct ByImage(Arc<StoreImageTask>);

impl ByImage {
    fn key(&self) -> (&ImageId, Reverse<SystemTime>, &str) {
        let TaskKey { start_time, image_id, bucket } = &self.0.key;
        (image_id, *start_time, bucket)
    }
}

/// Stands before all tasks of its image.
struct ImageProbe<'a>(&'a ImageId);

impl PartialEq for ByTime {
    fn eq(&self, other: &Self) -> bool {
        self.0.key == other.0.key
    }
}

impl Eq for ByTime {}

impl PartialOrd for ByTime {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ByTime {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.key.cmp(&other.0.key)
    }
}

impl std::borrow::Borrow<TaskKey> for ByTime {
    fn borrow(&self) -> &TaskKey {
        &self.0.key
    }
}

impl PartialEq for ByImage {
    fn eq(&self, other: &Self) -> bool {
        self.0.key == other.0.key
    }
}

impl Eq for ByImage {}

impl PartialOrd for ByImage {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ByImage {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}

impl Equivalent<ByImage> for ImageProbe<'_> {
    fn equivalent(&self, _: &ByImage) -> bool {
        false
    }
}

impl Comparable<ByImage> for ImageProbe<'_> {
    fn compare(&self, task: &ByImage) -> std::cmp::Ordering {
        self.0.cmp(&task.0.key.image_id).then(std::cmp::Ordering::Less)
    }
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
        let image = image_id(1);
        let listed = tasks.from(Bound::Unbounded).chain(tasks.of(&image));
        let all: Vec<_> = listed.chain(tasks.latest(&image)).collect();
        assert!(all.len() == 5 && all.iter().all(|task| task.progress == 20), "{all:?}");
    }
}
