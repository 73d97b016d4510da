//! The plan: from the ledger and all open needs, the next EC2 call.
//!
//! A pure function. It takes the head page first, since that mostly meets everything, then
//! look-ups, and walks further down only for what nothing else can tell.

use std::collections::BTreeSet;

use tokio::time::Instant;

use super::{
    ground::Depth,
    ledger::{Call, Ledger},
    need::{Known, Need, latest_known, listing_depth, unfinished_that_matter},
};
use crate::domain::{BucketName, ImageId, MAX_IMAGES_PER_CALL, TaskFilter, TaskKey};

/// After this many calls in a row for what is urgent, a walk that waits gets one.
const URGENT_IN_A_ROW: u32 = 3;

/// A need and the call that it must at least be known from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Demand {
    pub(super) need: Need,
    pub(super) since: Instant,
}

/// What the ledger lacks for a demand: what kind of call brings it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Lack {
    /// The head page.
    Head,
    /// The latest tasks of these images.
    Images(Vec<ImageId>),
    /// The listing below what is known, or once more at a task that no look-up reaches.
    Deeper(Option<TaskKey>),
}

/// Sets of images of which EC2 refuses at least one, it is not known which: asked for apart from
/// all others, half a set at a time, until the bad one stands alone.
#[derive(Debug, Default)]
pub(super) struct Suspects(Vec<BTreeSet<ImageId>>);

