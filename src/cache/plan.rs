//! The plan: from the ledger and all open needs, the next EC2 call.
//!
//! Pure: it remembers of the calls before only what the next should know. It takes the head page
//! first, since that mostly meets everything, then look-ups and what EC2 can filter, and walks
//! further down only for what nothing else can tell.

use std::collections::{BTreeMap, BTreeSet};

use tokio::time::Instant;

use super::{
    listing::Listing,
    query::{
        Freshness, Query, latest_freshness, listing_position, listing_would_show,
        relevant_in_progress,
    },
    snapshot::{Fetch, Snapshot},
};
use crate::domain::{
    BucketName, ImageId, ListingFilter, MAX_IMAGES_PER_CALL, MAX_TASKS_PER_CALL, StoreImageTask,
    TaskFilter, TaskKey,
};

/// After this many calls in a row that bring nothing to who waits longest, the next is for them.
const MAX_SKIPS: u32 = 3;

/// A need and the call that it must at least be known from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PendingQuery<'a> {
    pub(super) query: &'a Query,
    pub(super) not_before: Instant,
}

/// What the ledger lacks for a demand: what kind of call brings it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Gap {
    /// The head page of a listing.
    Head(ListingFilter),
    /// A listing below what is known of it.
    Deeper(ListingFilter),
    /// The latest tasks of images.
    Images {
        /// Those that a new head page would tell of, too.
        by_head: Vec<ImageId>,
        /// Those that only a look-up or a walk finds.
        others: Vec<ImageId>,
    },
    /// What has become of these tasks, which the head page does not show.
    Unfinished(Vec<TaskKey>),
}

/// Sets of images of which EC2 refuses at least one, it is not known which: asked for apart from
/// all others, half a set at a time, until the bad one stands alone.
#[derive(Debug, Default)]
pub(super) struct BadIdBisection(Vec<BTreeSet<ImageId>>);

impl BadIdBisection {
    /// A call for these images failed: one of them is bad, and of the set that they were half of,
    /// nothing is known any more.
    pub(super) fn failed(&mut self, images: &[ImageId]) {
        self.refused(images);
        self.0.push(images.iter().copied().collect());
    }

    /// A call for these images succeeded: the bad one is among the others of their set.
    pub(super) fn answered(&mut self, images: &[ImageId]) {
        for set in &mut self.0 {
            set.retain(|image| !images.contains(image));
        }
        self.0.retain(|set| !set.is_empty());
    }

    /// These images are bad: their sets need no longer be asked for apart.
    pub(super) fn refused(&mut self, images: &[ImageId]) {
        self.0.retain(|set| !images.iter().any(|image| set.contains(image)));
    }

    fn set_of(&self, image: &ImageId) -> Option<usize> {
        self.0.iter().position(|set| set.contains(image))
    }
}

/// Makes the plans of one keeper, one after the other.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) bisection: BadIdBisection,
    /// How many calls in a row brought nothing to who waits longest.
    skips: u32,
    /// The last call was for a page of all tasks below the head page.
    last_was_deep_page: bool,
    /// How many of the wanted images the last page of all tasks brought. None before the first.
    last_page_yield: Option<usize>,
}

