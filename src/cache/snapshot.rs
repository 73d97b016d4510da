//! The ledger: all that EC2 has told of one scope, and as of when.
//!
//! An immutable value. [`Snapshot::merge`] makes the next one out of an answer; both share what did
//! not change, so that readers hold a whole and consistent state for as long as they like, and a
//! merge costs what the answer costs and not what the ledger holds.

use std::{
    ops::Bound,
    sync::Arc,
    time::{Duration, SystemTime},
};

use imbl::OrdMap;

use super::{coverage::Position, listing::Listing, tasks::Tasks};
use crate::domain::{
    Answer, CallTime, DescribeTarget, ImageId, ListingFilter, NextToken, StoreImageTask,
    TASK_LISTED_FOR, TaskFilter, TaskKey,
};

/// How long an unfinished task may be missing from answers that should have it, before it counts
/// as gone. EC2 is eventually consistent, so that one answer without it means nothing; and when
/// its image was deregistered, it will never be told of again.
const MISSING_FOR: Duration = Duration::from_mins(5);

/// So many look-ups are remembered; the oldest go first, some at a time.
const LOOKUPS: usize = 10_000;

/// How many filtered listings are remembered; the one that was not read for longest goes first. Few in
/// the tests, so that random stories meet the bound.
const LISTINGS: usize = if cfg!(test) { 4 } else { 64 };

/// Nobody walks a listing that was not read for so long: with EC2's rate, a page of each takes less.
const LISTING_IDLE: Duration = Duration::from_mins(5);

/// A call that the ledger knows how to merge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fetch {
    /// A page of a listing.
    Page {
        /// Of which tasks.
        filter: ListingFilter,
        /// How far down the page begins.
        from: Position,
        /// Leads there; None is the head page.
        token: Option<NextToken>,
    },
    /// The latest task of each image.
    Images(Vec<ImageId>),
}

impl Fetch {
    /// The head page of a listing.
    pub(super) fn head(filter: ListingFilter) -> Self {
        Self::Page { filter, from: Position::Top, token: None }
    }

    /// What is put to EC2.
    pub(super) fn target(&self) -> DescribeTarget {
        match self {
            Self::Page { filter, token, .. } => {
                DescribeTarget::Listing { filter: filter.clone(), next: token.clone() }
            }
            Self::Images(images) => DescribeTarget::Images(images.clone()),
        }
    }
}

/// A look-up of an image.
#[derive(Clone, Debug)]
pub(super) struct Lookup {
    /// When its call started.
    pub(super) at: CallTime,
    /// The newest task of the listing that was settled by then. As long as the listing is known from
    /// the top down to here, it would show a newer task of the image.
    pub(super) watermark: Option<TaskKey>,
}

/// What is known of an unfinished task beside its state.
#[derive(Clone, Debug)]
struct Progress {
    /// The newest call whose answer tells of it, if only by leaving it out.
    observed_at: CallTime,
    /// The newest call whose answer has it.
    listed: CallTime,
    /// When it was first seen, and how far it was then: the basis of the estimate.
    first: (SystemTime, u8),
}

/// How a task moves along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProgressRate {
    /// Between the first and the newest call that told of it.
    pub watched_for: Duration,
    /// Percent gained in that time.
    pub gained: u8,
    /// Percent left.
    pub left: u8,
}

impl ProgressRate {
    /// How long one percent takes. None when nothing was gained yet.
    #[must_use]
    pub fn per_percent(&self) -> Option<Duration> {
        self.watched_for.checked_div(u32::from(self.gained))
    }

    /// How long the rest takes at this pace.
    #[must_use]
    pub fn remaining(&self) -> Option<Duration> {
        self.per_percent()?.checked_mul(u32::from(self.left))
    }
}