impl Suspects {
    /// A call for these images failed: one of them is bad, and of the set that they were half of,
    /// nothing is known any more.
    pub(super) fn failed(&mut self, images: &[ImageId]) {
        self.refused(images);
        self.0.push(images.iter().cloned().collect());
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

/// What a demand lacks; None when it is met.
pub(super) fn lack(ledger: &Ledger, demand: &Demand) -> Option<Lack> {
    let Demand { need, since } = demand;
    if need.known(ledger).meets(*since) {
        return None;
    }
    Some(match need {
        Need::Listing { filter, after, count } => {
            listing_lack(ledger, *since, filter, after.as_ref(), *count)
        }
        Need::Latest { images, bucket } => latest_lack(ledger, *since, images, bucket.as_ref()),
        Need::Task(key) => task_lack(ledger, *since, key),
    })
}

/// The next call: the one that meets the most of the demands, or none when all are met.
pub(super) fn next_call<'a>(
    ledger: &Ledger,
    demands: impl Iterator<Item = &'a Demand>,
    suspects: &Suspects,
    urgent_in_a_row: u32,
) -> Option<Call> {
    let mut head = false;
    let mut images = Vec::new();
    let mut deeper = None;
    for lack in demands.filter_map(|demand| lack(ledger, demand)) {
        match lack {
            Lack::Head => head = true,
            Lack::Images(more) => images.extend(more),
            Lack::Deeper(target) => deeper = deeper.or(Some(target)),
        }
    }
    if let Some(target) = &deeper
        && (urgent_in_a_row >= URGENT_IN_A_ROW || (!head && images.is_empty()))
    {
        return Some(walk(ledger, target.as_ref()));
    }
    if head {
        return Some(Call::Head);
    }
    batch(images, suspects).map(Call::Images)
}

/// As many images as one call takes, beginning with the one that waits longest; of a set with a
/// bad one in it, half.
fn batch(images: Vec<ImageId>, suspects: &Suspects) -> Option<Vec<ImageId>> {
    let set = suspects.set_of(images.first()?);
    let mut seen = BTreeSet::new();
    let mut batch: Vec<_> = images
        .into_iter()
        .filter(|image| suspects.set_of(image) == set && seen.insert(image.clone()))
        .take(MAX_IMAGES_PER_CALL)
        .collect();
    if set.is_some() {
        batch.truncate(batch.len().div_ceil(2));
    }
    Some(batch)
}

/// Onwards from the bottom, or over known ground down to a task.
fn walk(ledger: &Ledger, target: Option<&TaskKey>) -> Call {
    let ground = ledger.ground();
    let wanted = target.map_or_else(|| ground.bottom().clone(), |key| Depth::At(key.clone()));
    let from_bottom =
        target.is_none().then(|| Some((ground.bottom().clone(), ground.next()?.clone()))).flatten();
    let from_cursor = || ledger.cursor().filter(|(depth, _)| *depth < wanted).cloned();
    let from_head = || {
        let head = ledger.head().filter(|head| head.bottom < wanted || target.is_none())?;
        Some((head.bottom.clone(), head.next.clone()?))
    };
    match from_bottom.or_else(from_cursor).or_else(from_head) {
        Some((from, token)) => Call::Next { from, token },
        None => Call::Head,
    }
}

fn head_is_fresh(ledger: &Ledger, since: Instant) -> bool {
    Known::from(ledger.head().map(|head| head.at)).meets(since)
}

fn listing_lack(
    ledger: &Ledger,
    since: Instant,
    filter: &TaskFilter,
    after: Option<&TaskKey>,
    count: usize,
) -> Lack {
    if !head_is_fresh(ledger, since) {
        return Lack::Head;
    }
    let Some(depth) = listing_depth(ledger, filter, after, count) else {
        return Lack::Deeper(None);
    };
    let stale = unfinished_that_matter(ledger, &depth, filter)
        .filter(|(_, told)| !Known::AsOf(*told).meets(since));
    let mut images = Vec::new();
    let mut deepest = None;
    for (task, _) in stale {
        match task_lack(ledger, since, &task.key) {
            Lack::Images(image) => images.extend(image),
            _ => deepest = Some(task.key.clone()),
        }
    }
    if images.is_empty() { Lack::Deeper(deepest) } else { Lack::Images(images) }
}

fn latest_lack(
    ledger: &Ledger,
    since: Instant,
    images: &BTreeSet<ImageId>,
    bucket: Option<&BucketName>,
) -> Lack {
    let unmet = || images.iter().filter(|image| !latest_known(ledger, image, bucket).meets(since));
    if !head_is_fresh(ledger, since) && unmet().any(|image| head_would_tell(ledger, image, bucket))
    {
        return Lack::Head;
    }
    // A look-up that named a task into another bucket has told what it can: only the listing has
    // the older ones.
    let (looked_up, ask): (Vec<_>, Vec<_>) = unmet()
        .cloned()
        .partition(|image| bucket.is_some() && Known::from(ledger.looked_up(image)).meets(since));
    if !ask.is_empty() {
        return Lack::Images(ask);
    }
    let filter = TaskFilter {
        images: looked_up.into_iter().collect(),
        buckets: bucket.into_iter().cloned().collect(),
        ..TaskFilter::default()
    };
    listing_lack(ledger, since, &filter, None, 1)
}

/// Whether a new head page would settle the latest task of an image: it does when the listing is
/// known down to that task, or to the end, and the task itself is on the page or finished.
fn head_would_tell(ledger: &Ledger, image: &ImageId, bucket: Option<&BucketName>) -> bool {
    let Some(head) = ledger.head() else { return true };
    let depth = match ledger.latest(image, bucket.map(BucketName::as_str)) {
        Some(task) if task.state.is_terminal() => Depth::At(task.key.clone()),
        Some(task) if Depth::At(task.key.clone()) <= head.bottom => return true,
        // Below the page and unfinished: a look-up tells, unless a newer task hides this one.
        Some(task) => {
            return ledger.latest(image, None).is_some_and(|latest| latest.key != task.key);
        }
        None => Depth::End,
    };
    depth <= *ledger.ground().bottom()
}

fn task_lack(ledger: &Ledger, since: Instant, key: &TaskKey) -> Lack {
    let on_head = ledger.head().is_none_or(|head| Depth::At(key.clone()) <= head.bottom);
    let is_latest = ledger.latest(&key.image_id, None).is_some_and(|task| task.key == *key);
    if on_head && !head_is_fresh(ledger, since) {
        Lack::Head
    } else if is_latest {
        Lack::Images(vec![key.image_id.clone()])
    } else {
        Lack::Deeper(Some(key.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cache::testing::{Clock, answer, image_id, next_page, token},
        domain::{StoreImageTask, TaskState},
    };

    /// A clock, and a ledger of an account with tasks 1 to 400: the head page read down to 200 at
    /// second 0, and the page below it down to 400 at second 1. Task 150 and 350 run, and a newer
    /// task hides another one of image 150 at 300.
    struct Story {
        clock: Clock,
        tasks: Vec<StoreImageTask>,
        ledger: Ledger,
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
            let ledger = Ledger::default()
                .merge(&Call::Head, &answer(tasks[..200].to_vec(), Some("a")), clock.at(0))
                .merge(
                    &next_page(&tasks[199], "a"),
                    &answer(tasks[200..].to_vec(), end),
                    clock.at(1),
                );
            Self { clock, tasks, ledger }
        }

        fn demand(&self, need: Need, since: u64) -> Demand {
            Demand { need, since: self.clock.at(since).instant }
        }

        fn call(&self, demands: &[Demand]) -> Option<Call> {
            next_call(&self.ledger, demands.iter(), &Suspects::default(), 0)
        }
    }

    fn listing(count: usize) -> Need {
        Need::Listing { filter: TaskFilter::default(), after: None, count }
    }

    fn latest(images: impl IntoIterator<Item = u64>) -> Need {
        Need::Latest { images: images.into_iter().map(image_id).collect(), bucket: None }
    }

    fn images(numbers: impl IntoIterator<Item = u64>) -> Option<Call> {
        Some(Call::Images(numbers.into_iter().map(image_id).collect()))
    }

    #[test]
    fn the_next_call_for_one_need() {
        let story = Story::new(false);
        let task = |number: usize| Need::Task(story.tasks[number - 1].key.clone());
        let next = |name: &str, after: usize| Some(next_page(&story.tasks[after - 1], name));
        for (what, need, since, expected) in [
            ("known and fresh", listing(100), 0, None),
            ("the top, stale", listing(100), 2, Some(Call::Head)),
            ("as deep as known", listing(400), 0, None),
            ("deeper than known", listing(401), 0, next("b", 400)),
            ("deeper, but the top is stale", listing(401), 2, Some(Call::Head)),
            ("a finished image on the head page", latest([10]), 2, Some(Call::Head)),
            ("a running image on the head page", latest([150]), 2, Some(Call::Head)),
            ("a finished image below it", latest([390]), 2, Some(Call::Head)),
            (
                "a running image below it: the head page would not tell",
                latest([350]),
                2,
                images([350]),
            ),
            ("an unknown image: nor here", latest([999]), 0, images([999])),
            ("several at once", latest([999, 1000]), 0, images([999, 1000])),
            ("a task that is over", task(10), 9, None),
            ("a running task on the head page", task(150), 2, Some(Call::Head)),
            ("a running task below it", task(350), 2, images([350])),
            ("a running task that a newer one hides", task(300), 2, next("a", 200)),
        ] {
            assert_eq!(story.call(&[story.demand(need, since)]), expected, "{what}");
        }
    }

    #[test]
    fn an_empty_ledger_begins_with_the_head_page() {
        let clock = Clock::new();
        let since = clock.at(0).instant;
        for need in [listing(1), listing(1000), latest([1]), latest(1..=100)] {
            let demand = Demand { need, since };
            let call =
                next_call(&Ledger::default(), [&demand].into_iter(), &Suspects::default(), 0);
            assert_eq!(call, Some(Call::Head), "{demand:?}");
        }
        assert_eq!(next_call(&Ledger::default(), [].into_iter(), &Suspects::default(), 0), None);
    }

    #[test]
    fn a_head_page_serves_all_kinds_of_needs() {
        let mut story = Story::new(true);
        let needs = [listing(100), latest([10]), latest([390]), latest([999]), listing(150)];
        let demands = needs.map(|need| story.demand(need, 2));
        assert_eq!(story.call(&demands), Some(Call::Head));
        let page = answer(story.tasks[..200].to_vec(), Some("c"));
        story.ledger = story.ledger.merge(&Call::Head, &page, story.clock.at(2));
        assert_eq!(story.call(&demands), None, "also that image 999 has no task: the end is known");
    }

    #[test]
    fn a_refresh_of_the_whole_list_asks_only_for_what_is_unfinished_below_the_head_page() {
        let mut story = Story::new(true);
        let demands = [story.demand(listing(400), 2)];
        let mut calls = Vec::new();
        while let Some(call) = story.call(&demands) {
            let tasks = match &call {
                Call::Head => answer(story.tasks[..200].to_vec(), Some("c")),
                Call::Next { .. } => answer(story.tasks[200..].to_vec(), None),
                Call::Images(_) => answer(vec![story.tasks[349].clone()], None),
            };
            story.ledger =
                story.ledger.merge(&call, &tasks, story.clock.at(2 + calls.len() as u64));
            calls.push(call);
            assert!(calls.len() < 10, "{calls:?}");
        }
        let [Call::Head, Call::Images(asked), Call::Next { token: next, .. }] = &calls[..] else {
            panic!("{calls:?}");
        };
        assert_eq!(
            (asked, next),
            (&vec![image_id(350)], &token("c")),
            "and walks to the hidden one"
        );
    }

    #[test]
    fn look_ups_are_batched_by_twenty_without_duplicates() {
        let story = Story::new(false);
        let demands = [1000..=1015, 1010..=1100].map(|range| story.demand(latest(range), 0));
        assert_eq!(story.call(&demands), images(1000..=1019));
    }

    #[test]
    fn urgent_needs_go_first_and_a_walk_does_not_wait_for_ever() {
        let story = Story::new(false);
        let demands = [story.demand(listing(1000), 0), story.demand(latest([999]), 0)];
        assert_eq!(story.call(&demands), images([999]));
        let call = next_call(&story.ledger, demands.iter(), &Suspects::default(), URGENT_IN_A_ROW);
        assert!(matches!(call, Some(Call::Next { .. })), "{call:?}");
    }

    #[test]
    fn a_walk_whose_token_was_refused_begins_anew_over_known_ground() {
        let mut story = Story::new(false);
        let demands = [story.demand(listing(1000), 0)];
        story.ledger = story.ledger.forget_token(&token("b"));
        assert_eq!(story.call(&demands), Some(next_page(&story.tasks[199], "a")));
        story.ledger = story.ledger.forget_token(&token("a"));
        assert_eq!(story.call(&demands), Some(Call::Head));
    }

    #[test]
    fn a_bucket_that_a_look_up_did_not_name_is_found_by_walking() {
        let mut story = Story::new(false);
        let bucket = Some(BucketName::parse("other-bucket").expect("valid"));
        let need = Need::Latest { images: [image_id(999)].into(), bucket };
        let demands = [story.demand(need, 0)];
        assert_eq!(story.call(&demands), images([999]));
        let found = answer(vec![story.clock.task(999, 5000, TaskState::Completed, 100)], None);
        let call = Call::Images(vec![image_id(999)]);
        story.ledger = story.ledger.merge(&call, &found, story.clock.at(2));
        assert_eq!(story.call(&demands), Some(next_page(&story.tasks[399], "b")));
    }

    #[test]
    fn a_bad_image_among_twenty_is_found_in_at_most_ten_calls() {
        let all: Vec<_> = (0..20).map(image_id).collect();
        for bad in &all {
            let mut suspects = Suspects::default();
            let mut open = all.clone();
            let mut calls = 0;
            while let Some(asked) = batch(open.clone(), &suspects) {
                calls += 1;
                match asked.as_slice() {
                    images if !images.contains(bad) => suspects.answered(images),
                    [_] => suspects.refused(&asked),
                    images => {
                        suspects.failed(images);
                        continue;
                    }
                }
                open.retain(|image| !asked.contains(image));
            }
            assert!(calls <= 10, "{calls} calls for {bad}");
        }
    }
}
