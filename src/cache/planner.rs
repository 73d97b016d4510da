//! From the snapshot and what all pending queries lack, the next call to EC2.
//!
//! Pure: it remembers of the calls before only what the next should know. It takes the first page of
//! all tasks first, since that mostly satisfies everything, then look-ups and what EC2 can filter, and
//! reads further down only for what nothing else can tell.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use tokio::time::Instant;

use super::{
    coverage::Position,
    fetch::Fetch,
    pending::{PendingGap, QueryId},
    snapshot::Snapshot,
    turns::Turns,
    view::View,
};
use crate::domain::{
    ImageId, ListingFilter, MAX_IMAGES_PER_CALL, MAX_TASKS_PER_CALL, StoreImageTask, TaskKey,
};

/// After this many calls in a row that bring nothing to the query whose turn it is, the next is for it.
const MAX_SKIPS: u32 = 3;

/// The same while the queries of several callers are pending: one of them may have thousands.
const MAX_SKIPS_FOR_OTHERS: u32 = 1;

/// A call, and the queries that it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) fetch: Fetch,
    pub(super) queries: Vec<QueryId>,
}

impl Plan {
    /// The first page of all tasks, which shows whether EC2 still lists after a look-up of these images
    /// failed.
    pub(super) fn proof(snapshot: &Snapshot, gaps: &[PendingGap], images: &[ImageId]) -> Self {
        let fetch = Fetch::first_page(ListingFilter::default());
        let look_up = Fetch::Images(images.to_vec());
        let mut queries = Vec::new();
        for pending in gaps {
            if fetch.advances(snapshot, pending) || look_up.advances(snapshot, pending) {
                queries.push(pending.id);
            }
        }
        Self { fetch, queries }
    }
}

/// Makes the plans of one refresher, one after the other.
#[derive(Debug, Default)]
pub(super) struct Planner {
    turns: Turns,
    /// How many calls in a row brought nothing to the query whose turn it is.
    skips: u32,
    /// The last call was for a page of all tasks below the first one.
    last_was_deep_page: bool,
    /// How many images that pending queries ask for the last page of all tasks brought. None before the
    /// first page.
    page_yield: Option<usize>,
    /// The images of that page that no query has asked for.
    unclaimed: HashSet<ImageId>,
    /// Images of which EC2 refuses at least one and does not say which. They are asked for apart from
    /// all others, half of them at a time.
    suspects: BTreeSet<ImageId>,
}

impl Planner {
    /// The next call, or none if nothing is lacking. Gaps come in the order in which their queries wait.
    pub(super) fn next(&mut self, snapshot: &Snapshot, gaps: &[PendingGap]) -> Option<Plan> {
        let in_turn = self.turns.order(gaps);
        let first = in_turn.first()?;
        let fetch = if self.skips >= self.max_skips() {
            self.choose_for(first, snapshot, &in_turn)?
        } else {
            self.choose(snapshot, &in_turn)?
        };
        let mut queries = Vec::new();
        for pending in gaps {
            if fetch.advances(snapshot, pending) {
                queries.push(pending.id);
            }
        }
        self.skips = if queries.contains(&first.id) { 0 } else { self.skips + 1 };
        self.last_was_deep_page = fetch.is_deep_page();
        let plan = Plan { fetch, queries };
        self.turns.planned(&plan.queries, &in_turn);
        Some(plan)
    }

    fn max_skips(&self) -> u32 {
        if self.turns.are_several() { MAX_SKIPS_FOR_OTHERS } else { MAX_SKIPS }
    }

    /// The call for one query. A look-up takes along the images of others.
    fn choose_for(
        &self,
        query: &PendingGap,
        snapshot: &Snapshot,
        in_turn: &[&PendingGap],
    ) -> Option<Fetch> {
        let fetch = self.choose(snapshot, &[query])?;
        let Fetch::Images(mut images) = fetch else { return Some(fetch) };
        images.extend(Wanted::of(in_turn).images());
        self.batch(snapshot, images).map(Fetch::Images)
    }

    /// EC2 refused a look-up of these images and did not say for which of them.
    pub(super) fn suspect(&mut self, images: &[ImageId]) {
        self.suspects = images.iter().copied().collect();
    }