/// All that is known of one scope. See the module.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    version: u64,
    newest_call: Option<CallTime>,
    tasks: Tasks,
    unfinished: OrdMap<TaskKey, Progress>,
    lookups: OrdMap<ImageId, Lookup>,
    /// The listing of all tasks.
    listing: Listing,
    /// The listings that EC2 filtered.
    filtered: OrdMap<ListingFilter, Listing>,
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

    /// All known tasks after a place, in sort order.
    pub fn tasks_after(
        &self,
        after: Option<&TaskKey>,
    ) -> impl Iterator<Item = &Arc<StoreImageTask>> {
        self.tasks.from(after.map_or(Bound::Unbounded, Bound::Excluded))
    }

    /// All known tasks after a place that may pass a filter, in sort order: all that there are, or those
    /// of the images that it names.
    pub(super) fn candidates<'a>(
        &'a self,
        filter: &TaskFilter,
        after: Option<&'a TaskKey>,
    ) -> Box<dyn Iterator<Item = &'a Arc<StoreImageTask>> + 'a> {
        if filter.images.is_empty() {
            return Box::new(self.tasks_after(after));
        }
        let named = filter.images.iter().flat_map(|image| self.tasks.of(image));
        let mut named: Vec<_> =
            named.filter(|task| after.is_none_or(|after| task.key > *after)).collect();
        named.sort_unstable_by(|one, two| one.key.cmp(&two.key));
        Box::new(named.into_iter())
    }

    /// All known tasks of an image, newest first.
    pub fn tasks_of(&self, image: &ImageId) -> impl Iterator<Item = &Arc<StoreImageTask>> {
        self.tasks.of(image)
    }

    /// The latest known task of an image, into one bucket or into any.
    #[must_use]
    pub fn latest(&self, image: &ImageId, bucket: Option<&str>) -> Option<&Arc<StoreImageTask>> {
        let Some(bucket) = bucket else { return self.tasks.latest(image) };
        self.tasks_of(image).find(|task| *task.key.bucket == *bucket)
    }

    /// The newest call whose answer tells of an unfinished task.
    #[must_use]
    pub fn observed_at(&self, key: &TaskKey) -> Option<CallTime> {
        self.unfinished.get(key).map(|progress| progress.observed_at)
    }

    /// How an unfinished task moves along, going by what was seen so far.
    #[must_use]
    pub fn progress_rate(&self, task: &StoreImageTask) -> Option<ProgressRate> {
        let Progress { observed_at, first, .. } = self.unfinished.get(&task.key)?;
        Some(ProgressRate {
            watched_for: observed_at.wall.duration_since(first.0).unwrap_or_default(),
            gained: task.progress.saturating_sub(first.1),
            left: 100_u8.saturating_sub(task.progress),
        })
    }

    /// When an unfinished task will be completed at its present pace. None until it has one.
    #[must_use]
    pub fn estimated_completion(&self, task: &StoreImageTask) -> Option<SystemTime> {
        let remaining = self.progress_rate(task)?.remaining()?;
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

    /// How many of them are not finished.
    pub(super) fn unfinished(&self) -> usize {
        self.unfinished.len()
    }

    /// What is known of the listing of all tasks.
    pub(super) fn listing(&self) -> &Listing {
        &self.listing
    }

    /// What is known of a listing that EC2 filtered.
    pub(super) fn filtered(&self, filter: &ListingFilter) -> Option<&Listing> {
        if filter.is_empty() { Some(&self.listing) } else { self.filtered.get(filter) }
    }

    /// Whether a listing can be read and is not forgotten for others before its end is reached. The
    /// listing of all tasks always can.
    pub(super) fn has_room_for(&self, filter: &ListingFilter) -> bool {
        filter.is_empty()
            || self.filtered.len() < LISTINGS
            || self.filtered.contains_key(filter)
            || self.least_read().is_none_or(|(_, read)| {
                let idle = read.touched().zip(self.newest_call);
                idle.is_none_or(|(touched, now)| age(touched, now) > LISTING_IDLE)
            })
    }

    /// The filtered listing that was not read for longest.
    fn least_read(&self) -> Option<(&ListingFilter, &Listing)> {
        self.filtered.iter().min_by_key(|(_, listing)| listing.touched())
    }

    /// When this image was last looked up by its ID.
    pub(super) fn looked_up(&self, image: &ImageId) -> Option<&Lookup> {
        self.lookups.get(image)
    }

    /// The unfinished tasks down to a depth, and the newest call that tells of each.
    pub(super) fn unfinished_above<'a>(
        &'a self,
        position: &'a Position,
    ) -> impl Iterator<Item = (&'a StoreImageTask, CallTime)> {
        self.unfinished
            .iter()
            .take_while(move |(key, _)| position.reaches(key))
            .filter_map(|(key, progress)| Some((&**self.task(key)?, progress.observed_at)))
    }

    /// The next ledger: this one and what EC2 answered to a call that started at `at`. A task that
    /// is known is never lost or turned back, whatever the order in which replicas answer.
    #[must_use]
    pub(super) fn merge(&self, fetch: &Fetch, answer: &Answer, at: CallTime) -> Self {
        let mut next = self.clone();
        next.version += 1;
        next.newest_call = Some(at);
        match fetch {
            Fetch::Page { filter, from, .. } => next.merge_page(filter, from, answer, at),
            Fetch::Images(images) => next.merge_images(images, answer, at),
        }
        next.drop_old(at);
        next
    }

    /// The next ledger after EC2 refused to speak of an image: asking again would not tell more,
    /// so what is known of its tasks counts as told.
    #[must_use]
    pub(super) fn merge_refusal(&self, image: &ImageId, at: CallTime) -> Self {
        let mut next = self.clone();
        next.version += 1;
        next.mark_unfinished_observed(image, None, at);
        next.drop_old(at);
        next
    }

    /// The next ledger after EC2 refused a pagination token: the walk has to begin anew.
    #[must_use]
    pub(super) fn forget_token(&self, filter: &ListingFilter, token: &NextToken) -> Self {
        let mut next = self.clone();
        match next.filtered.get_mut(filter) {
            Some(listing) => listing.forget(token),
            None => next.listing.forget(token),
        }
        next
    }

    /// The next ledger, with no more than so many tasks: the oldest of those that are finished go, but
    /// for those that hide one that is not, and the listing counts as known only as far down as it still is.
    #[must_use]
    pub(super) fn cut_to(&self, most: usize) -> Self {
        let mut next = self.clone();
        let surplus = self.len().saturating_sub(most);
        let goes = |task: &&Arc<StoreImageTask>| task.state.is_terminal() && !self.hides(task);
        let gone: Vec<_> = self.tasks.oldest_first().filter(goes).take(surplus).cloned().collect();
        let Some(newest_gone) = gone.last() else { return next };
        for task in &gone {
            next.remove(&task.key);
            next.lookups.remove(&task.key.image_id);
        }
        // Filtered listings are read again when they are asked for. The one of what is in progress
        // has lost nothing.
        let in_progress = ListingFilter::in_progress();
        let running = self.filtered.get(&in_progress).cloned();
        next.filtered = running.map(|listing| (in_progress, listing)).into_iter().collect();
        match self.tasks.before(&newest_gone.key) {
            Some(last) => next.listing.cut_below(&last.key),
            None => next.listing = Listing::default(),
        }
        next.version += 1;
        next
    }

    /// Whether it is the latest of its image, and an older one is not finished: without it that would
    /// count as the latest.
    fn hides(&self, task: &StoreImageTask) -> bool {
        let mut all = self.tasks_of(&task.key.image_id);
        all.next().is_some_and(|latest| latest.key == task.key)
            && all.any(|older| !older.state.is_terminal())
    }

    fn merge_page(
        &mut self,
        filter: &ListingFilter,
        from: &Position,
        answer: &Answer,
        at: CallTime,
    ) {
        let mut listing = self.filtered(filter).cloned().unwrap_or_default();
        let bottom = listing.merge(from, answer, at, filter.is_lasting());
        if filter.is_lasting() {
            // What should be on the page and is not was left out. By another state it may be
            // rightly missing, and the page tells nothing of it.
            let missing_keys: Vec<_> = self
                .unfinished_above(&bottom)
                .filter(|(task, _)| !from.reaches(&task.key) && filter.matches(task))
                .map(|(task, _)| task.key.clone())
                .collect();
            for key in missing_keys {
                self.mark_observed(&key, at);
            }
        }
        for task in &answer.tasks {
            self.put(task, at);
        }
        if filter.is_empty() {
            self.listing = listing;
        } else {
            self.filtered.insert(filter.clone(), listing);
            if self.filtered.len() > LISTINGS {
                let least = self.least_read().map(|(filter, _)| filter.clone());
                least.and_then(|filter| self.filtered.remove(&filter));
            }
        }
    }

    fn merge_images(&mut self, images: &[ImageId], answer: &Answer, at: CallTime) {
        let watermark = self.listing.watermark().cloned();
        for image in images {
            self.lookups.insert(*image, Lookup { at, watermark: watermark.clone() });
            let latest = answer.tasks.iter().find(|task| task.key.image_id == *image);
            self.mark_unfinished_observed(image, latest.map(|task| &task.key), at);
        }
        for task in &answer.tasks {
            self.put(task, at);
        }
    }

    /// EC2 named this task as the latest of its image, or none: what is known to be newer was left
    /// out, and what is older was not spoken of.
    fn mark_unfinished_observed(
        &mut self,
        image: &ImageId,
        latest: Option<&TaskKey>,
        at: CallTime,
    ) {
        let newer: Vec<_> = self
            .tasks_of(image)
            .map(|task| task.key.clone())
            .take_while(|key| latest.is_none_or(|latest| key < latest))
            .collect();
        for key in newer {
            self.mark_observed(&key, at);
        }
    }

    fn mark_observed(&mut self, key: &TaskKey, at: CallTime) {
        if let Some(progress) = self.unfinished.get_mut(key) {
            progress.observed_at = progress.observed_at.max(at);
        }
    }

    fn put(&mut self, news: &StoreImageTask, at: CallTime) {
        let known = self.task(&news.key).cloned();
        let task = match &known {
            Some(known) => match known.advance(news.clone()) {
                Some(news) => Arc::new(news),
                None => known.clone(),
            },
            None => Arc::new(news.clone()),
        };
        if task.state.is_terminal() {
            self.unfinished.remove(&task.key);
        } else {
            let first = (at.wall, task.progress);
            let progress = self.unfinished.entry(task.key.clone()).or_insert(Progress {
                observed_at: at,
                listed: at,
                first,
            });
            progress.observed_at = progress.observed_at.max(at);
            progress.listed = progress.listed.max(at);
        }
        if known.is_none_or(|known| !Arc::ptr_eq(&known, &task)) {
            self.tasks.insert(task);
        }
    }

    /// Drops what EC2 does not list any more: by age, or missing for too long.
    fn drop_old(&mut self, now: CallTime) {
        while let Some(oldest) = self.tasks.oldest().cloned()
            && now
                .wall
                .duration_since(oldest.key.start_time.0)
                .is_ok_and(|age| age > TASK_LISTED_FOR)
        {
            self.remove(&oldest.key);
        }
        let missing: Vec<_> = self
            .unfinished
            .iter()
            .filter(|(_, progress)| age(progress.listed, progress.observed_at) > MISSING_FOR)
            .map(|(key, _)| key.clone())
            .collect();
        for key in missing {
            self.remove(&key);
        }
        if self.lookups.len() > LOOKUPS {
            let mut by_age: Vec<_> =
                self.lookups.iter().map(|(image, lookup)| (lookup.at, *image)).collect();
            by_age.sort_unstable();
            for (_, image) in by_age.into_iter().take(LOOKUPS / 10) {
                self.lookups.remove(&image);
            }
        }
    }

    fn remove(&mut self, key: &TaskKey) {
        self.unfinished.remove(key);
        self.tasks.remove(key);
    }
}

