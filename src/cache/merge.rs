//! Merging an answer of EC2's into a snapshot.
//!
//! A task that is known is never lost or turned back, whatever the order in which replicas answer. It
//! goes when it is too old for EC2 to list, or when answers that should have it lack it for long.

use std::sync::Arc;

use super::{
    coverage::Position,
    fetch::Fetch,
    pages::{PageStart, Pages},
    progress::Progress,
    snapshot::{Lookup, Snapshot, Told},
};
use crate::domain::{
    Answer, CallTime, ImageId, ListingFilter, NextToken, StoreImageTask, TaskFilter, TaskKey,
};

/// Most look-ups that are remembered. Beyond that the oldest tenth goes.
const LOOKUPS: usize = 50_000;

/// Most pages and filter values that are remembered of filtered listings together. Beyond that the
/// listing that was not read for longest goes. About 100 bytes each.
const PAGES: usize = 32_768;

impl Snapshot {
    /// The next snapshot: this one and what EC2 answered to a call that started at `at`.
    #[must_use]
    pub(super) fn merge(&self, fetch: &Fetch, answer: &Answer, at: CallTime) -> Self {
        let mut next = self.clone();
        next.version += 1;
        next.newest_call = next.newest_call.max(Some(at));
        next.clock.learn(answer, at);
        for task in &answer.tasks {
            next.put(task, at);
        }
        match fetch {
            Fetch::Page { filter, start } => next.merge_page(filter, start, answer, at),
            Fetch::Images(images) => next.merge_images(images, answer, at),
        }
        next.drop_old(at);
        next.bound_lookups();
        next
    }

    /// The next snapshot after EC2 refused to look up images. Nothing is known of their tasks by that.
    #[must_use]
    pub(super) fn merge_refusal(&self, images: &[ImageId], code: &Arc<str>, at: CallTime) -> Self {
        let mut next = self.clone();
        next.version += 1;
        let watermark = next.clock.watermark(at.instant);
        for image in images {
            let told = Told::Refused(code.clone());
            next.lookups.insert(*image, Lookup { at, told, watermark });
        }
        next.bound_lookups();
        next
    }

    /// The next snapshot after EC2 refused a token of a listing: the walk has to begin again.
    #[must_use]
    pub(super) fn forget_tokens(&self, filter: &ListingFilter) -> Self {
        let mut next = self.clone();
        next.version += 1;
        if let Some(pages) = next.pages.get_mut(filter) {
            pages.forget_tokens();
        }
        next
    }

    /// Whether this token leads back to a page of the listing that was read before.
    pub(super) fn repeats(&self, fetch: &Fetch, next: &NextToken) -> bool {
        let Fetch::Page { filter, start } = fetch else { return false };
        self.pages(filter).is_some_and(|pages| pages.repeats(start, next))
    }

    fn merge_page(
        &mut self,
        filter: &ListingFilter,
        start: &PageStart,
        answer: &Answer,
        at: CallTime,
    ) {
        let to = end_of_page(start.from, answer);
        let first = first_of_page(start, answer);
        let watermark = self.clock.watermark(at.instant);
        if filter.is_empty() && start.token.is_none() {
            self.coverage.add_first_page(at, to, watermark);
        } else if filter.is_empty() {
            self.coverage.add_page(start.from, to);
        }
        let is_stable = start.from >= Position::at(watermark);
        let mut pages = self.pages.get(filter).cloned().unwrap_or_default();
        pages.add(start, (first, to), answer.next.clone(), at, is_stable && filter.is_lasting());
        if filter.is_lasting() {
            self.mark_left_out(filter, &pages, start.from, to);
        }
        self.pages.insert(filter.clone(), pages);
        self.bound_pages(filter);
    }