    /// Whether these images are among the suspects.
    pub(super) fn suspects(&self, images: &[ImageId]) -> bool {
        images.iter().all(|image| self.suspects.contains(image))
    }

    /// EC2 answered for these images, or refused each of them.
    pub(super) fn clear(&mut self, images: &[ImageId]) {
        for image in images {
            self.suspects.remove(image);
        }
    }

    /// Notes that a call failed. After a failed page below the first, images are looked up instead.
    pub(super) fn call_failed(&mut self, fetch: &Fetch) {
        if fetch.is_deep_page() {
            self.avoid_pages();
        }
    }

    /// Look-ups are better than pages: pages fail, or there is no room for them.
    pub(super) fn avoid_pages(&mut self) {
        self.page_yield = Some(0);
    }

    /// A page of all tasks was read.
    pub(super) fn page_read(&mut self, tasks: &[StoreImageTask]) {
        self.page_yield = Some(0);
        self.unclaimed = tasks.iter().map(|task| task.key.image_id).collect();
    }

    /// Pending queries ask for these images.
    pub(super) fn wanted(&mut self, images: &[ImageId]) {
        let Some(page_yield) = &mut self.page_yield else { return };
        for image in images {
            *page_yield += usize::from(self.unclaimed.remove(image));
        }
    }

    /// The first page of all tasks first; then what takes one call; then pages, but for one page of all
    /// tasks that is wanted anyway and may save a look-up.
    fn choose(&self, snapshot: &Snapshot, gaps: &[&PendingGap]) -> Option<Fetch> {
        let wanted = Wanted::of(gaps);
        if wanted.first_page {
            return Some(Fetch::first_page(ListingFilter::default()));
        }
        let mut shown = Vec::new();
        for key in wanted.unfinished.keys() {
            if !snapshot.is_hidden(key) {
                shown.push(key.image_id);
            }
        }
        let look_ups = wanted.look_up.len() + shown.len();
        let by_first_page = wanted.by_first_page.len();
        // If a look-up is needed anyway, it does for all of them when they are few.
        let one_does = look_ups > 0 && by_first_page + look_ups <= MAX_IMAGES_PER_CALL;
        if by_first_page > 0 && !one_does {
            return Some(Fetch::first_page(ListingFilter::default()));
        }
        if let Some(page) = self.page_that_beats_look_ups(snapshot, &wanted) {
            return Some(page);
        }
        if let Some(sweep) = wanted.sweep(snapshot) {
            return Some(sweep);
        }
        let deep_page = wanted.pages.iter().find(|page| page.is_deep_page());
        if let Some(page) = deep_page
            && !self.last_was_deep_page
        {
            return Some((*page).clone());
        }
        let mut images = wanted.images();
        images.extend(shown);
        if let Some(batch) = self.batch(snapshot, images) {
            return Some(Fetch::Images(batch));
        }
        if let Some(page) = wanted.pages.first() {
            return Some((*page).clone());
        }
        let (hidden, not_before) = wanted.unfinished.first_key_value()?;
        Some(View { snapshot, not_before: Some(*not_before) }.page_around(hidden))
    }

    /// Many images are found by pages as long as a page brings more of them than a look-up would. The
    /// first page is worth a try.
    fn page_that_beats_look_ups(&self, snapshot: &Snapshot, wanted: &Wanted<'_>) -> Option<Fetch> {
        let bottom = snapshot.coverage.bottom();
        let is_worth_it = wanted.look_up.len() > MAX_IMAGES_PER_CALL
            && self.page_yield.is_none_or(|brought| brought > MAX_IMAGES_PER_CALL);
        if !is_worth_it || bottom == Position::End {
            return None;
        }
        let view = View { snapshot, not_before: None };
        Some(view.page_below(ListingFilter::default(), None, Some(bottom)))
    }