/// How much older one call is than another.
fn age(older: CallTime, newer: CallTime) -> Duration {
    newer.instant.saturating_duration_since(older.instant)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cache::tests::support::{Clock, answer, head, image_id, images, next_page, token},
        domain::TaskState,
    };

    const RUNNING: TaskState = TaskState::InProgress;

    #[test]
    fn a_merge_keeps_what_an_older_ledger_shows() {
        let clock = Clock::new();
        let first =
            Snapshot::default().merge(&head(), &answer(clock.done(1..=3), None), clock.at(0));
        let second = first.merge(&head(), &answer(clock.done(0..=3), None), clock.at(5));
        assert_eq!(images(&first).len(), 3);
        assert_eq!(images(&second), [0, 1, 2, 3].map(image_id));
        assert!(second.version() > first.version());
    }

    #[test]
    fn a_merge_takes_news_and_never_turns_back_or_loses() {
        let clock = Clock::new();
        let task = |state, progress| answer(vec![clock.task(1, 10, state, progress)], None);
        let mut snapshot = Snapshot::default().merge(&head(), &task(RUNNING, 10), clock.at(0));
        for (second, news, expected) in [
            (1, task(RUNNING, 20), 20),
            (2, task(RUNNING, 15), 20),
            (3, answer(vec![], None), 20),
            (4, task(TaskState::Completed, 100), 100),
            (5, task(RUNNING, 30), 100),
        ] {
            snapshot = snapshot.merge(&head(), &news, clock.at(second));
            let known = snapshot.latest(&image_id(1), None).expect("not lost");
            assert_eq!(known.progress, expected, "after second {second}");
            let listed = snapshot.tasks_after(None).next().expect("not lost");
            assert!(Arc::ptr_eq(known, listed), "both orders hold the same");
        }
        assert_eq!(
            snapshot.observed_at(&snapshot.tasks_after(None).next().expect("it").key),
            None,
            "finished"
        );
    }

    #[test]
    fn a_page_tells_of_what_it_leaves_out_and_a_look_up_of_what_it_is_asked() {
        let clock = Clock::new();
        let running = [1, 2, 3].map(|image| clock.task(image, image, RUNNING, 0));
        let snapshot = Snapshot::default()
            .merge(&head(), &answer(running[..2].to_vec(), Some("a")), clock.at(0))
            .merge(&next_page(&running[1], "a"), &answer(running[2..].to_vec(), None), clock.at(1));
        let observed_at = |snapshot: &Snapshot| {
            running.each_ref().map(|task| snapshot.observed_at(&task.key).expect("known"))
        };
        assert_eq!(observed_at(&snapshot), [clock.at(0), clock.at(0), clock.at(1)]);
        let snapshot =
            snapshot.merge(&head(), &answer(running[1..2].to_vec(), Some("b")), clock.at(2));
        assert_eq!(
            observed_at(&snapshot),
            [clock.at(2), clock.at(2), clock.at(1)],
            "also of the first, which was left out"
        );
        let lookup = Fetch::Images(vec![image_id(3)]);
        let snapshot = snapshot.merge(&lookup, &answer(vec![], None), clock.at(3));
        assert_eq!(observed_at(&snapshot), [clock.at(2), clock.at(2), clock.at(3)]);
    }

    #[test]
    fn a_look_up_does_not_tell_of_a_task_that_a_newer_one_hides() {
        let clock = Clock::new();
        let (older, newer) = (clock.task(1, 20, RUNNING, 0), clock.task(1, 10, RUNNING, 0));
        let both = answer(vec![newer.clone(), older.clone()], None);
        let snapshot = Snapshot::default().merge(&head(), &both, clock.at(0)).merge(
            &Fetch::Images(vec![image_id(1)]),
            &answer(vec![newer.clone()], None),
            clock.at(9),
        );
        assert_eq!(snapshot.observed_at(&newer.key), Some(clock.at(9)));
        assert_eq!(snapshot.observed_at(&older.key), Some(clock.at(0)));
    }

    #[test]
    fn what_is_missing_for_five_minutes_is_gone() {
        let clock = Clock::new();
        let there = answer(vec![clock.task(1, 10, RUNNING, 5)], None);
        let snapshot = Snapshot::default().merge(&head(), &there, clock.at(0));
        let empty = answer(vec![], None);
        let snapshot = snapshot.merge(&head(), &empty, clock.at(300));
        assert_eq!(images(&snapshot).len(), 1, "one answer without it means nothing");
        let snapshot = snapshot.merge(&head(), &empty, clock.at(301));
        assert!(images(&snapshot).is_empty() && snapshot.latest(&image_id(1), None).is_none());
    }

    #[test]
    fn what_is_older_than_31_days_goes() {
        let clock = Clock::new();
        let days = 24 * 60;
        let tasks = answer(clock.done([1, 31 * days - 1, 31 * days + 1]), None);
        let snapshot = Snapshot::default().merge(&head(), &tasks, clock.at(0));
        assert_eq!(images(&snapshot), [1, 31 * days - 1].map(image_id));
        let snapshot = snapshot.merge(&head(), &answer(clock.done([1]), None), clock.at(120));
        assert_eq!(images(&snapshot), [image_id(1)]);
    }

    #[test]
    fn the_estimate_goes_by_what_was_seen() {
        let clock = Clock::new();
        let task = |progress| answer(vec![clock.task(1, 10, RUNNING, progress)], None);
        let estimate = |snapshot: &Snapshot| {
            snapshot.estimated_completion(snapshot.latest(&image_id(1), None).expect("known"))
        };
        let snapshot = Snapshot::default().merge(&head(), &task(20), clock.at(0));
        assert_eq!(estimate(&snapshot), None, "no basis");
        let snapshot = snapshot.merge(&head(), &task(40), clock.at(100));
        assert_eq!(estimate(&snapshot), Some(clock.at(400).wall), "5 s a percent, 60 left");
        let snapshot = snapshot.merge(&head(), &task(40), clock.at(200));
        assert_eq!(estimate(&snapshot), Some(clock.at(800).wall), "it stood still: 10 s a percent");
    }

    #[test]
    fn a_look_up_does_not_hide_the_gap_below_a_new_head_page() {
        let clock = Clock::new();
        let tasks = clock.done(1..=9);
        let lookup = Fetch::Images(vec![image_id(2)]);
        let snapshot = Snapshot::default()
            .merge(&head(), &answer(tasks[6..].to_vec(), None), clock.at(0))
            .merge(&lookup, &answer(tasks[1..2].to_vec(), None), clock.at(1))
            .merge(&head(), &answer(tasks[..2].to_vec(), Some("a")), clock.at(2));
        let bottom = Position::At(tasks[1].key.clone());
        assert_eq!(snapshot.listing().bottom(), &bottom, "what is between 2 and 7 was never read");
    }

    #[test]
    fn a_task_that_shows_late_is_not_hidden_by_what_was_read_before() {
        let clock = Clock::new();
        let young = clock.done([1, 2, 3]);
        let all_but_the_late = answer(vec![young[0].clone(), young[2].clone()], None);
        let head_page = answer(vec![clock.task(9, 0, RUNNING, 0), young[0].clone()], Some("a"));
        let snapshot = Snapshot::default().merge(&head(), &all_but_the_late, clock.at(0)).merge(
            &head(),
            &head_page,
            clock.at(1),
        );
        let bottom = Position::At(young[0].key.clone());
        assert_eq!(snapshot.listing().bottom(), &bottom, "2 may have shown up below it by now");
    }

    #[test]
    fn a_refused_token_is_forgotten_everywhere() {
        let clock = Clock::new();
        let page = answer(clock.done(1..=3), Some("a"));
        let snapshot = Snapshot::default()
            .merge(&head(), &page, clock.at(0))
            .forget_token(&ListingFilter::default(), &token("a"));
        assert_eq!(snapshot.listing().onwards(None), None);
        assert_eq!(images(&snapshot).len(), 3);
    }
}
