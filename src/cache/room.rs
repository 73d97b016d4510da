//! The bound of tasks, of all scopes together.
//!
//! When there are too many, the deep part of the scope that was idle longest goes first: the tasks below
//! its first page. Tasks in progress, watched tasks and first pages always have room.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::SystemTime,
};

use tokio::sync::Notify;

use super::{coverage::Position, pages::Pages, snapshot::Snapshot};
use crate::domain::{ImageId, ListingFilter, MAX_TASKS_PER_CALL, StoreImageTask};

/// The bound, and what the scopes hold.
#[derive(Debug, Default)]
pub(super) struct Room {
    max_tasks: usize,
    holdings: Mutex<Vec<Arc<Holding>>>,
    /// Another scope than the one that grew has to give tasks back.
    pub(super) is_over: Notify,
}

/// What one scope holds.
#[derive(Debug, Default)]
pub(super) struct Holding {
    tasks: AtomicUsize,
    /// How many of them may go, roughly.
    spare: AtomicUsize,
    /// When it was last used, in milliseconds since the start.
    used: AtomicU64,
}

impl Holding {
    /// The scope is in use.
    pub(super) fn mark_used(&self, milliseconds: u64) {
        self.used.store(milliseconds, Ordering::Relaxed);
    }

    /// Takes over what a new snapshot holds.
    pub(super) fn set(&self, snapshot: &Snapshot) {
        let kept = snapshot.unfinished.len() + usize::from(MAX_TASKS_PER_CALL);
        self.tasks.store(snapshot.len(), Ordering::Relaxed);
        self.spare.store(snapshot.len().saturating_sub(kept), Ordering::Relaxed);
    }

    fn is_idle_longer_than(&self, other: &Self) -> bool {
        self.used.load(Ordering::Relaxed) < other.used.load(Ordering::Relaxed)
    }
}

impl Room {
    pub(super) fn new(max_tasks: usize) -> Self {
        Self { max_tasks, ..Self::default() }
    }

    /// A share for one more scope.
    pub(super) fn share(&self) -> Arc<Holding> {
        let holding = Arc::new(Holding::default());
        self.holdings().push(holding.clone());
        holding
    }

    /// Whether a scope has no room for more tasks, even if scopes that are idle longer give theirs.
    pub(super) fn is_full_for(&self, own: &Holding) -> bool {
        let mut tasks = 0;
        for holding in self.holdings().iter() {
            tasks += holding.tasks.load(Ordering::Relaxed);
            if holding.is_idle_longer_than(own) {
                tasks -= holding.spare.load(Ordering::Relaxed).min(tasks);
            }
        }
        tasks >= self.max_tasks
    }

    /// How many tasks a scope has to give back: all that are too many, if no other scope was idle longer
    /// or if none has any to spare.
    pub(super) fn surplus_of(&self, own: &Arc<Holding>) -> usize {
        let holdings = self.holdings();
        let mut tasks = 0;
        let mut idlest = own;
        let mut idlest_has_spare = false;
        for holding in holdings.iter() {
            tasks += holding.tasks.load(Ordering::Relaxed);
            let has_spare = holding.spare.load(Ordering::Relaxed) > 0;
            if has_spare && (!idlest_has_spare || holding.is_idle_longer_than(idlest)) {
                (idlest, idlest_has_spare) = (holding, true);
            }
        }
        if Arc::ptr_eq(idlest, own) { tasks.saturating_sub(self.max_tasks) } else { 0 }
    }

    /// Has the other scopes look whether they have to give tasks back.
    pub(super) fn ask_others(&self, own: &Arc<Holding>) {
        let tasks: usize =
            self.holdings().iter().map(|holding| holding.tasks.load(Ordering::Relaxed)).sum();
        if tasks > self.max_tasks && self.surplus_of(own) == 0 {
            self.is_over.notify_one();
        }
    }

    fn holdings(&self) -> MutexGuard<'_, Vec<Arc<Holding>>> {
        self.holdings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The tasks that stay although there is no room.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// Tasks that started at these times: those that are watched, and those on pages that pending queries
    /// ask for.
    pub(super) starts: HashSet<SystemTime>,
    /// Tasks of images that pending queries ask for.
    pub(super) images: HashSet<ImageId>,
}

impl Snapshot {
    /// The next snapshot, with up to `surplus` tasks fewer. The oldest terminal ones go, and the listings
    /// count as known only as far down as they still are. None if no task may go.
    #[must_use]
    pub(super) fn without(&self, surplus: usize, kept: &Kept) -> Option<Self> {
        let mut gone = Vec::new();
        let pages = self.pages(&ListingFilter::default());
        let first_page = pages.and_then(Pages::first_bottom).unwrap_or(Position::Top);
        for task in self.tasks.oldest_first() {
            if gone.len() == surplus || Position::above(&task.key) <= first_page {
                break;
            }
            if !self.stays(task, kept) {
                gone.push(task.clone());
            }
        }
        let bottom = Position::well_above(&gone.last()?.key);
        let mut next = self.clone();
        for task in &gone {
            next.remove(&task.key);
            next.lookups.remove(&task.key.image_id);
        }
        next.version += 1;
        next.coverage.cut_below(bottom);
        for filter in self.pages.keys() {
            let Some(pages) = next.pages.get_mut(filter) else { continue };
            if filter.is_empty() {
                pages.hollow_below(bottom);
            } else if let Some(newest) = gone.iter().rev().find(|task| filter.matches(task)) {
                pages.cut_below(Position::well_above(&newest.key));
            }
        }
        Some(next)
    }

    fn stays(&self, task: &StoreImageTask, kept: &Kept) -> bool {
        !task.state.is_terminal()
            || kept.starts.contains(&task.key.start_time.0)
            || kept.images.contains(&task.key.image_id)
            || self.shadows(task)
    }

    /// Whether this is the latest task of its image, and an older one is not finished: without it that
    /// one would count as the latest.
    fn shadows(&self, task: &StoreImageTask) -> bool {
        let mut all = self.tasks.of(task.key.image_id);
        all.next().is_some_and(|latest| latest.key == task.key)
            && all.any(|older| !older.state.is_terminal())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cache::tests::support::{Clock, answer, first_page, image_id, images, next_page},
        domain::TaskState,
    };

    /// A newer task of an image whose older one is not finished stays: without it the older one would count
    /// as the latest.
    #[test]
    fn what_goes_is_not_known_and_what_hides_an_unfinished_task_stays() {
        let clock = Clock::new();
        let first = clock.done([10]);
        let mut deep = clock.done([15, 25, 35]);
        deep.push(clock.task(1, 20, TaskState::Completed, 100));
        deep.push(clock.task(1, 30, TaskState::InProgress, 5));
        let newest_gone = deep[0].key.clone();
        let snapshot = Snapshot::default()
            .merge(&first_page(), &answer(first.clone(), Some("a")), clock.at(0))
            .merge(&next_page(&first[0], "a"), &answer(deep, None), clock.at(1));
        assert_eq!(snapshot.coverage.bottom(), Position::End);
        let trimmed = snapshot.without(usize::MAX, &Kept::default()).expect("some may go");
        assert_eq!(images(&trimmed), [10, 1, 1].map(image_id));
        assert_eq!(trimmed.coverage.bottom(), Position::well_above(&newest_gone));
        assert!(trimmed.without(usize::MAX, &Kept::default()).is_none(), "no other may go");
    }
}