    /// As many images as one call takes, in their order. Suspects are asked for apart from others, half
    /// of them at a time; so are images that EC2 refused before, since one of them fails all.
    fn batch(&self, snapshot: &Snapshot, images: Vec<ImageId>) -> Option<Vec<ImageId>> {
        let first = images.first()?;
        let is_suspect = self.suspects.contains(first);
        let is_refused = snapshot.is_refused(first);
        let mut seen = BTreeSet::new();
        let mut batch = Vec::new();
        for image in images {
            let is_alike = self.suspects.contains(&image) == is_suspect
                && snapshot.is_refused(&image) == is_refused;
            if is_alike && seen.insert(image) {
                batch.push(image);
            }
        }
        let most = if is_suspect { batch.len().div_ceil(2) } else { batch.len() };
        batch.truncate(most.min(MAX_IMAGES_PER_CALL));
        Some(batch)
    }
}

/// All that is lacking, put together.
#[derive(Default)]
struct Wanted<'a> {
    /// The first page of all tasks.
    first_page: bool,
    /// Other pages, in turn of the callers.
    pages: Vec<&'a Fetch>,
    by_first_page: BTreeSet<ImageId>,
    /// Distinct; in turn one of each caller's and one of each query's, so that none of them takes
    /// whole calls for itself.
    look_up: Vec<ImageId>,
    /// With the time of the oldest call that would do for all.
    unfinished: BTreeMap<TaskKey, Instant>,
    /// The most that one query lacks.
    most_unfinished: usize,
}