impl Plan {
    /// The next call, or none when all demands are met. They come in the order of their arrival.
    pub(super) fn next(
        &mut self,
        snapshot: &Snapshot,
        pending_queries: &[PendingQuery<'_>],
    ) -> Option<Fetch> {
        let gaps: Vec<_> = pending_queries
            .iter()
            .filter_map(|pending_query| {
                Some((pending_query.not_before, find_gap(snapshot, *pending_query)?))
            })
            .collect();
        let (_, longest) = gaps.first()?;
        let urgent = self.skips < MAX_SKIPS;
        let fetch = self.choose_fetch(snapshot, if urgent { &gaps } else { &gaps[..1] })?;
        if !fetch.advances(snapshot, longest) {
            self.skips += 1;
        } else if !rereads_known_pages(snapshot, longest) {
            self.skips = 0;
        }
        self.last_was_deep_page =
            matches!(&fetch, Fetch::Page { filter, token: Some(_), .. } if filter.is_empty());
        Some(fetch)
    }

    /// A call for some tasks was answered, or failed and brought none: what its like may bring the
    /// next time. `ledger` is the one before the answer.
    pub(super) fn learn(
        &mut self,
        fetch: &Fetch,
        tasks: &[StoreImageTask],
        snapshot: &Snapshot,
        pending_queries: &[PendingQuery<'_>],
    ) {
        match fetch {
            Fetch::Images(images) => self.bisection.answered(images),
            Fetch::Page { filter, .. } if filter.is_empty() => {
                let wanted = wanted(snapshot, pending_queries);
                let brought: BTreeSet<_> = tasks.iter().map(|task| &task.key.image_id).collect();
                let brings = brought.into_iter().filter(|image| wanted.contains(*image)).count();
                self.last_page_yield = Some(brings);
            }
            Fetch::Page { .. } => {}
        }
    }

    /// The head page first, since it mostly meets everything; then what takes one call, and walks
    /// last, but for one page of a walk that is wanted anyway and may save a look-up.
    fn choose_fetch(&self, snapshot: &Snapshot, gaps: &[(Instant, Gap)]) -> Option<Fetch> {
        let all = ListingFilter::default();
        // Where nothing is settled yet, a new head page is the end of a walk that goes by the one before.
        let ends_a_walk = |filter: &ListingFilter| {
            let deeper = |gap: &Gap| matches!(gap, Gap::Deeper(wanted) if wanted == filter);
            gaps.iter().any(|(_, gap)| {
                deeper(gap) && (!filter.is_lasting() || rereads_known_pages(snapshot, gap))
            })
        };
        let (mut by_head, mut images) = (BTreeSet::new(), Vec::new());
        let mut unfinished = Unfinished::default();
        let (mut head, mut deeper) = (None, None);
        for (not_before, gap) in gaps {
            match gap {
                Gap::Head(filter) if ends_a_walk(filter) => {}
                Gap::Head(filter) if filter.is_empty() => return Some(Fetch::head(all)),
                Gap::Head(filter) => head = head.or(Some(filter)),
                Gap::Deeper(filter) => deeper = deeper.or(Some(filter)),
                Gap::Images { by_head: these, others } => {
                    by_head.extend(these);
                    images.extend(others.iter().copied());
                }
                Gap::Unfinished(tasks) => unfinished.add(*not_before, tasks),
            }
        }
        // Where a look-up is needed anyway, it does for all of them when they are few.
        let others = images.len() + unfinished.0.len();
        let one_look_up = others > 0 && by_head.len() + others <= MAX_IMAGES_PER_CALL;
        if !by_head.is_empty() && !one_look_up && !ends_a_walk(&all) {
            return Some(Fetch::head(all));
        }
        if let Some(page) = self.page_with_more_than_a_look_up(snapshot, &images) {
            return Some(page);
        }
        if let Some(sweep) = unfinished.sweep(snapshot) {
            return Some(sweep);
        }
        if deeper == Some(&all) && !self.last_was_deep_page && self.last_page_yield != Some(0) {
            return Some(walk(snapshot, &all, None));
        }
        images.extend(by_head.into_iter().copied());
        images.extend(unfinished.to_look_up(snapshot));
        batch(images, &self.bisection)
            .map(Fetch::Images)
            .or_else(|| head.map(|filter| Fetch::head(filter.clone())))
            .or_else(|| deeper.map(|filter| walk(snapshot, filter, None)))
            .or_else(|| Some(walk(snapshot, &all, Some(unfinished.hidden(snapshot)?))))
    }

    /// Many unknown images are found by walking, as long as a page brings more of them than a
    /// look-up would. Before the first page it is worth a try.
    fn page_with_more_than_a_look_up(
        &self,
        snapshot: &Snapshot,
        images: &[ImageId],
    ) -> Option<Fetch> {
        let distinct: BTreeSet<_> = images.iter().collect();
        let worth_it = distinct.len() > MAX_IMAGES_PER_CALL
            && self.last_page_yield.is_none_or(|brings| brings > MAX_IMAGES_PER_CALL);
        (worth_it && snapshot.listing().onwards(None).is_some())
            .then(|| walk(snapshot, &ListingFilter::default(), None))
    }
}

/// Unfinished tasks of which news are wanted, with the time of the oldest call that would do.
#[derive(Default)]
struct Unfinished(BTreeMap<TaskKey, Instant>);

impl Unfinished {
    fn add(&mut self, not_before: Instant, tasks: &[TaskKey]) {
        for key in tasks {
            let wanted = self.0.entry(key.clone()).or_insert(not_before);
            *wanted = not_before.max(*wanted);
        }
    }

    /// The listing of what is in progress tells of 200 tasks a call, also of those that a newer task
    /// of their image hides from look-ups. What has left it is then looked up.
    fn sweep(&self, snapshot: &Snapshot) -> Option<Fetch> {
        let filter = ListingFilter::in_progress();
        let swept = snapshot.filtered(&filter);
        let is_swept = |key: &TaskKey, not_before: Instant| {
            swept.is_some_and(|listing| {
                listing.as_of().satisfies(not_before) && listing.bottom().reaches(key)
            })
        };
        let open: Vec<_> =
            self.0.iter().filter(|(key, not_before)| !is_swept(key, **not_before)).collect();
        if open.is_empty() {
            return None;
        }
        let pages = 1 + snapshot.unfinished() / usize::from(MAX_TASKS_PER_CALL);
        let worth_it = pages < open.len().div_ceil(MAX_IMAGES_PER_CALL)
            || open.iter().any(|(key, _)| is_hidden(snapshot, key));
        // A sweep that was begun for some goes on before a new one begins.
        let goes_on = |listing: &Listing| {
            open.iter().any(|(_, not_before)| listing.as_of().satisfies(**not_before))
        };
        worth_it.then(|| match swept {
            Some(listing) if goes_on(listing) => walk(snapshot, &filter, None),
            _ => Fetch::head(filter),
        })
    }

    fn to_look_up(&self, snapshot: &Snapshot) -> impl Iterator<Item = ImageId> {
        self.0.keys().filter(|key| !is_hidden(snapshot, key)).map(|key| key.image_id)
    }

    fn hidden(&self, snapshot: &Snapshot) -> Option<&TaskKey> {
        self.0.keys().find(|key| is_hidden(snapshot, key))
    }
}

/// Whether a look-up does not tell of this task: it names only the latest of an image.
fn is_hidden(snapshot: &Snapshot, key: &TaskKey) -> bool {
    snapshot.latest(&key.image_id, None).is_none_or(|latest| latest.key != *key)
}

/// The images whose latest task is wanted and not known.
fn wanted(snapshot: &Snapshot, pending_queries: &[PendingQuery<'_>]) -> BTreeSet<ImageId> {
    let mut wanted = BTreeSet::new();
    for PendingQuery { query, not_before } in pending_queries {
        if let Query::Latest { images, bucket } = query {
            let unknown = images.iter().filter(|image| {
                !latest_freshness(snapshot, image, bucket.as_ref()).satisfies(*not_before)
            });
            wanted.extend(unknown.copied());
        }
    }
    wanted
}

impl Fetch {
    /// Whether this fetch is one of those that close the gap.
    pub(super) fn advances(&self, snapshot: &Snapshot, gap: &Gap) -> bool {
        match (self, gap) {
            (Fetch::Page { filter, token: None, .. }, Gap::Deeper(wanted)) => {
                filter == wanted
                    && snapshot.filtered(filter).is_none_or(|known| known.onwards(None).is_none())
            }
            (Fetch::Page { filter, .. }, Gap::Head(wanted) | Gap::Deeper(wanted)) => {
                filter == wanted
            }
            (Fetch::Page { filter, token, .. }, Gap::Images { by_head, .. }) => {
                filter.is_empty() && (token.is_some() || !by_head.is_empty())
            }
            (Fetch::Page { filter, .. }, Gap::Unfinished(tasks)) => {
                *filter == ListingFilter::in_progress()
                    || (filter.is_empty() && tasks.iter().any(|key| is_hidden(snapshot, key)))
            }
            (Fetch::Images(images), Gap::Images { by_head, others }) => {
                by_head.iter().chain(others).any(|image| images.contains(image))
            }
            (Fetch::Images(images), Gap::Unfinished(tasks)) => {
                tasks.iter().any(|key| images.contains(&key.image_id))
            }
            (Fetch::Images(_), Gap::Head(_) | Gap::Deeper(_)) => false,
        }
    }
}

impl Gap {
    /// Whether closing the gap adds tasks to the snapshot.
    pub(super) fn adds_tasks(&self, snapshot: &Snapshot) -> bool {
        match self {
            Gap::Head(filter) => !filter.is_empty(),
            Gap::Deeper(_) => true,
            Gap::Images { others, .. } => {
                others.iter().any(|image| snapshot.latest(image, None).is_none())
            }
            Gap::Unfinished(_) => false,
        }
    }
}

/// What a demand lacks; None when it is met.
pub(super) fn find_gap(snapshot: &Snapshot, pending_query: PendingQuery<'_>) -> Option<Gap> {
    let PendingQuery { query, not_before } = pending_query;
    if query.freshness(snapshot).satisfies(not_before) {
        return None;
    }
    Some(match query {
        Query::Listing { filter, after, count } => {
            listing_gap(snapshot, not_before, filter, after.as_ref(), *count)
        }
        Query::Latest { images, bucket } => {
            latest_gap(snapshot, not_before, images, bucket.as_ref())
        }
        Query::Task(key) => task_gap(snapshot, not_before, key),
    })
}

/// Whether a walk goes over what was read before the newest head page, since nothing of that is settled.
fn rereads_known_pages(snapshot: &Snapshot, gap: &Gap) -> bool {
    matches!(gap, Gap::Deeper(filter)
        if snapshot.filtered(filter).is_none_or(|read| read.watermark().is_none()))
}

/// As many images as one call takes, beginning with the one that waits longest; of a set with a
/// bad one in it, half.
fn batch(images: Vec<ImageId>, bisection: &BadIdBisection) -> Option<Vec<ImageId>> {
    let set = bisection.set_of(images.first()?);
    let mut seen = BTreeSet::new();
    let mut batch: Vec<_> = images
        .into_iter()
        .filter(|image| bisection.set_of(image) == set && seen.insert(*image))
        .take(MAX_IMAGES_PER_CALL)
        .collect();
    if set.is_some() {
        batch.truncate(batch.len().div_ceil(2));
    }
    Some(batch)
}

/// Onwards from the bottom of a listing, or over known ground down to a task.
fn walk(snapshot: &Snapshot, filter: &ListingFilter, target: Option<&TaskKey>) -> Fetch {
    let onwards = snapshot.filtered(filter).and_then(|listing| listing.onwards(target));
    match onwards {
        Some((from, token)) => Fetch::Page { filter: filter.clone(), from, token: Some(token) },
        None => Fetch::head(filter.clone()),
    }
}

fn head_is_fresh(snapshot: &Snapshot, not_before: Instant) -> bool {
    snapshot.listing().as_of().satisfies(not_before)
}

fn listing_gap(
    snapshot: &Snapshot,
    not_before: Instant,
    filter: &TaskFilter,
    after: Option<&TaskKey>,
    count: usize,
) -> Gap {
    let position = |read: &Listing| listing_position(snapshot, read.bottom(), filter, after, count);
    let of_all = snapshot.listing();
    let own = filter.listing();
    let narrows = position(of_all).is_none() && of_all.touched().is_some();
    let listing = if narrows && is_selective(snapshot, &own) && snapshot.has_room_for(&own) {
        own
    } else {
        ListingFilter::default()
    };
    let Some(read) = snapshot.filtered(&listing).filter(|read| read.as_of().satisfies(not_before))
    else {
        return Gap::Head(listing);
    };
    let Some(position) = position(read) else {
        return Gap::Deeper(listing);
    };
    let stale = relevant_in_progress(snapshot, &position, &listing, filter)
        .filter(|(_, observed_at)| !Freshness::AsOf(*observed_at).satisfies(not_before));
    Gap::Unfinished(stale.map(|(task, _)| task.key.clone()).collect())
}

/// Whether EC2's own filter leaves out most tasks, going by the newest of them. Where it does not,
/// the listing of all tasks is the better one to walk: it serves other questions too, and stays
/// known when states change.
fn is_selective(snapshot: &Snapshot, filter: &ListingFilter) -> bool {
    let (mut passing, mut all) = (0, 0);
    for task in snapshot.tasks_after(None).take(MAX_TASKS_PER_CALL.into()) {
        all += 1;
        passing += usize::from(filter.matches(task));
    }
    !filter.is_empty() && 2 * passing < all
}

fn latest_gap(
    snapshot: &Snapshot,
    not_before: Instant,
    images: &BTreeSet<ImageId>,
    bucket: Option<&BucketName>,
) -> Gap {
    let unmet: Vec<_> = images
        .iter()
        .filter(|image| !latest_freshness(snapshot, image, bucket).satisfies(not_before))
        .copied()
        .collect();
    let fresh = head_is_fresh(snapshot, not_before);
    let (by_head, unmet): (Vec<_>, Vec<_>) =
        unmet.into_iter().partition(|image| !fresh && head_would_tell(snapshot, image, bucket));
    // A look-up tells as well, unless it is a bucket's latest task that is wanted.
    if bucket.is_some() && !by_head.is_empty() {
        return Gap::Head(ListingFilter::default());
    }
    // A look-up that named a task into another bucket has told what it can: only the listing has
    // the older ones.
    let is_looked_up = |image: &ImageId| {
        bucket.is_some()
            && snapshot
                .looked_up(image)
                .is_some_and(|lookup| Freshness::AsOf(lookup.at).satisfies(not_before))
    };
    let (looked_up, others): (Vec<_>, Vec<_>) = unmet.into_iter().partition(is_looked_up);
    if !looked_up.is_empty() {
        let filter = TaskFilter {
            images: looked_up.into_iter().collect(),
            buckets: bucket.into_iter().cloned().collect(),
            ..TaskFilter::default()
        };
        return listing_gap(snapshot, not_before, &filter, None, 1);
    }
    // Where the listing shows that there is no newer task, only that one's state is wanted.
    let shown = |image: &ImageId| {
        snapshot
            .latest(image, None)
            .filter(|_| fresh && bucket.is_none() && listing_would_show(snapshot, image, None))
    };
    let tasks = others.iter().map(|image| shown(image).map(|task| task.key.clone()));
    match tasks.collect() {
        Some(tasks) if by_head.is_empty() => Gap::Unfinished(tasks),
        _ => Gap::Images { by_head, others },
    }
}

/// Whether a new head page would settle the latest task of an image: it does when the listing would
/// show a newer one, and the one that is known is on the page or finished.
fn head_would_tell(snapshot: &Snapshot, image: &ImageId, bucket: Option<&BucketName>) -> bool {
    let Some(head) = snapshot.listing().head_bottom() else { return true };
    match snapshot.latest(image, bucket.map(BucketName::as_str)) {
        Some(task) if !task.state.is_terminal() => {
            // Below the page a look-up tells, unless a newer task hides this one.
            head.reaches(&task.key) || is_hidden(snapshot, &task.key)
        }
        _ => listing_would_show(snapshot, image, bucket),
    }
}

fn task_gap(snapshot: &Snapshot, not_before: Instant, key: &TaskKey) -> Gap {
    let head = snapshot.listing().head_bottom();
    let on_head = head.is_none_or(|bottom| bottom.reaches(key));
    match (on_head && !head_is_fresh(snapshot, not_before), is_hidden(snapshot, key)) {
        (true, true) => Gap::Head(ListingFilter::default()),
        (true, false) => Gap::Images { by_head: vec![key.image_id], others: Vec::new() },
        (false, _) => Gap::Unfinished(vec![key.clone()]),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        cache::tests::support::{Clock, answer, head, image_id, next_page, token},
        domain::{Answer, TaskState, TaskStateKind},
    };

    /// A clock, and a ledger of an account with tasks 1 to 400: the head page read down to 200 at
    /// second 0, and the page below it down to 400 at second 1. Task 150 and 350 run, and a newer
    /// task hides another one of image 150 at 300.
    struct Story {
        clock: Clock,
        tasks: Vec<StoreImageTask>,
        snapshot: Snapshot,
    }

    impl Story {
        fn new(whole: bool) -> Self {
            let clock = Clock::new();
            let mut tasks = clock.done(1..=400);
            for running in [150, 350] {
                tasks[running - 1] =
                    clock.task(running as u64, running as u64, TaskState::InProgress, 5);
            }
            tasks[299] = clock.task(150, 300, TaskState::InProgress, 7);
            let end = (!whole).then_some("b");
            let snapshot = Snapshot::default()
                .merge(&head(), &answer(tasks[..200].to_vec(), Some("a")), clock.at(0))
                .merge(
                    &next_page(&tasks[199], "a"),
                    &answer(tasks[200..].to_vec(), end),
                    clock.at(1),
                );
            Self { clock, tasks, snapshot }
        }

        /// The call for these needs, as of this second.
        fn fetch(&self, queries: &[Query], not_before: u64) -> Option<Fetch> {
            self.next(&mut Plan::default(), queries, not_before)
        }

        fn learn(&mut self, plan: &mut Plan, fetch: &Fetch, answer: &Answer, queries: &[Query]) {
            let not_before = self.clock.at(0).instant;
            let pending_queries: Vec<_> =
                queries.iter().map(|query| PendingQuery { query, not_before }).collect();
            plan.learn(fetch, &answer.tasks, &self.snapshot, &pending_queries);
            self.snapshot = self.snapshot.merge(fetch, answer, self.clock.at(2));
        }

        fn next(&self, plan: &mut Plan, queries: &[Query], not_before: u64) -> Option<Fetch> {
            let not_before = self.clock.at(not_before).instant;
            let pending_queries: Vec<_> =
                queries.iter().map(|query| PendingQuery { query, not_before }).collect();
            plan.next(&self.snapshot, &pending_queries)
        }
    }

    fn listing(count: usize) -> Query {
        Query::Listing { filter: TaskFilter::default(), after: None, count }
    }

    fn latest(images: impl IntoIterator<Item = u64>) -> Query {
        Query::Latest { images: images.into_iter().map(image_id).collect(), bucket: None }
    }

    fn images(numbers: impl IntoIterator<Item = u64>) -> Option<Fetch> {
        Some(Fetch::Images(numbers.into_iter().map(image_id).collect()))
    }

    #[test]
    fn the_next_call_for_one_need() {
        let story = Story::new(false);
        let task = |number: usize| Query::Task(story.tasks[number - 1].key.clone());
        let next = |name: &str, after: usize| Some(next_page(&story.tasks[after - 1], name));
        for (what, query, not_before, expected) in [
            ("known and fresh", listing(100), 0, None),
            ("the top, stale", listing(100), 2, Some(head())),
            ("as deep as known", listing(400), 0, None),
            ("deeper than known", listing(401), 0, next("b", 400)),
            ("deeper, but the top is stale", listing(401), 2, Some(head())),
            ("a finished image on the head page", latest([10]), 2, Some(head())),
            ("a running image on the head page", latest([150]), 2, Some(head())),
            ("a finished image below it", latest([390]), 2, Some(head())),
            (
                "a running image below it: the head page would not tell",
                latest([350]),
                2,
                images([350]),
            ),
            ("an unknown image: nor here", latest([999]), 0, images([999])),
            ("several at once", latest([999, 1000]), 0, images([999, 1000])),
            ("a task that is over", task(10), 9, None),
            ("a running task on the head page", task(150), 2, Some(head())),
            ("a running task below it", task(350), 2, images([350])),
            (
                "a running task that a newer one hides",
                task(300),
                2,
                Some(Fetch::head(ListingFilter::in_progress())),
            ),
        ] {
            assert_eq!(story.fetch(&[query], not_before), expected, "{what}");
        }
    }

    #[test]
    fn an_empty_ledger_begins_with_the_head_page() {
        let clock = Clock::new();
        let not_before = clock.at(0).instant;
        for query in [listing(1), listing(1000), latest([1]), latest(1..=100)] {
            let fetch = Plan::default()
                .next(&Snapshot::default(), &[PendingQuery { query: &query, not_before }]);
            assert_eq!(fetch, Some(head()), "{query:?}");
        }
        assert_eq!(Plan::default().next(&Snapshot::default(), &[]), None);
    }

    #[test]
    fn a_head_page_serves_all_kinds_of_needs() {
        let mut story = Story::new(true);
        let queries = [listing(100), latest([10]), latest([390]), latest([999]), listing(150)];
        assert_eq!(story.fetch(&queries, 2), Some(head()));
        let page = answer(story.tasks[..200].to_vec(), Some("c"));
        story.snapshot = story.snapshot.merge(&head(), &page, story.clock.at(2));
        assert_eq!(
            story.fetch(&queries, 2),
            None,
            "also that image 999 has no task: the end is known"
        );
    }

    #[test]
    fn a_refresh_of_the_whole_list_asks_only_for_what_is_unfinished_below_the_head_page() {
        let mut story = Story::new(true);
        let mut calls = Vec::new();
        while let Some(fetch) = story.fetch(&[listing(400)], 2) {
            let tasks = match &fetch {
                Fetch::Page { filter, .. } if *filter == ListingFilter::in_progress() => {
                    let running = story.tasks.iter().filter(|task| !task.state.is_terminal());
                    answer(running.cloned().collect(), None)
                }
                Fetch::Page { token: None, .. } => answer(story.tasks[..200].to_vec(), Some("c")),
                _ => panic!("not needed: {fetch:?}"),
            };
            story.snapshot =
                story.snapshot.merge(&fetch, &tasks, story.clock.at(2 + calls.len() as u64));
            calls.push(fetch);
            assert!(calls.len() < 10, "{calls:?}");
        }
        assert_eq!(calls, [head(), Fetch::head(ListingFilter::in_progress())]);
    }

    #[test]
    fn what_has_left_the_sweep_is_looked_up_and_what_a_newer_task_hides_is_walked_to() {
        let mut story = Story::new(true);
        let sweep = Fetch::head(ListingFilter::in_progress());
        let left = answer(vec![story.tasks[149].clone()], None);
        story.snapshot = story
            .snapshot
            .merge(&head(), &answer(story.tasks[..200].to_vec(), Some("c")), story.clock.at(2))
            .merge(&sweep, &left, story.clock.at(3));
        assert_eq!(story.fetch(&[listing(400)], 2), images([350]));
        let over = answer(vec![story.clock.task(350, 350, TaskState::Completed, 100)], None);
        story.snapshot =
            story.snapshot.merge(&Fetch::Images(vec![image_id(350)]), &over, story.clock.at(4));
        assert_eq!(story.fetch(&[listing(400)], 2), Some(next_page(&story.tasks[199], "c")));
    }

    #[test]
    fn many_unfinished_tasks_are_swept_and_few_are_looked_up() {
        let mut story = Story::new(true);
        let running: Vec<_> =
            (201..=261).map(|n| story.clock.task(n + 3000, n, TaskState::InProgress, 5)).collect();
        let page = answer(running.clone(), None);
        story.snapshot =
            story.snapshot.merge(&next_page(&story.tasks[199], "a"), &page, story.clock.at(1));
        let task = |task: &StoreImageTask| Query::Task(task.key.clone());
        let few: Vec<_> = running.iter().take(20).map(task).collect();
        assert_eq!(story.fetch(&few, 2), images(3201..=3220));
        let many: Vec<_> = running.iter().map(task).collect();
        assert_eq!(story.fetch(&many, 2), Some(Fetch::head(ListingFilter::in_progress())));
    }

    #[test]
    fn a_selective_question_is_put_to_ec2_with_its_filter() {
        let story = Story::new(false);
        let of = |states: &[TaskStateKind], buckets: &[&str], count| Query::Listing {
            filter: TaskFilter {
                states: states.iter().copied().collect(),
                buckets: buckets
                    .iter()
                    .map(|name| BucketName::parse(name).expect("valid"))
                    .collect(),
                ..TaskFilter::default()
            },
            after: None,
            count,
        };
        let failed = of(&[TaskStateKind::Failed], &[], 10);
        let Query::Listing { filter, .. } = &failed else { unreachable!("it is") };
        let fetch = Fetch::head(filter.listing());
        assert_eq!(story.fetch(std::slice::from_ref(&failed), 0), Some(fetch.clone()));
        let unselective = of(&[TaskStateKind::Completed], &["bucket"], 500);
        assert_eq!(story.fetch(&[unselective], 0), Some(next_page(&story.tasks[399], "b")));
        let known = of(&[TaskStateKind::Completed], &["bucket"], 100);
        assert_eq!(story.fetch(&[known], 0), None);
        // Its answer is merged like any other.
        let old = story.clock.task(5000, 5000, TaskState::Failed, 5);
        let snapshot =
            story.snapshot.merge(&fetch, &answer(vec![old.clone()], None), story.clock.at(2));
        assert!(snapshot.task(&old.key).is_some());
        let not_before = story.clock.at(2).instant;
        let pending_query = PendingQuery { query: &failed, not_before };
        assert_eq!(
            Plan::default().next(&snapshot, &[pending_query]),
            None,
            "the head page is not needed"
        );
        assert_eq!(snapshot.page(&filter.clone(), None, 10).tasks, [Arc::new(old)]);
    }

    #[test]
    fn an_image_that_was_looked_up_stays_known_while_the_head_pages_join() {
        let mut story = Story::new(false);
        let lookup = Fetch::Images(vec![image_id(5000), image_id(5001)]);
        let found = answer(story.clock.done([5000]), None);
        story.snapshot = story.snapshot.merge(&lookup, &found, story.clock.at(2));
        assert_eq!(story.fetch(&[latest([5000, 5001])], 9), Some(head()));
        let next = answer(story.clock.done(0..=199), Some("c"));
        let joined = story.snapshot.merge(&head(), &next, story.clock.at(9));
        let not_before = story.clock.at(9).instant;
        let query = latest([5000, 5001]);
        let fetch = |snapshot: &Snapshot| {
            Plan::default().next(snapshot, &[PendingQuery { query: &query, not_before }])
        };
        assert_eq!(fetch(&joined), None, "also that image 5001 still has none");
        let mut young = story.clock.done(1..=200);
        for task in &mut young {
            task.key.start_time.0 += std::time::Duration::from_hours(10);
        }
        let gap = story.snapshot.merge(&head(), &answer(young, Some("d")), story.clock.at(9));
        assert_eq!(fetch(&gap), images([5000, 5001]), "a newer task may be in the gap");
    }

    #[test]
    fn many_images_are_found_by_walking_while_pages_bring_more_than_look_ups() {
        let mut story = Story::new(false);
        let mut plan = Plan::default();
        let queries = [latest((401..=460).chain(10_000..=10_099))];
        let first = next_page(&story.tasks[399], "b");
        assert_eq!(story.next(&mut plan, &queries, 0), Some(first.clone()), "worth a try");
        let page = answer(story.clock.done(401..=460), Some("c"));
        story.learn(&mut plan, &first, &page, &queries);
        let next = story.clock.task(460, 460, TaskState::Completed, 100);
        let second = next_page(&next, "c");
        assert_eq!(story.next(&mut plan, &queries, 0), Some(second.clone()), "it brought 60");
        story.learn(&mut plan, &second, &answer(story.clock.done(461..=660), Some("d")), &queries);
        assert_eq!(story.next(&mut plan, &queries, 0), images(10_000..=10_019), "it brought none");
    }

    #[test]
    fn look_ups_are_batched_by_twenty_without_duplicates() {
        let story = Story::new(false);
        let queries = [latest(1000..=1009), latest(1005..=1014)];
        assert_eq!(story.fetch(&queries, 0), images(1000..=1014));
    }

    #[test]
    fn urgent_needs_go_first_and_who_waits_longest_is_not_passed_over_for_ever() {
        let story = Story::new(false);
        let mut plan = Plan::default();
        let (walk, top) = (listing(1000), listing(1));
        let pending_queries = [
            PendingQuery { query: &walk, not_before: story.clock.at(0).instant },
            PendingQuery { query: &top, not_before: story.clock.at(9).instant },
        ];
        for _ in 0..MAX_SKIPS {
            assert_eq!(plan.next(&story.snapshot, &pending_queries), Some(head()));
        }
        let walk = next_page(&story.tasks[399], "b");
        assert_eq!(plan.next(&story.snapshot, &pending_queries), Some(walk));
        assert_eq!(plan.next(&story.snapshot, &pending_queries), Some(head()));
    }

    #[test]
    fn one_page_of_a_walk_goes_before_a_look_up_that_it_may_save() {
        let story = Story::new(false);
        let mut plan = Plan::default();
        let queries = [latest([999]), listing(1000)];
        let walk = Some(next_page(&story.tasks[399], "b"));
        assert_eq!(story.next(&mut plan, &queries, 0), walk);
        assert_eq!(story.next(&mut plan, &queries, 0), images([999]));
        assert_eq!(story.next(&mut plan, &queries, 0), walk);
    }

    #[test]
    fn where_a_look_up_is_needed_anyway_it_does_for_few_images_what_the_head_page_would() {
        let story = Story::new(false);
        assert_eq!(story.fetch(&[latest([10, 999])], 2), images([999, 10]));
        assert_eq!(story.fetch(&[latest((1..=20).chain([999]))], 2), Some(head()));
    }

    #[test]
    fn a_walk_whose_token_was_refused_begins_anew_over_known_ground() {
        let mut story = Story::new(false);
        let all = ListingFilter::default();
        story.snapshot = story.snapshot.forget_token(&all, &token("b"));
        assert_eq!(story.fetch(&[listing(1000)], 0), Some(next_page(&story.tasks[199], "a")));
        story.snapshot = story.snapshot.forget_token(&all, &token("a"));
        assert_eq!(story.fetch(&[listing(1000)], 0), Some(head()));
    }

    #[test]
    fn a_bucket_that_a_look_up_did_not_name_is_found_in_its_listing() {
        let mut story = Story::new(false);
        let bucket = BucketName::parse("other-bucket").expect("valid");
        let query = Query::Latest { images: [image_id(999)].into(), bucket: Some(bucket.clone()) };
        assert_eq!(story.fetch(std::slice::from_ref(&query), 0), images([999]));
        let found = answer(vec![story.clock.task(999, 5000, TaskState::Completed, 100)], None);
        let fetch = Fetch::Images(vec![image_id(999)]);
        story.snapshot = story.snapshot.merge(&fetch, &found, story.clock.at(2));
        let of_bucket = ListingFilter { buckets: [bucket].into(), ..ListingFilter::default() };
        assert_eq!(story.fetch(&[query], 0), Some(Fetch::head(of_bucket)));
    }

    #[test]
    fn a_bad_image_among_twenty_is_found_in_at_most_ten_calls() {
        let all: Vec<_> = (0..20).map(image_id).collect();
        for bad in &all {
            let mut bisection = BadIdBisection::default();
            let mut open = all.clone();
            let mut calls = 0;
            while let Some(asked) = batch(open.clone(), &bisection) {
                calls += 1;
                match asked.as_slice() {
                    images if !images.contains(bad) => bisection.answered(images),
                    [_] => bisection.refused(&asked),
                    images => {
                        bisection.failed(images);
                        continue;
                    }
                }
                open.retain(|image| !asked.contains(image));
            }
            assert!(calls <= 10, "{calls} calls for {bad}");
        }
    }
}
