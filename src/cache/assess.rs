//! Whether a snapshot answers a query, with what, and what is lacking otherwise: the one place where
//! the cases of EC2 are analysed. Images have a file of their own, `assess_images.rs`.

use std::time::SystemTime;

use tokio::time::Instant;

use super::{
    assess_candidate::{Means, Which},
    coverage::{Position, Stretch},
    fetch::Fetch,
    freshness::Freshness,
    pages::Pages,
    query::Query,
    reading::{Assessment, Gap, Reading},
    snapshot::{Snapshot, Told},
    view::{Descent, View},
};
use crate::domain::{ListingFilter, MAX_TASKS_PER_CALL, TaskFilter, TaskKey};

/// Assesses a query by calls that started at `not_before` or later.
pub(super) fn assess(snapshot: &Snapshot, query: &Query, not_before: Instant) -> Assessment {
    View { snapshot, not_before: Some(not_before) }.assess(query)
}

impl Snapshot {
    /// How new the answer to a query is.
    #[must_use]
    pub fn freshness(&self, query: &Query) -> Freshness {
        self.read(query, None).map_or(Freshness::Missing, |reading| reading.freshness)
    }

    /// The answer to a query from calls that started at `not_before` or later; without one, however old
    /// it is.
    #[must_use]
    pub fn read(&self, query: &Query, not_before: Option<Instant>) -> Option<Reading> {
        match (View { snapshot: self, not_before }).assess(query) {
            Assessment::Fresh(reading) => Some(reading),
            Assessment::Missing(_) => None,
        }
    }

    /// Whether the listing of all tasks is known from a task down to a start time, as of whatever call.
    #[must_use]
    pub fn is_covered(&self, from: &TaskKey, down_to: SystemTime) -> bool {
        let mut below = View { snapshot: self, not_before: None }.all(Some(from));
        below.covers(from) && below.reaches(Position::at(down_to))
    }
}

/// A page of an answer.
#[derive(Clone, Copy)]
struct Page<'a> {
    filter: &'a TaskFilter,
    after: Option<&'a TaskKey>,
    count: usize,
}

/// The parts of a page that a listing tells.
enum Listed {
    /// All of it.
    All(Reading),
    /// Which tasks are on it, but not what has become of these.
    ButStates(Gap),
    /// The listing down to here, which is not enough. None: nothing that is new enough.
    DownTo(Option<Position>),
}