impl<'a> Wanted<'a> {
    /// Gaps come in turn of their callers.
    fn of(gaps: &[&'a PendingGap]) -> Self {
        let mut wanted = Self::default();
        let mut numbers = HashMap::new();
        let mut by_caller: Vec<Vec<Vec<ImageId>>> = Vec::new();
        for PendingGap { caller, not_before, gap, .. } in gaps {
            match &gap.page {
                Some(page) if page.is_first_of_all() => wanted.first_page = true,
                Some(page) => wanted.pages.push(page),
                None => {}
            }
            wanted.by_first_page.extend(gap.by_first_page.first());
            let number = *numbers.entry(caller).or_insert(by_caller.len());
            if number == by_caller.len() {
                by_caller.push(Vec::new());
            }
            by_caller[number].push(gap.look_up.first().to_vec());
            wanted.most_unfinished = wanted.most_unfinished.max(gap.unfinished.count());
            for key in gap.unfinished.first() {
                let oldest = wanted.unfinished.entry(key.clone()).or_insert(*not_before);
                *oldest = (*oldest).max(*not_before);
            }
        }
        let mut callers = Vec::new();
        for queries in &by_caller {
            callers.push(in_turn(queries));
        }
        let mut seen = BTreeSet::new();
        for image in in_turn(&callers) {
            if seen.insert(image) {
                wanted.look_up.push(image);
            }
        }
        wanted
    }

    /// All images of which a look-up would tell.
    fn images(&self) -> Vec<ImageId> {
        let mut images = self.look_up.clone();
        images.extend(&self.by_first_page);
        images
    }

    /// The listing of what is in progress tells of 200 tasks a call, also of those that look-ups do not
    /// tell of. A task that has left it is then looked up.
    fn sweep(&self, snapshot: &Snapshot) -> Option<Fetch> {
        let filter = ListingFilter::in_progress();
        let mut open = 0;
        let mut any_hidden = false;
        let mut begun = None;
        for (key, not_before) in &self.unfinished {
            let view = View { snapshot, not_before: Some(*not_before) };
            let mut swept = view.pages(&filter, None);
            if swept.covers(key) {
                continue;
            }
            open += 1;
            any_hidden |= snapshot.is_hidden(key);
            begun = begun.max(swept.bottom);
        }
        let pages = 1 + snapshot.unfinished.len() / usize::from(MAX_TASKS_PER_CALL);
        let look_ups = open.max(self.most_unfinished).div_ceil(MAX_IMAGES_PER_CALL);
        if open == 0 || (!any_hidden && pages >= look_ups) {
            return None;
        }
        // A sweep that was begun for some goes on before a new one begins.
        let view = View { snapshot, not_before: None };
        Some(match begun {
            Some(bottom) => view.page_below(filter, None, Some(bottom)),
            None => Fetch::first_page(filter),
        })
    }
}

/// One of each list in turn.
fn in_turn(lists: &[Vec<ImageId>]) -> Vec<ImageId> {
    let longest = lists.iter().map(Vec::len).max().unwrap_or(0);
    let mut all = Vec::new();
    for index in 0..longest {
        for list in lists {
            all.extend(list.get(index));
        }
    }
    all
}

impl Fetch {
    /// Whether this call brings a query closer to its answer.
    fn advances(&self, snapshot: &Snapshot, pending: &PendingGap) -> bool {
        let gap = &pending.gap;
        if gap.page.as_ref() == Some(self) {
            return true;
        }
        match self {
            Self::Images(images) => {
                let mut lacking = gap.look_up.first().iter().chain(gap.by_first_page.first());
                lacking.any(|image| images.contains(image))
                    || gap.unfinished.first().iter().any(|key| images.contains(&key.image_id))
            }
            Self::Page { filter, .. } if filter.is_empty() => {
                let images = if self.is_deep_page() { &gap.look_up } else { &gap.by_first_page };
                images.count() > 0
                    || gap.unfinished.first().iter().any(|key| snapshot.is_hidden(key))
            }
            Self::Page { filter, .. } => {
                *filter == ListingFilter::in_progress() && gap.unfinished.count() > 0
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        cache::{
            query::Query,
            tests::{
                pure::images_query,
                support::{Clock, answer, first_page, gaps, image_id, next_page},
            },
        },
        domain::{Answer, BucketName, Caller, TaskFilter, TaskState, TaskStateKind},
    };

    /// A clock, and a snapshot of an account with tasks 1 to 400: the first page read down to 200 at
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
                .merge(&first_page(), &answer(tasks[..200].to_vec(), Some("a")), clock.at(0))
                .merge(
                    &next_page(&tasks[199], "a"),
                    &answer(tasks[200..].to_vec(), end),
                    clock.at(1),
                );
            Self { clock, tasks, snapshot }
        }

        /// The call for these queries, as of this second.
        fn fetch(&self, queries: &[Query], not_before: u64) -> Option<Fetch> {
            self.next(&mut Planner::default(), queries, not_before)
        }

        fn learn(
            &mut self,
            planner: &mut Planner,
            fetch: &Fetch,
            answer: &Answer,
            queries: &[Query],
        ) {
            self.snapshot = self.snapshot.merge(fetch, answer, self.clock.at(2));
            planner.page_read(&answer.tasks);
            for query in queries {
                if let Query::Images { images, .. } = query {
                    planner.wanted(images);
                }
            }
        }

        fn next(&self, planner: &mut Planner, queries: &[Query], not_before: u64) -> Option<Fetch> {
            let not_before = self.clock.at(not_before).instant;
            let pending: Vec<_> = queries.iter().map(|query| (query.clone(), not_before)).collect();
            let plan = planner.next(&self.snapshot, &gaps(&self.snapshot, &pending))?;
            Some(plan.fetch)
        }
    }

    fn listing(count: usize) -> Query {
        Query::Listing { filter: TaskFilter::default(), after: None, count }
    }

    fn latest(images: impl IntoIterator<Item = u64>) -> Query {
        images_query(images.into_iter().map(image_id), None)
    }

    fn images(numbers: impl IntoIterator<Item = u64>) -> Option<Fetch> {
        Some(Fetch::Images(numbers.into_iter().map(image_id).collect()))
    }