    /// Marks unfinished tasks that a page should have and has not. A listing by state says nothing: a task
    /// may rightly have left it.
    fn mark_left_out(
        &mut self,
        filter: &ListingFilter,
        pages: &Pages,
        from: Position,
        to: Position,
    ) {
        let filter = TaskFilter { buckets: filter.buckets.clone(), ..TaskFilter::default() };
        let mut left_out = Vec::new();
        for task in self.tasks.unfinished(&filter, None) {
            let (key, position) = (&task.key, Position::above(&task.key));
            if !to.covers(key) {
                break;
            }
            // What the page lists was observed by it.
            if position >= from
                && let Some(told) = pages.tells_at(from, position)
                && self.observed_at(key) < Some(told)
            {
                left_out.push((key.clone(), told));
            }
        }
        for (key, at) in left_out {
            self.left_out(&key, at);
        }
    }

    fn merge_images(&mut self, images: &[ImageId], answer: &Answer, at: CallTime) {
        let watermark = self.clock.watermark(at.instant);
        for image in images {
            let mut latest: Option<&TaskKey> = None;
            for task in &answer.tasks {
                if task.key.image_id == *image && latest.is_none_or(|latest| task.key < *latest) {
                    latest = Some(&task.key);
                }
            }
            let told = Told::Latest(latest.cloned());
            // Known tasks that are newer were left out. The look-up says nothing about older ones, nor
            // about those that started at the same time.
            let mut newer = Vec::new();
            for task in self.tasks.of(*image) {
                let is_newer = latest.is_none_or(|latest| task.key.start_time < latest.start_time);
                if is_newer && !task.state.is_terminal() {
                    newer.push(task.key.clone());
                }
            }
            for key in newer {
                self.left_out(&key, at);
            }
            self.lookups.insert(*image, Lookup { at, told, watermark });
        }
    }

    fn left_out(&mut self, key: &TaskKey, at: CallTime) {
        if let Some(progress) = self.unfinished.get_mut(key) {
            progress.left_out(at);
        }
    }

    fn put(&mut self, news: &StoreImageTask, at: CallTime) {
        if let Some(progress) = self.unfinished.get_mut(&news.key) {
            progress.listed(at);
        }
        let advanced = match self.task(&news.key) {
            Some(known) => known.advance(news.clone()),
            None => Some(news.clone()),
        };
        let Some(task) = advanced else { return };
        if task.state.is_terminal() {
            self.unfinished.remove(&task.key);
        } else if !self.unfinished.contains_key(&task.key) {
            self.unfinished.insert(task.key.clone(), Progress::begin(&task, at));
        }
        self.tasks.insert(Arc::new(task));
    }

    /// Drops what EC2 lists no longer.
    fn drop_old(&mut self, at: CallTime) {
        let forgotten = self.clock.forgotten(at.instant);
        let mut gone = Vec::new();
        for task in self.tasks.oldest_first() {
            if task.key.start_time.0 > forgotten {
                break;
            }
            gone.push(task.key.clone());
        }
        for (key, progress) in &self.unfinished {
            if progress.is_gone() {
                gone.push(key.clone());
            }
        }
        for key in gone {
            self.remove(&key);
        }
    }

    pub(super) fn remove(&mut self, key: &TaskKey) {
        self.unfinished.remove(key);
        self.tasks.remove(key);
    }

    fn bound_lookups(&mut self) {
        if self.lookups.len() <= LOOKUPS {
            return;
        }
        let mut by_age = Vec::with_capacity(self.lookups.len());
        for (image, lookup) in &self.lookups {
            by_age.push((lookup.at, *image));
        }
        by_age.sort_unstable();
        for (_, image) in by_age.into_iter().take(LOOKUPS / 10) {
            self.lookups.remove(&image);
        }
    }

    /// Forgets the filtered listings that were not read for longest, but for the one that was just read.
    fn bound_pages(&mut self, newest: &ListingFilter) {
        let mut weight = 0;
        for (filter, pages) in &self.pages {
            weight += weight_of(filter, pages);
        }
        while weight > PAGES {
            let mut oldest: Option<(CallTime, &ListingFilter)> = None;
            for (filter, pages) in &self.pages {
                let Some(read) = pages.newest() else { continue };
                let can_go = !filter.is_empty() && filter != newest;
                if can_go && oldest.is_none_or(|(oldest, _)| read < oldest) {
                    oldest = Some((read, filter));
                }
            }
            let Some((_, filter)) = oldest else { return };
            let filter = filter.clone();
            let pages = self.pages.remove(&filter).unwrap_or_default();
            weight -= weight_of(&filter, &pages);
        }
    }
}