impl View<'_> {
    fn assess(self, query: &Query) -> Assessment {
        match query {
            Query::Listing { filter, after, count } => {
                let started_after = self.started_after(filter.started_after);
                let filter = &TaskFilter { started_after, ..filter.clone() };
                self.listing(Page { filter, after: after.as_ref(), count: *count })
            }
            Query::Images { images, buckets, started_after, states } => {
                let candidates = TaskFilter {
                    buckets: buckets.clone(),
                    started_after: self.started_after(*started_after),
                    ..TaskFilter::default()
                };
                let kept = TaskFilter { states: states.clone(), ..TaskFilter::default() };
                self.images(images, &candidates, &kept)
            }
            Query::Candidate { image, bucket, started_after, reads_further, looks_up } => {
                let candidates = TaskFilter {
                    buckets: bucket.iter().cloned().collect(),
                    started_after: self.started_after(*started_after),
                    ..TaskFilter::default()
                };
                let which = if started_after.is_some() { Which::First } else { Which::Latest };
                let by = Means { reads_further: *reads_further, looks_up: *looks_up };
                self.candidate(*image, &candidates, which, by)
            }
            Query::Task(key) => self.task(key),
        }
    }

    /// The start time after which tasks are selected: the time that the request names, or the one at
    /// which EC2's listing ends, if that is later.
    fn started_after(self, named: Option<SystemTime>) -> Option<SystemTime> {
        let forgotten = self.not_before.map(|moment| self.snapshot.clock.forgotten(moment));
        named.max(forgotten)
    }

    /// A page, by the listing of all tasks or by the one that EC2 filters.
    fn listing(self, page: Page<'_>) -> Assessment {
        let own = page.filter.listing();
        let by_own = if own.is_empty() { Listed::DownTo(None) } else { self.by_own(page, &own) };
        let gap = match (self.by_all(page), by_own) {
            (Listed::All(one), Listed::All(two)) => {
                let newer = two.freshness.is_newer_than(one.freshness);
                return Assessment::Fresh(if newer { two } else { one });
            }
            (Listed::All(reading), _) | (_, Listed::All(reading)) => {
                return Assessment::Fresh(reading);
            }
            (Listed::ButStates(gap), _) | (_, Listed::ButStates(gap)) => gap,
            (Listed::DownTo(_), Listed::DownTo(bottom)) if self.prefers(&own, page) => {
                Gap::page(self.page_below(own, page.after, bottom))
            }
            (Listed::DownTo(bottom), _) => {
                Gap::page(self.page_below(ListingFilter::default(), None, bottom))
            }
        };
        Assessment::Missing(gap)
    }

    fn by_all(self, page: Page<'_>) -> Listed {
        self.read(page, self.all(page.after), true)
    }

    fn by_own(self, page: Page<'_>, own: &ListingFilter) -> Listed {
        self.read(page, self.pages(own, page.after), own.is_lasting())
    }

    /// Reads a page. `is_lasting` says that the listing holds tasks of all states, so that a task in
    /// another state may have come into one of the wanted ones since. A listing by state shows
    /// such tasks; only tasks that are known in a wanted state may have left it.
    fn read<S: Iterator<Item = Stretch>>(
        self,
        page: Page<'_>,
        mut listing: Descent<'_, S>,
        is_lasting: bool,
    ) -> Listed {
        let end = page.filter.started_after.map_or(Position::End, Position::at);
        let mut reading = Reading::default();
        let mut matching = self.snapshot.tasks.matching(page.filter, page.after);
        while reading.tasks.len() < page.count {
            match matching.next() {
                Some(task) if page.filter.could_match(&task.key) => {
                    if !listing.covers(&task.key) {
                        return Listed::DownTo(listing.bottom);
                    }
                    reading.tasks.push(task.clone());
                }
                _ if listing.reaches(end) => break,
                _ => return Listed::DownTo(listing.bottom),
            }
        }
        reading.freshness = listing.freshness;
        let is_full = reading.tasks.len() == page.count;
        let last = reading.tasks.last().filter(|_| is_full).map(|task| task.key.clone());
        reading.more = match (&last, matching.next()) {
            (None, _) => false,
            (Some(_), Some(next)) if page.filter.could_match(&next.key) => true,
            (Some(last), _) => {
                listing.bottom.is_none_or(|bottom| bottom < end) || self.may_come(page.filter, last)
            }
        };
        self.with_states(page, reading, last.as_ref(), is_lasting)
    }

    /// Whether a task further down may have come into a wanted state: what lies below a page need not
    /// be as new as the page.
    fn may_come(self, filter: &TaskFilter, last: &TaskKey) -> bool {
        let next = self.snapshot.tasks.unfinished(filter, Some(last)).next();
        next.is_some_and(|task| filter.could_match(&task.key))
    }

    /// Checks what has become of the unfinished tasks among those that were read.
    fn with_states(
        self,
        page: Page<'_>,
        mut reading: Reading,
        last: Option<&TaskKey>,
        is_lasting: bool,
    ) -> Listed {
        let mut gap = Gap::default();
        for task in self.snapshot.tasks.unfinished(page.filter, page.after) {
            let is_below = last.is_some_and(|last| task.key > *last);
            if is_below || !page.filter.could_match(&task.key) {
                break;
            }
            if !is_lasting && !page.filter.matches(task) {
                continue;
            }
            let freshness = self.state_of(&task.key);
            reading.freshness = reading.freshness.and(freshness);
            if !self.is_fresh(freshness) {
                gap.unfinished.push(task.key.clone());
            }
        }
        if gap.is_empty() { Listed::All(reading) } else { Listed::ButStates(gap) }
    }

    /// Whether EC2's own filter leaves out most tasks, going by the newest of them, and the listing of
    /// all tasks would have to be read further. Otherwise that listing is the better one to read: it
    /// serves other queries, too, and stays known when states change.
    fn prefers(self, own: &ListingFilter, page: Page<'_>) -> bool {
        if own.is_empty() {
            return false;
        }
        if let Some(promised) = self.promised()
            && !matches!(self.read(page, self.as_if(promised), true), Listed::DownTo(_))
        {
            return false;
        }
        let (mut listed, mut all) = (0, 0);
        for task in self.snapshot.tasks_after(None).take(MAX_TASKS_PER_CALL.into()) {
            all += 1;
            listed += usize::from(own.matches(task));
        }
        2 * listed < all
    }

    /// One task.
    fn task(self, key: &TaskKey) -> Assessment {
        let Some(task) = self.snapshot.task(key) else { return self.unknown_task(key) };
        let freshness =
            if task.state.is_terminal() { Freshness::Immutable } else { self.state_of(key) };
        if self.is_fresh(freshness) {
            let tasks = vec![task.clone()];
            return Assessment::Fresh(Reading { tasks, freshness, ..Reading::default() });
        }
        let mut gap = Gap::default();
        if !self.first_page_would_show(key) {
            gap.unfinished.push(key.clone());
        } else if self.snapshot.is_hidden(key) {
            gap.page = Some(Fetch::first_page(ListingFilter::default()));
        } else {
            gap.by_first_page.push(key.image_id);
        }
        Assessment::Missing(gap)
    }

    /// A task that is not known may not exist, or was never read, or had to make room.
    fn unknown_task(self, key: &TaskKey) -> Assessment {
        let (mut all, mut reads) = (self.all(None), self.reads(key));
        if all.covers(key) {
            return absent(all.freshness);
        }
        if reads.covers(key) {
            return absent(reads.freshness);
        }
        let lookup = self.snapshot.lookups.get(&key.image_id);
        let told = lookup.filter(|lookup| self.is_fresh(Freshness::AsOf(lookup.at)));
        match told.map(|lookup| (&lookup.told, lookup.at)) {
            Some((Told::Latest(None), at)) => return absent(Freshness::AsOf(at)),
            Some((Told::Latest(Some(latest)), at)) if latest.start_time > key.start_time => {
                return absent(Freshness::AsOf(at));
            }
            _ => {}
        }
        let mut gap = Gap::default();
        if self.promised().is_some_and(|promised| promised.covers(key)) {
            gap.page = Some(Fetch::first_page(ListingFilter::default()));
        } else if told.is_some() {
            gap.page = Some(self.page_below(ListingFilter::default(), Some(key), reads.bottom));
        } else {
            gap.look_up.push(key.image_id);
        }
        Assessment::Missing(gap)
    }

    /// Whether a task is on the first page, which is not new enough.
    pub(super) fn first_page_would_show(self, key: &TaskKey) -> bool {
        let Some(not_before) = self.not_before else { return false };
        if self.snapshot.first_page_is_fresh(not_before) {
            return false;
        }
        let pages = self.snapshot.pages(&ListingFilter::default());
        let bottom = pages.and_then(Pages::first_bottom);
        bottom.is_none_or(|bottom| bottom.covers(key))
    }
}