    #[test]
    fn the_next_call_for_one_query() {
        let story = Story::new(false);
        let task = |number: usize| Query::Task(story.tasks[number - 1].key.clone());
        let next = |name: &str, after: usize| Some(next_page(&story.tasks[after - 1], name));
        for (what, query, not_before, expected) in [
            ("known and fresh", listing(100), 0, None),
            ("the top, stale", listing(100), 2, Some(first_page())),
            ("as deep as known", listing(399), 0, None),
            ("another may have started with the last one", listing(400), 0, next("b", 400)),
            ("deeper than known", listing(401), 0, next("b", 400)),
            ("deeper, but the top is stale", listing(401), 2, Some(first_page())),
            ("a finished image on the first page", latest([10]), 2, Some(first_page())),
            ("a running image on the first page", latest([150]), 2, Some(first_page())),
            ("a finished image below it", latest([390]), 2, Some(first_page())),
            (
                "a running image below it: the first page would not tell",
                latest([350]),
                2,
                images([350]),
            ),
            ("an unknown image: nor here", latest([999]), 0, images([999])),
            ("several at once", latest([999, 1000]), 0, images([999, 1000])),
            ("a task that is over", task(10), 9, None),
            ("a running task on the first page", task(150), 2, Some(first_page())),
            ("a running task below it", task(350), 2, images([350])),
            (
                "a running task that a newer one hides",
                task(300),
                2,
                Some(Fetch::first_page(ListingFilter::in_progress())),
            ),
        ] {
            assert_eq!(story.fetch(&[query], not_before), expected, "{what}");
        }
    }

    /// The call for some queries, by a planner that has made none before.
    fn first_call(snapshot: &Snapshot, queries: &[(Query, Instant)]) -> Option<Fetch> {
        Planner::default().next(snapshot, &gaps(snapshot, queries)).map(|plan| plan.fetch)
    }

    #[test]
    fn an_empty_snapshot_begins_with_the_first_page() {
        let now = Clock::new().at(0).instant;
        for query in [listing(1), listing(1000), latest([1]), latest(1..=100)] {
            let fetch = first_call(&Snapshot::default(), &[(query.clone(), now)]);
            assert_eq!(fetch, Some(first_page()), "{query:?}");
        }
        assert_eq!(first_call(&Snapshot::default(), &[]), None);
    }

    #[test]
    fn a_first_page_serves_all_kinds_of_queries() {
        let mut story = Story::new(true);
        let queries = [listing(100), latest([10]), latest([390]), latest([999]), listing(150)];
        assert_eq!(story.fetch(&queries, 2), Some(first_page()));
        let page = answer(story.tasks[..200].to_vec(), Some("c"));
        story.snapshot = story.snapshot.merge(&first_page(), &page, story.clock.at(2));
        assert_eq!(
            story.fetch(&queries, 2),
            None,
            "also that image 999 has no task: the end is known"
        );
    }

    #[test]
    fn a_refresh_of_the_whole_list_asks_only_for_what_is_unfinished_below_the_first_page() {
        let mut story = Story::new(true);
        let mut calls = Vec::new();
        while let Some(fetch) = story.fetch(&[listing(400)], 2) {
            let tasks = match &fetch {
                Fetch::Page { filter, .. } if *filter == ListingFilter::in_progress() => {
                    let running = story.tasks.iter().filter(|task| !task.state.is_terminal());
                    answer(running.cloned().collect(), None)
                }
                call if call.is_first_of_all() => answer(story.tasks[..200].to_vec(), Some("c")),
                _ => panic!("not needed: {fetch:?}"),
            };
            story.snapshot =
                story.snapshot.merge(&fetch, &tasks, story.clock.at(2 + calls.len() as u64));
            calls.push(fetch);
            assert!(calls.len() < 10, "{calls:?}");
        }
        assert_eq!(calls, [first_page(), Fetch::first_page(ListingFilter::in_progress())]);
    }

    #[test]
    fn what_has_left_the_sweep_is_looked_up_and_what_a_newer_task_hides_is_walked_to() {
        let mut story = Story::new(true);
        let sweep = Fetch::first_page(ListingFilter::in_progress());
        let left = answer(vec![story.tasks[149].clone()], None);
        story.snapshot = story
            .snapshot
            .merge(
                &first_page(),
                &answer(story.tasks[..200].to_vec(), Some("c")),
                story.clock.at(2),
            )
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
        assert_eq!(story.fetch(&many, 2), Some(Fetch::first_page(ListingFilter::in_progress())));
    }

    #[test]
    fn a_selective_query_is_put_to_ec2_with_its_filter() {
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
        let fetch = Fetch::first_page(filter.listing());
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
        let now = story.clock.at(2).instant;
        let pending = [(failed.clone(), now)];
        assert_eq!(first_call(&snapshot, &pending), None, "the first page is not needed");
        let found = snapshot.read(&failed, None).expect("known");
        assert_eq!(found.tasks, [Arc::new(old)]);
    }