/// Pages and filter values that a listing takes. That of all tasks is always kept.
fn weight_of(filter: &ListingFilter, pages: &Pages) -> usize {
    if filter.is_empty() { 0 } else { pages.len() + filter.states.len() + filter.buckets.len() }
}

/// Where the first task of a page is. Nothing is above that of the first page.
fn first_of_page(start: &PageStart, answer: &Answer) -> Position {
    if start.token.is_none() {
        return Position::Top;
    }
    let first = answer.tasks.iter().map(|task| &task.key).min();
    first.map_or(Position::End, Position::above)
}

/// Where a page ends. A page may be empty, and need not be sorted.
fn end_of_page(from: Position, answer: &Answer) -> Position {
    if answer.next.is_none() {
        return Position::End;
    }
    let mut to = from;
    for task in &answer.tasks {
        to = to.max(Position::above(&task.key));
    }
    to
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cache::{
            freshness::Freshness,
            query::Query,
            tests::support::{Clock, answer, first_page, image_id, images, next_page, token},
        },
        domain::{BucketName, TaskState, TaskStateKind},
    };

    const RUNNING: TaskState = TaskState::InProgress;

    #[test]
    fn a_merge_keeps_what_an_older_snapshot_shows() {
        let clock = Clock::new();
        let first =
            Snapshot::default().merge(&first_page(), &answer(clock.done(1..=3), None), clock.at(0));
        let second = first.merge(&first_page(), &answer(clock.done(0..=3), None), clock.at(5));
        assert_eq!(images(&first).len(), 3);
        assert_eq!(images(&second), [0, 1, 2, 3].map(image_id));
        assert!(second.version() > first.version());
    }

    #[test]
    fn a_merge_takes_news_and_never_turns_back_or_loses() {
        let clock = Clock::new();
        let task = |state, progress| answer(vec![clock.task(1, 10, state, progress)], None);
        let mut snapshot =
            Snapshot::default().merge(&first_page(), &task(RUNNING, 10), clock.at(0));
        for (second, news, expected) in [
            (1, task(RUNNING, 20), 20),
            (2, task(RUNNING, 15), 20),
            (3, answer(vec![], None), 20),
            (4, task(TaskState::Other("Paused".into()), 25), 25),
            (5, task(TaskState::Completed, 100), 100),
            (6, task(RUNNING, 30), 100),
        ] {
            snapshot = snapshot.merge(&first_page(), &news, clock.at(second));
            let known = snapshot.latest(&image_id(1), None).expect("not lost");
            assert_eq!(known.progress, Some(expected), "after second {second}");
            let listed = snapshot.tasks_after(None).next().expect("not lost");
            assert!(Arc::ptr_eq(known, listed), "both orders hold the same");
        }
        let key = &snapshot.tasks_after(None).next().expect("it").key;
        assert_eq!(snapshot.observed_at(key), None, "it is terminal");
    }

    #[test]
    fn a_page_tells_of_the_unfinished_tasks_that_should_be_on_it() {
        let clock = Clock::new();
        let running: Vec<_> = (1..=4).map(|age| clock.task(age, 10 * age, RUNNING, 5)).collect();
        let observed = |snapshot: &Snapshot| {
            running.iter().map(|task| snapshot.observed_at(&task.key)).collect::<Vec<_>>()
        };
        let [at_0, at_1, at_2, at_3] = [0, 1, 2, 3].map(|second| Some(clock.at(second)));
        let snapshot = Snapshot::default()
            .merge(&first_page(), &answer(running[..2].to_vec(), Some("a")), clock.at(0))
            .merge(&next_page(&running[1], "a"), &answer(running[2..].to_vec(), None), clock.at(1));
        assert_eq!(observed(&snapshot), [at_0, at_0, at_1, at_1]);
        let page = answer(running[1..3].to_vec(), Some("b"));
        let snapshot = snapshot.merge(&first_page(), &page, clock.at(2));
        assert_eq!(observed(&snapshot), [at_2, at_2, at_2, at_1], "also of the first, left out");
        let in_progress = Fetch::first_page(ListingFilter::in_progress());
        let nothing = answer(vec![], None);
        let swept = snapshot.merge(&in_progress, &nothing, clock.at(3));
        assert_eq!(observed(&swept), observed(&snapshot), "they may rightly have left it");
        let lookup = Fetch::Images(vec![image_id(4)]);
        let looked_up = snapshot.merge(&lookup, &nothing, clock.at(3));
        assert_eq!(observed(&looked_up), [at_2, at_2, at_2, at_3]);
    }

    /// An old task that runs may fail, and is on the page from then on.
    #[test]
    fn a_page_of_a_listing_by_state_can_always_change() {
        let clock = Clock::new();
        let filter = TaskFilter { states: [TaskStateKind::Failed].into(), ..TaskFilter::default() };
        let page = |after: &StoreImageTask, name: &str| Fetch::Page {
            filter: filter.listing(),
            start: PageStart { from: Position::above(&after.key), token: Some(token(name)) },
        };
        let [one, two, three, four] =
            [10, 20, 30, 40].map(|age| clock.task(age, age, TaskState::Failed, 5));
        let first = Fetch::first_page(filter.listing());
        let snapshot = Snapshot::default()
            .merge(&first, &answer(vec![one.clone()], Some("a")), clock.at(0))
            .merge(
                &page(&one, "a"),
                &answer(vec![two.clone(), three.clone()], Some("b")),
                clock.at(1),
            )
            .merge(&page(&three, "b"), &answer(vec![four], None), clock.at(2));
        let query = Query::Listing { filter, after: Some(two.key), count: 9 };
        assert_eq!(snapshot.freshness(&query), Freshness::AsOf(clock.at(1)));
    }

    /// The task may be on the page beside it: EC2 promises nothing about tasks that start together. Both
    /// pages tell together.
    #[test]
    fn two_pages_tell_together_of_tasks_that_started_where_one_ends_and_the_other_begins() {
        let clock = Clock::new();
        let (one, other) = (clock.task(1, 10, RUNNING, 5), clock.task(2, 10, RUNNING, 5));
        let older = clock.task(3, 20, RUNNING, 5);
        let all = answer(vec![one.clone(), other.clone(), older.clone()], None);
        let page = answer(vec![one.clone()], Some("a"));
        let snapshot = Snapshot::default().merge(&first_page(), &all, clock.at(0)).merge(
            &first_page(),
            &page,
            clock.at(1),
        );
        assert_eq!(snapshot.observed_at(&other.key), Some(clock.at(0)));
        let page = answer(vec![older], None);
        let snapshot = snapshot.merge(&next_page(&one, "a"), &page, clock.at(2));
        assert_eq!(snapshot.observed_at(&other.key), Some(clock.at(1)));
    }

    /// When the lower page was read, others of the tasks that started together may have stood on the upper
    /// one.
    #[test]
    fn pages_that_part_tasks_of_one_start_follow_only_in_the_order_of_their_calls() {
        let clock = Clock::new();
        let bucket = BucketName::parse("bucket").expect("valid");
        let filter = TaskFilter { buckets: [bucket].into(), ..TaskFilter::default() };
        let [newest, one, other] = [(1, 1), (2, 10), (3, 10)]
            .map(|(image, age)| clock.task(image, age, TaskState::Completed, 100));
        let first = Fetch::first_page(filter.listing());
        let second = |name: &str| Fetch::Page {
            filter: filter.listing(),
            start: PageStart { from: Position::above(&one.key), token: Some(token(name)) },
        };
        let upper = |name: &str| answer(vec![newest.clone(), one.clone()], Some(name));
        let lower = answer(vec![other], None);
        let query = Query::Listing { filter: filter.clone(), after: None, count: 9 };
        let snapshot = Snapshot::default().merge(&first, &upper("a"), clock.at(0)).merge(
            &second("a"),
            &lower,
            clock.at(1),
        );
        assert_eq!(snapshot.freshness(&query), Freshness::AsOf(clock.at(0)));
        let again = snapshot.merge(&first, &upper("b"), clock.at(2));
        assert_eq!(again.freshness(&query), Freshness::Missing);
        let both = again.merge(&second("b"), &lower, clock.at(3));
        assert_eq!(both.freshness(&query), Freshness::AsOf(clock.at(2)));
    }

    #[test]
    fn a_page_that_was_begun_before_the_one_above_tells_nothing_of_what_is_between_them() {
        let clock = Clock::new();
        let (one, other) = (clock.task(1, 10, RUNNING, 5), clock.task(2, 10, RUNNING, 5));
        let older = clock.task(3, 20, RUNNING, 5);
        let all = answer(vec![one.clone(), other.clone(), older.clone()], None);
        let upper = answer(vec![one.clone()], Some("a"));
        let snapshot = Snapshot::default()
            .merge(&first_page(), &all, clock.at(0))
            .merge(&first_page(), &upper, clock.at(1))
            .merge(&next_page(&one, "a"), &answer(vec![], Some("b")), clock.at(2))
            .merge(&first_page(), &upper, clock.at(3))
            .merge(&next_page(&one, "b"), &answer(vec![older], None), clock.at(4));
        assert_eq!(snapshot.observed_at(&other.key), Some(clock.at(0)));
    }

    #[test]
    fn a_page_that_is_read_again_alone_does_not_tell_what_is_above_its_first_task() {
        let clock = Clock::new();
        let tasks: Vec<_> = (1..=3).map(|age| clock.task(age, 10 * age, RUNNING, 5)).collect();
        let mut snapshot = Snapshot::default()
            .merge(&first_page(), &answer(tasks.clone(), None), clock.at(0))
            // EC2 leaves out the second task, which is the last of the page.
            .merge(&first_page(), &answer(tasks[..1].to_vec(), Some("a")), clock.at(1));
        for second in [100, 300, 500, 700] {
            let page = answer(tasks[2..].to_vec(), None);
            snapshot = snapshot.merge(&next_page(&tasks[0], "a"), &page, clock.at(second));
        }
        assert_eq!(snapshot.observed_at(&tasks[1].key), Some(clock.at(1)));
        assert_eq!(images(&snapshot).len(), 3);
    }

    #[test]
    fn a_look_up_does_not_tell_of_a_task_that_a_newer_one_hides() {
        let clock = Clock::new();
        let (older, newer) = (clock.task(1, 20, RUNNING, 0), clock.task(1, 10, RUNNING, 0));
        let both = answer(vec![newer.clone(), older.clone()], None);
        let snapshot = Snapshot::default().merge(&first_page(), &both, clock.at(0)).merge(
            &Fetch::Images(vec![image_id(1)]),
            &answer(vec![newer.clone()], None),
            clock.at(9),
        );
        assert_eq!(snapshot.observed_at(&newer.key), Some(clock.at(9)));
        assert_eq!(snapshot.observed_at(&older.key), Some(clock.at(0)));
    }

    #[test]
    fn what_several_answers_over_five_minutes_lack_is_gone() {
        let clock = Clock::new();
        let there = answer(vec![clock.task(1, 10, RUNNING, 5)], None);
        let empty = answer(vec![], None);
        let known_after = |seconds: &[u64]| {
            let mut snapshot = Snapshot::default().merge(&first_page(), &there, clock.at(0));
            for second in seconds {
                snapshot = snapshot.merge(&first_page(), &empty, clock.at(*second));
            }
            !snapshot.is_empty()
        };
        assert!(known_after(&[1000]), "one answer without it means nothing");
        assert!(known_after(&[1000, 1300]), "nor do two");
        assert!(known_after(&[1000, 1100, 1299]), "nor do three in less than five minutes");
        assert!(!known_after(&[1000, 1100, 1300]));
        let snapshot = Snapshot::default()
            .merge(&first_page(), &there, clock.at(0))
            .merge(&first_page(), &empty, clock.at(1000))
            .merge(&first_page(), &empty, clock.at(1200))
            .merge(&first_page(), &there, clock.at(1250))
            .merge(&first_page(), &empty, clock.at(1300));
        assert!(!snapshot.is_empty(), "it was listed between");
    }

    #[test]
    fn what_is_older_than_31_days_goes_unless_ec2_lists_it() {
        let clock = Clock::new();
        let days = 24 * 60;
        let tasks = answer(clock.done([1, 31 * days - 1]), None);
        let snapshot = Snapshot::default().merge(&first_page(), &tasks, clock.at(0));
        assert_eq!(images(&snapshot), [1, 31 * days - 1].map(image_id));
        let gone = snapshot.merge(&first_page(), &answer(clock.done([1]), None), clock.at(120));
        assert_eq!(images(&gone), [image_id(1)]);
        let listed = snapshot.merge(&first_page(), &tasks, clock.at(120));
        assert_eq!(images(&listed).len(), 2);
    }

    #[test]
    fn the_estimate_goes_by_what_was_seen() {
        let clock = Clock::new();
        let task = |progress| answer(vec![clock.task(1, 10, RUNNING, progress)], None);
        let estimate = |snapshot: &Snapshot| {
            snapshot.estimated_completion(snapshot.latest(&image_id(1), None).expect("known"))
        };
        let snapshot = Snapshot::default().merge(&first_page(), &task(20), clock.at(0));
        assert_eq!(estimate(&snapshot), None, "no basis");
        let snapshot = snapshot.merge(&first_page(), &task(40), clock.at(100));
        assert_eq!(estimate(&snapshot), Some(clock.at(400).wall), "5 s a percent, 60 left");
        let snapshot = snapshot.merge(&first_page(), &task(40), clock.at(200));
        assert_eq!(estimate(&snapshot), Some(clock.at(800).wall), "it stood still: 10 s a percent");
    }

    #[test]
    fn pages_may_be_empty_or_unsorted() {
        let clock = Clock::new();
        let all = ListingFilter::default();
        let mut tasks = clock.done([3, 1, 2]);
        let unsorted = answer(tasks.clone(), Some("a"));
        let snapshot = Snapshot::default().merge(&first_page(), &unsorted, clock.at(0));
        let bottom = Position::above(&tasks[0].key);
        assert_eq!(snapshot.coverage.bottom(), bottom, "down to the oldest");
        let empty = next_page(&tasks[0], "a");
        let snapshot = snapshot.merge(&empty, &answer(vec![], Some("b")), clock.at(1));
        assert_eq!(snapshot.coverage.bottom(), bottom);
        let next = snapshot.pages(&all).expect("read").below(bottom);
        assert_eq!(next, PageStart { from: bottom, token: Some(token("b")) });
        tasks = clock.done([4, 5]);
        let fetch = Fetch::Page { filter: all, start: next };
        let snapshot = snapshot.merge(&fetch, &answer(tasks, None), clock.at(2));
        assert_eq!(snapshot.coverage.bottom(), Position::End);
    }

    #[test]
    fn filtered_listings_beyond_the_bound_go_from_the_one_that_was_not_read_for_longest() {
        let clock = Clock::new();
        let mut snapshot = Snapshot::default();
        let of = |number: u64| {
            let mut buckets = std::collections::BTreeSet::new();
            for value in 0..200 {
                let name = format!("bucket-{number}-{value}");
                buckets.insert(crate::domain::BucketName::parse(&name).expect("valid"));
            }
            ListingFilter { buckets, ..ListingFilter::default() }
        };
        for number in 0..200 {
            let fetch = Fetch::first_page(of(number));
            snapshot = snapshot.merge(&fetch, &answer(vec![], None), clock.at(number));
        }
        assert!(snapshot.pages.len() * 201 <= PAGES);
        assert!(snapshot.pages(&of(0)).is_none() && snapshot.pages(&of(199)).is_some());
        // The listing of all tasks stays, though it was not read for longest.
        let all = Fetch::first_page(ListingFilter::default());
        snapshot = snapshot.merge(&all, &answer(vec![], None), clock.at(200));
        for number in 400..600 {
            let fetch = Fetch::first_page(of(number));
            snapshot = snapshot.merge(&fetch, &answer(vec![], None), clock.at(number));
        }
        assert!(snapshot.pages(&ListingFilter::default()).is_some());
    }
}