/// There is no such task.
fn absent(freshness: Freshness) -> Assessment {
    Assessment::Fresh(Reading { freshness, ..Reading::default() })
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, sync::Arc, time::Duration};

    use super::*;
    use crate::{
        cache::{
            CacheRead, Outcome,
            order::COMPARED,
            tests::{
                pure::images_query,
                support::{Clock, answer, first_page, image_id},
            },
        },
        domain::{BucketName, TaskStateKind},
    };

    /// A large account, of which everything is known.
    fn large(clock: &Clock) -> Snapshot {
        let mut tasks = clock.done(1..=20_000);
        for (number, task) in tasks.iter_mut().enumerate() {
            task.key.bucket = format!("bucket-{}", number % 1_000).into();
        }
        Snapshot::default().merge(&first_page(), &answer(tasks, None), clock.at(0))
    }

    #[test]
    fn whatever_is_asked_only_a_few_of_many_tasks_are_looked_at() {
        let clock = Clock::new();
        let snapshot = large(&clock);
        let after = snapshot.tasks_after(None).nth(10_000).expect("many").key.clone();
        let listing = |buckets: &[&str], states: &[TaskStateKind], after: Option<&TaskKey>| {
            let buckets = buckets.iter().map(|name| BucketName::parse(name).expect("valid"));
            let filter = TaskFilter {
                buckets: buckets.collect(),
                states: states.iter().copied().collect(),
                started_after: None,
            };
            Query::Listing { filter, after: after.cloned(), count: 100 }
        };
        for (query, found) in [
            (listing(&[], &[], Some(&after)), 100),
            (listing(&["bucket-7"], &[], None), 20),
            (listing(&["bucket-7"], &[TaskStateKind::Failed], None), 0),
            (listing(&["bucket-7", "no-such-bucket"], &[], Some(&after)), 10),
            (listing(&[], &[TaskStateKind::Failed], None), 0),
            (images_query((30_000..30_100).map(image_id), None), 0),
            (images_query([image_id(5)], BucketName::parse("bucket-9").ok()), 0),
            (Query::Task(after.clone()), 1),
        ] {
            COMPARED.set(0);
            let known = snapshot.read(&query, None).expect("all is known");
            assert_eq!(known.tasks.len(), found, "{query:?}");
            assert!(COMPARED.get() < 600, "{} compared for {query:?}", COMPARED.get());
        }
    }

    #[test]
    fn what_ec2_lists_no_longer_is_left_out_though_the_page_can_no_longer_change() {
        let clock = Clock::new();
        let days = 24 * 60;
        let tasks = clock.done([10, 20, 31 * days - 10]);
        let all = answer(tasks.clone(), None);
        let snapshot = Arc::new(Snapshot::default().merge(&first_page(), &all, clock.at(0)));
        let query = Query::Listing {
            filter: TaskFilter::default(),
            after: Some(tasks[0].key.clone()),
            count: 9,
        };
        let answered = |minute: u64| match assess(&snapshot, &query, clock.at(60 * minute).instant)
        {
            Assessment::Fresh(reading) => reading,
            Assessment::Missing(gap) => panic!("all is known, and {gap:?} is not"),
        };
        assert_eq!((answered(5).tasks.len(), answered(15).tasks.len()), (2, 1));
        let read = CacheRead {
            reading: Arc::new(answered(5)),
            snapshot: snapshot.clone(),
            outcome: Outcome::Hit,
            at: clock.at(300).instant,
        };
        let age = |minute: u64| {
            let moment = clock.at(60 * minute).instant;
            read.validator().age(&snapshot, moment, moment)
        };
        assert_eq!((age(5), age(15)), (Some(Duration::ZERO), None));
    }

    #[test]
    fn states_of_unfinished_tasks_matter_on_the_page_that_is_asked_for_and_on_no_other() {
        let clock = Clock::new();
        let mut tasks = clock.done(1..=10);
        for place in [1, 8] {
            tasks[place].state = crate::domain::TaskState::InProgress;
        }
        let snapshot =
            Snapshot::default().merge(&first_page(), &answer(tasks.clone(), None), clock.at(0));
        let page = |after: usize, count| Query::Listing {
            filter: TaskFilter::default(),
            after: Some(tasks[after].key.clone()),
            count,
        };
        assert_eq!(snapshot.freshness(&page(5, 2)), Freshness::Immutable);
        assert_eq!(snapshot.freshness(&page(5, 3)), Freshness::AsOf(clock.at(0)));
        let Assessment::Missing(gap) = assess(&snapshot, &page(5, 3), clock.at(1).instant) else {
            panic!("task 9 may have changed")
        };
        assert_eq!(gap.unfinished.first(), [tasks[8].key.clone()]);
    }

    #[test]
    fn a_task_that_may_come_into_a_wanted_state_may_follow_a_page() {
        let clock = Clock::new();
        let mut tasks = clock.done(1..=4);
        tasks[3].state = crate::domain::TaskState::InProgress;
        let snapshot = Snapshot::default().merge(&first_page(), &answer(tasks, None), clock.at(0));
        let states = [TaskStateKind::Completed].into();
        let filter = TaskFilter { states, ..TaskFilter::default() };
        let query = Query::Listing { filter, after: None, count: 3 };
        let known = snapshot.read(&query, None).expect("all is known");
        assert_eq!((known.tasks.len(), known.more), (3, true));
    }

    #[test]
    fn started_after_ends_what_has_to_be_known() {
        let clock = Clock::new();
        let tasks = clock.done(1..=10);
        let snapshot = Snapshot::default().merge(
            &first_page(),
            &answer(tasks.clone(), Some("a")),
            clock.at(0),
        );
        let since = |place: usize, count| Query::Listing {
            filter: TaskFilter {
                started_after: Some(tasks[place].key.start_time.0),
                ..TaskFilter::default()
            },
            after: None,
            count,
        };
        let known = snapshot.read(&since(6, 100), None).expect("known down to there");
        assert_eq!((known.tasks.len(), known.more), (6, false), "exclusive");
        let known = snapshot.read(&since(6, 6), None).expect("known down to there");
        assert_eq!((known.tasks.len(), known.more), (6, false));
        let known = snapshot.read(&since(9, 8), None).expect("known down to there");
        assert_eq!((known.tasks.len(), known.more), (8, true));
        let images = Query::Images {
            images: [1, 3, 99].map(image_id).into(),
            buckets: BTreeSet::new(),
            started_after: Some(tasks[1].key.start_time.0),
            states: BTreeSet::new(),
        };
        let known = snapshot.read(&images, None).expect("known down to there");
        assert_eq!(known.tasks.len(), 1);
        assert!(known.missing.iter().all(|missing| missing.known_since.is_none()));
        assert_eq!(known.missing.len(), 2);
    }
}