    #[test]
    fn an_image_that_was_looked_up_stays_known_while_first_pages_join() {
        let mut story = Story::new(false);
        let lookup = Fetch::Images(vec![image_id(5000), image_id(5001)]);
        let found = answer(story.clock.done([5000]), None);
        story.snapshot = story.snapshot.merge(&lookup, &found, story.clock.at(2));
        assert_eq!(story.fetch(&[latest([5000, 5001])], 9), Some(first_page()));
        let next = answer(story.clock.done(0..=199), Some("c"));
        let joined = story.snapshot.merge(&first_page(), &next, story.clock.at(9));
        let not_before = story.clock.at(9).instant;
        let query = latest([5000, 5001]);
        let fetch = |snapshot: &Snapshot| first_call(snapshot, &[(query.clone(), not_before)]);
        assert_eq!(fetch(&joined), None, "also that image 5001 still has none");
        let mut young = story.clock.done(1..=200);
        for task in &mut young {
            task.key.start_time.0 += std::time::Duration::from_hours(10);
        }
        let gap = story.snapshot.merge(&first_page(), &answer(young, Some("d")), story.clock.at(9));
        assert_eq!(fetch(&gap), images([5000, 5001]), "a newer task may be in the gap");
    }

    #[test]
    fn many_images_are_found_by_walking_while_pages_bring_more_than_look_ups() {
        let mut story = Story::new(false);
        let mut planner = Planner::default();
        let queries = [latest((401..=460).chain(10_000..=10_099))];
        let first = next_page(&story.tasks[399], "b");
        assert_eq!(story.next(&mut planner, &queries, 0), Some(first.clone()), "worth a try");
        let page = answer(story.clock.done(401..=460), Some("c"));
        story.learn(&mut planner, &first, &page, &queries);
        let next = story.clock.task(460, 460, TaskState::Completed, 100);
        let second = next_page(&next, "c");
        assert_eq!(story.next(&mut planner, &queries, 0), Some(second.clone()), "it brought 60");
        story.learn(
            &mut planner,
            &second,
            &answer(story.clock.done(461..=660), Some("d")),
            &queries,
        );
        assert_eq!(
            story.next(&mut planner, &queries, 0),
            images(10_000..=10_019),
            "it brought none"
        );
    }

    #[test]
    fn look_ups_are_batched_by_twenty_without_duplicates() {
        let story = Story::new(false);
        let queries = [latest(1000..=1009), latest(1005..=1014)];
        let Some(Fetch::Images(mut asked)) = story.fetch(&queries, 0) else { panic!("a look-up") };
        asked.sort_unstable();
        assert_eq!(Some(Fetch::Images(asked)), images(1000..=1014));
    }

    #[test]
    fn the_query_that_waits_longest_is_not_skipped_forever() {
        let story = Story::new(false);
        let mut planner = Planner::default();
        let pending =
            [(listing(1000), story.clock.at(0).instant), (listing(1), story.clock.at(9).instant)];
        let gaps = gaps(&story.snapshot, &pending);
        let mut next = || planner.next(&story.snapshot, &gaps).expect("a call");
        for _ in 0..MAX_SKIPS {
            assert_eq!(next(), Plan { fetch: first_page(), queries: vec![1] });
        }
        let page = next_page(&story.tasks[399], "b");
        assert_eq!(next(), Plan { fetch: page, queries: vec![0] });
        assert_eq!(next(), Plan { fetch: first_page(), queries: vec![1] });
    }

    #[test]
    fn one_page_of_a_walk_goes_before_a_look_up_that_it_may_save() {
        let story = Story::new(false);
        let mut planner = Planner::default();
        let queries = [latest([999]), listing(1000)];
        let walk = Some(next_page(&story.tasks[399], "b"));
        assert_eq!(story.next(&mut planner, &queries, 0), walk);
        assert_eq!(story.next(&mut planner, &queries, 0), images([999]));
        assert_eq!(story.next(&mut planner, &queries, 0), walk);
    }

    #[test]
    fn a_look_up_that_is_needed_anyway_does_for_few_images_what_the_first_page_would() {
        let story = Story::new(false);
        assert_eq!(story.fetch(&[latest([10, 999])], 2), images([999, 10]));
        assert_eq!(story.fetch(&[latest((1..=20).chain([999]))], 2), Some(first_page()));
    }

    #[test]
    fn a_walk_whose_token_was_refused_begins_again_with_the_first_page() {
        let mut story = Story::new(false);
        story.snapshot = story.snapshot.forget_tokens(&ListingFilter::default());
        assert_eq!(story.fetch(&[listing(1000)], 0), Some(first_page()));
        let page = answer(story.tasks[..200].to_vec(), Some("c"));
        story.snapshot = story.snapshot.merge(&first_page(), &page, story.clock.at(2));
        assert_eq!(story.fetch(&[listing(1000)], 0), Some(next_page(&story.tasks[199], "c")));
    }

    #[test]
    fn a_bucket_that_a_look_up_did_not_name_is_found_in_what_runs_and_in_its_listing() {
        let mut story = Story::new(false);
        let bucket = BucketName::parse("other-bucket").expect("valid");
        let query = images_query([image_id(999)], Some(bucket.clone()));
        assert_eq!(story.fetch(std::slice::from_ref(&query), 0), images([999]));
        let found = answer(vec![story.clock.task(999, 5000, TaskState::Completed, 100)], None);
        let fetch = Fetch::Images(vec![image_id(999)]);
        story.snapshot = story.snapshot.merge(&fetch, &found, story.clock.at(2));
        let running = Fetch::first_page(ListingFilter::in_progress());
        assert_eq!(story.fetch(std::slice::from_ref(&query), 0), Some(running.clone()));
        story.snapshot = story.snapshot.merge(&running, &answer(vec![], None), story.clock.at(3));
        let known = story.snapshot.read(&query, None).expect("an answer");
        let of_bucket = ListingFilter { buckets: [bucket].into(), ..ListingFilter::default() };
        assert_eq!(known.further, Some(Fetch::first_page(of_bucket)));
        assert!(known.missing[0].known_since.is_some());
    }

    /// Also while a query about many images is pending.
    #[test]
    fn each_query_has_its_share_of_a_look_up() {
        let story = Story::new(false);
        let queries = [latest(1000..=1999), latest([2000]), latest(3000..=3001)];
        let mut planner = Planner::default();
        planner.avoid_pages();
        let fetch = story.next(&mut planner, &queries, 0).expect("a call");
        let Fetch::Images(asked) = fetch else { panic!("{fetch:?}") };
        assert_eq!(asked.len(), 20);
        for image in [1000, 2000, 3000, 3001] {
            assert!(asked.contains(&image_id(image)), "{image}");
        }
    }

    /// A caller by a number.
    fn caller(number: u16) -> Caller {
        Caller::at(std::net::Ipv4Addr::from_bits(number.into()).into())
    }

    fn of_bucket(number: u16) -> Query {
        let bucket = BucketName::parse(&format!("bucket-{number}")).expect("valid");
        let filter = TaskFilter { buckets: [bucket].into(), ..TaskFilter::default() };
        Query::Listing { filter, after: None, count: 10 }
    }

    /// What the queries of callers lack, which have waited in this order.
    fn gaps_of(story: &Story, queries: impl IntoIterator<Item = (u16, Query)>) -> Vec<PendingGap> {
        let not_before = story.clock.at(0).instant;
        let mut callers = Vec::new();
        let mut pending = Vec::new();
        for (number, query) in queries {
            callers.push(caller(number));
            pending.push((query, not_before));
        }
        let mut gaps = gaps(&story.snapshot, &pending);
        for gap in &mut gaps {
            let index = usize::try_from(gap.id).expect("few");
            gap.caller = Some(callers[index].clone());
        }
        gaps
    }

    /// Invariant 4 (docs/invariants.md)
    #[test]
    fn the_second_call_is_for_a_caller_that_comes_after_ten_thousand_queries_of_another() {
        let story = Story::new(false);
        let page = || Query::Listing { filter: TaskFilter::default(), after: None, count: 1000 };
        let many: [(&str, Vec<Query>); 3] = [
            ("images", (0..10_000).map(|image| latest([10_000 + image])).collect()),
            ("filters", (0..10_000).map(of_bucket).collect()),
            (
                "both",
                (0..5_000).flat_map(|n| [latest([20_000 + u64::from(n)]), of_bucket(n)]).collect(),
            ),
        ];
        for (what, queries) in many {
            for modest in [latest([999]), of_bucket(20_000), page()] {
                let mut planner = Planner::default();
                let greedy = queries.iter().cloned().map(|query| (1, query));
                let gaps = gaps_of(&story, greedy.chain([(2, modest.clone())]));
                let (last, before) = gaps.split_last().expect("some");
                for _ in 0..3 {
                    planner.next(&story.snapshot, before).expect("a call");
                }
                let id = last.id;
                let is_for_it = (0..2).any(|_| {
                    let plan = planner.next(&story.snapshot, &gaps).expect("a call");
                    plan.queries.contains(&id)
                });
                assert!(is_for_it, "{modest:?} beside 10,000 {what}");
            }
        }
    }

    #[test]
    fn a_look_up_has_an_image_of_each_caller() {
        let story = Story::new(false);
        let mut planner = Planner::default();
        planner.avoid_pages();
        let mut queries: Vec<_> = (0..100).map(|image| (1, latest([1_000 + image]))).collect();
        queries.extend((2..=10).map(|caller| (caller, latest([u64::from(caller) + 2_000]))));
        let plan = planner.next(&story.snapshot, &gaps_of(&story, queries)).expect("a call");
        let Fetch::Images(asked) = plan.fetch else { panic!("{plan:?}") };
        assert_eq!(asked.len(), 20);
        assert!((2_002..=2_010).all(|image| asked.contains(&image_id(image))), "{asked:?}");
    }

    /// Each caller that comes has never been served. Those before are served nevertheless.
    #[test]
    fn callers_that_keep_coming_hold_up_none() {
        let story = Story::new(false);
        let mut planner = Planner::default();
        let mut queries: Vec<_> = (0..5).map(|number| (0, of_bucket(number))).collect();
        let mut served = 0;
        for newcomer in 1..=100 {
            queries.push((newcomer, of_bucket(1_000 + newcomer)));
            let gaps = gaps_of(&story, queries.clone());
            let plan = planner.next(&story.snapshot, &gaps).expect("a call");
            // What is asked again and again is asked by a newcomer each time.
            let id = usize::try_from(plan.queries[0]).expect("few");
            if queries.remove(id).0 == 0 {
                served += 1;
            }
            queries.retain(|(number, _)| *number == 0 || number + 3 > newcomer);
        }
        assert_eq!(served, 5, "the caller that came first");
    }

    #[test]
    fn images_that_ec2_refused_before_do_not_fail_others() {
        let mut story = Story::new(false);
        let refused: Vec<_> = [900, 901].map(image_id).into();
        let code = "InvalidAMIID.NotFound".into();
        story.snapshot = story.snapshot.merge_refusal(&refused, &code, story.clock.at(1));
        let queries = [latest([900, 901, 902, 903])];
        assert_eq!(story.fetch(&queries, 0), images([902, 903]));
        assert_eq!(story.fetch(&queries, 2), images([900, 901]));
    }

    #[test]
    fn a_bad_image_among_twenty_is_found_in_at_most_ten_calls() {
        let all: Vec<_> = (0..20).map(image_id).collect();
        let snapshot = Snapshot::default();
        for bad in &all {
            let mut planner = Planner::default();
            let mut open = all.clone();
            let mut calls = 0;
            while let Some(asked) = planner.batch(&snapshot, open.clone()) {
                calls += 1;
                if asked.contains(bad) && asked.len() > 1 {
                    planner.suspect(&asked);
                    continue;
                }
                planner.clear(&asked);
                open.retain(|image| !asked.contains(image));
            }
            assert!(calls <= 10, "{calls} calls for {bad}");
        }
    }
}
