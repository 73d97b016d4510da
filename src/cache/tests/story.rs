//! Stories: how EC2 behaves, what happens to the account, and who asks what.

use std::{cmp::Reverse, time::Duration};

use proptest::{collection::vec, option, prelude::*, strategy::BoxedStrategy};

use super::{
    ask::{Ask, ImagesAsk, ListingAsk},
    ec2::{Budget, Fault, Moment, Naming, Tokens, World, ec2_time},
    support::image_id,
};
use crate::domain::{BucketName, ImageId, StoreImageTask, TaskKey, TaskState, TaskStateKind};

/// Images of a story: few, so that they are stored again.
const IMAGES: u8 = 12;

/// One thing that happens.
#[derive(Clone, Debug)]
pub(super) enum Event {
    /// This many milliseconds pass.
    Pause(u64),
    /// Tasks start.
    Store(Vec<Store>),
    /// Callers ask the same, one after the other.
    Ask { plan: Plan, staleness: Option<u64>, gaps: Vec<u64>, patience: Option<u64> },
    /// Callers ask again what was asked before, counted from the last question.
    AskAgain { nth: usize, staleness: Option<u64>, gaps: Vec<u64>, patience: Option<u64> },
    /// No call is left of the budget.
    SpendBudget,
    /// A caller reads a listing page by page, with pauses in milliseconds.
    Walk { listing: ListingPlan, staleness: Option<u64>, pause: u64 },
    /// The next calls fail.
    Fail(Vec<Fault>),
    /// The next calls take this many milliseconds.
    Slow(Vec<u64>),
    /// EC2 refuses to look up an image.
    Refuse { image: u8, code: &'static str },
    /// EC2 looks up an image again.
    Accept(u8),
    /// EC2 no longer takes the tokens that it gave.
    ExpireTokens,
    /// EC2 no longer lists the nth task.
    Vanish(usize),
    /// The next listings each leave out an unfinished task.
    Omit(Vec<usize>),
    /// The gateway's wall clock is this many seconds off from now on.
    Leap(i64),
}

/// A task that starts.
#[derive(Clone, Debug)]
pub(super) struct Store {
    pub(super) image: u8,
    pub(super) bucket: bool,
    /// Milliseconds until EC2 lists it.
    pub(super) shows_after: u64,
    /// Milliseconds from one state to the next.
    pub(super) step: u64,
    /// Percent gained at each step.
    pub(super) gain: u8,
    pub(super) end: End,
    /// It starts at the same time as the task before it.
    pub(super) tie: bool,
}

/// How a task ends.
#[derive(Clone, Copy, Debug)]
pub(super) enum End {
    Completes,
    /// At this many percent.
    FailsAt(u8),
    /// It passes through a state that EC2 invented.
    Verifies,
    /// Never.
    Hangs,
}

/// A question whose tasks are named by their places among those that callers have seen.
#[derive(Clone, Debug)]
pub(super) enum Plan {
    Listing(ListingPlan),
    Images {
        images: Vec<u8>,
        buckets: Vec<bool>,
        states: Vec<TaskStateKind>,
        started_after: Option<usize>,
    },
    Task(usize),
}

#[derive(Clone, Debug, Default)]
pub(super) struct ListingPlan {
    pub(super) states: Vec<TaskStateKind>,
    pub(super) bucket: Option<bool>,
    pub(super) started_after: Option<usize>,
    pub(super) after: Option<usize>,
    pub(super) count: usize,
}

impl Plan {
    /// The question, if the tasks that it names have been seen.
    pub(super) fn ask(&self, seen: &[TaskKey]) -> Option<Ask> {
        match self {
            Self::Listing(plan) => Some(Ask::Listing(plan.ask(seen))),
            Self::Images { images, buckets, states, started_after } => {
                let mut named = Vec::new();
                for image in images {
                    let image = image_id((*image).into());
                    if !named.contains(&image) {
                        named.push(image);
                    }
                }
                Some(Ask::Images(ImagesAsk {
                    images: named,
                    states: states.iter().copied().collect(),
                    buckets: buckets.iter().copied().map(bucket_name).collect(),
                    started_after: nth(seen, *started_after).map(|key| key.start_time.0),
                }))
            }
            Self::Task(number) => nth(seen, Some(*number)).map(Ask::Task),
        }
    }
}

impl ListingPlan {
    pub(super) fn ask(&self, seen: &[TaskKey]) -> ListingAsk {
        ListingAsk {
            states: self.states.iter().copied().collect(),
            buckets: self.bucket.map(bucket_name).into_iter().collect(),
            started_after: nth(seen, self.started_after).map(|key| key.start_time.0),
            after: nth(seen, self.after),
            count: self.count,
        }
    }
}

fn nth(seen: &[TaskKey], number: Option<usize>) -> Option<TaskKey> {
    let number = number?;
    if seen.is_empty() { None } else { Some(seen[number % seen.len()].clone()) }
}

/// One of the two buckets of the stories.
pub(super) fn bucket_name(other: bool) -> BucketName {
    let name = if other { "other-bucket" } else { "bucket" };
    BucketName::parse(name).expect("valid")
}

impl Store {
    pub(super) fn image(&self) -> ImageId {
        image_id(self.image.into())
    }

    /// All states of the task, with the time that each begins after it shows up.
    pub(super) fn states(&self, start: Moment) -> Vec<(Duration, StoreImageTask)> {
        let mut states = vec![(Duration::ZERO, self.task(start, TaskState::InProgress, 0))];
        let (mut progress, mut after) = (0, Duration::ZERO);
        let step = Duration::from_millis(self.step);
        while progress < 100 {
            after += step;
            progress = (progress + self.gain.max(1)).min(100);
            match self.end {
                End::Hangs if progress >= 50 => break,
                End::FailsAt(percent) if progress >= percent => {
                    states.push((after, self.task(start, TaskState::Failed, progress.min(99))));
                    break;
                }
                End::Verifies if progress == 100 => {
                    let verifying = TaskState::Other("Verifying".into());
                    states.push((
                        after,
                        StoreImageTask { progress: None, ..self.task(start, verifying, 0) },
                    ));
                    after += step;
                    states.push((after, self.task(start, TaskState::Completed, 100)));
                }
                _ if progress == 100 => {
                    states.push((after, self.task(start, TaskState::Completed, 100)));
                }
                _ => states.push((after, self.task(start, TaskState::InProgress, progress))),
            }
        }
        states
    }

    fn task(&self, start: Moment, state: TaskState, progress: u8) -> StoreImageTask {
        let image_id = self.image();
        let failed = state == TaskState::Failed;
        StoreImageTask {
            key: TaskKey {
                start_time: Reverse(ec2_time(start)),
                image_id,
                bucket: bucket_name(self.bucket).as_str().into(),
            },
            object_key: format!("{image_id}.bin").into(),
            state,
            progress: Some(progress),
            failure_reason: failed.then(|| format!("failed at {progress}").into()),
        }
    }
}

/// Milliseconds: mostly parts of a call, sometimes several calls, minutes, hours or weeks.
fn pause() -> impl Strategy<Value = u64> {
    prop_oneof![
        12 => 0..700_u64,
        6 => 700..5_000_u64,
        6 => 5_000..11_000_u64,
        4 => 11_000..60_000_u64,
        2 => 250_000..700_000_u64,
        2 => 3_600_000..40_000_000_u64,
        1 => 86_400_000..3_000_000_000_u64,
    ]
}

fn store() -> impl Strategy<Value = Store> {
    let shows_after = prop_oneof![
        6 => Just(0_u64),
        2 => 0..3_000_u64,
        1 => 3_000..200_000_u64,
    ];
    let step = prop_oneof![3 => 200..3_000_u64, 2 => 3_000..40_000_u64, 2 => 60_000..2_000_000_u64];
    let end = prop_oneof![
        6 => Just(End::Completes),
        4 => (10..90_u8).prop_map(End::FailsAt),
        2 => Just(End::Hangs),
        1 => Just(End::Verifies),
    ];
    let tie = prop_oneof![3 => Just(false), 1 => Just(true)];
    let place = (0..IMAGES, any::<bool>(), shows_after);
    (place, step, 15..60_u8, end, tie).prop_map(
        |((image, bucket, shows_after), step, gain, end, tie)| Store {
            image,
            bucket,
            shows_after,
            step,
            gain,
            end,
            tie,
        },
    )
}

fn states() -> impl Strategy<Value = Vec<TaskStateKind>> {
    use TaskStateKind::{Completed, Failed, InProgress};
    prop_oneof![
        2 => Just(Vec::new()),
        2 => proptest::sample::subsequence(vec![InProgress, Completed, Failed], 1..3),
    ]
}

fn listing() -> impl Strategy<Value = ListingPlan> {
    let started_after = option::of(0..40_usize);
    let bucket = prop_oneof![2 => Just(None), 1 => any::<bool>().prop_map(Some)];
    let after = prop_oneof![3 => Just(None), 1 => (0..40_usize).prop_map(Some)];
    let count = prop_oneof![4 => 1..8_usize, 2 => 8..25_usize, 1 => Just(1000_usize)];
    (states(), bucket, started_after, after, count).prop_map(
        |(states, bucket, started_after, after, count)| ListingPlan {
            states,
            bucket,
            started_after,
            after,
            count,
        },
    )
}

fn images() -> impl Strategy<Value = Plan> {
    let into_buckets = (vec(0..IMAGES, 1..=7), vec(any::<bool>(), 1..=2));
    let anywhere = (vec(0..IMAGES, 1..8), Just(Vec::new()));
    let named = prop_oneof![2 => anywhere, 1 => into_buckets];
    (named, states(), option::of(0..40_usize)).prop_map(
        |((images, buckets), states, started_after)| Plan::Images {
            images,
            buckets,
            states,
            started_after,
        },
    )
}

/// A question.
pub(super) fn plan() -> impl Strategy<Value = Plan> {
    prop_oneof![
        5 => listing().prop_map(Plan::Listing),
        4 => images(),
        2 => (0..40_usize).prop_map(Plan::Task),
    ]
}

/// Milliseconds of staleness: often none.
fn staleness() -> impl Strategy<Value = Option<u64>> {
    prop_oneof![
        4 => Just(Some(0)),
        3 => Just(None),
        1 => (1..4_000_u64).prop_map(Some),
        1 => (4_000..60_000_u64).prop_map(Some),
    ]
}

fn ask() -> impl Strategy<Value = Event> {
    let gaps = vec(prop_oneof![1 => Just(0_u64), 2 => 0..600_u64], 1..4);
    let patience = prop_oneof![4 => Just(None), 1 => (0..4_000_u64).prop_map(Some)];
    (plan(), staleness(), gaps, patience).prop_map(|(plan, staleness, gaps, patience)| Event::Ask {
        plan,
        staleness,
        gaps,
        patience,
    })
}

fn ask_again() -> impl Strategy<Value = Event> {
    (0..4_usize, ask()).prop_map(|(nth, event)| match event {
        Event::Ask { staleness, gaps, patience, .. } => {
            Event::AskAgain { nth, staleness, gaps, patience }
        }
        other => other,
    })
}

/// A listing that is read page by page from the top.
fn walk() -> impl Strategy<Value = Event> {
    let pause = prop_oneof![2 => 0..1_500_u64, 1 => 1_500..30_000_u64];
    (listing(), staleness(), 1..9_usize, pause).prop_map(|(listing, staleness, count, pause)| {
        let listing = ListingPlan { after: None, count, ..listing };
        Event::Walk { listing, staleness, pause }
    })
}

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        Just(Fault::Denied),
        Just(Fault::Unavailable),
        Just(Fault::Throttled),
        Just(Fault::Malformed),
        Just(Fault::Invalid),
    ]
}

fn refuse() -> impl Strategy<Value = Event> {
    let codes = prop_oneof![
        3 => Just("InvalidAMIID.NotFound"),
        1 => Just("InvalidAMIID.Unavailable"),
        4 => Just("AuthFailure"),
    ];
    // Images above those of the stories have no tasks.
    (0..IMAGES + 4, codes).prop_map(|(image, code)| Event::Refuse { image, code })
}

/// Refused images are asked for, together with others.
fn ask_with_refused() -> impl Strategy<Value = Event> {
    let images = vec(0..IMAGES + 4, 1..6);
    (images, ask()).prop_map(|(images, event)| match event {
        Event::Ask { staleness, gaps, patience, .. } => {
            let (buckets, states) = (Vec::new(), Vec::new());
            let plan = Plan::Images { images, buckets, states, started_after: None };
            Event::Ask { plan, staleness, gaps, patience }
        }
        other => other,
    })
}

/// What happens in a story.
pub(super) fn events() -> BoxedStrategy<Vec<Event>> {
    let slow = prop_oneof![2 => 0..300_u64, 2 => 2_000..6_000_u64, 1 => 6_000..40_000_u64];
    let leap = prop_oneof![-4_000_000..4_000_000_i64, -400..400_i64];
    let event = prop_oneof![
        9 => pause().prop_map(Event::Pause),
        7 => vec(store(), 1..7).prop_map(Event::Store),
        9 => ask(),
        8 => ask_again(),
        1 => Just(Event::SpendBudget),
        2 => walk(),
        2 => vec(fault(), 1..3).prop_map(Event::Fail),
        2 => vec(slow, 1..4).prop_map(Event::Slow),
        2 => refuse(),
        2 => ask_with_refused(),
        1 => (0..IMAGES + 4).prop_map(Event::Accept),
        2 => Just(Event::ExpireTokens),
        1 => (0..40_usize).prop_map(Event::Vanish),
        2 => vec(0..10_usize, 1..3).prop_map(Event::Omit),
        2 => leap.prop_map(Event::Leap),
    ];
    let one = event.prop_map(|event| vec![event]);
    let chapter = prop_oneof![9 => one, 1 => old_answers_in_trouble(), 1 => deep_reads()];
    vec(chapter, 1..36).prop_map(|chapters| chapters.concat()).boxed()
}

/// What was asked before is asked again while its answer is old and EC2 is in trouble.
fn old_answers_in_trouble() -> impl Strategy<Value = Vec<Event>> {
    let pause = prop_oneof![1 => 5_000..10_000_u64, 3 => 10_000..300_000_u64];
    let trouble = prop_oneof![
        vec(2_500..20_000_u64, 1..3).prop_map(Event::Slow),
        Just(Event::SpendBudget),
        vec(fault(), 1..3).prop_map(Event::Fail),
    ];
    (pause, trouble, ask_again(), 0..4_000_u64, ask_again()).prop_map(
        |(pause, trouble, first, gap, then)| {
            let Event::AskAgain { nth, gaps, .. } = first else { return Vec::new() };
            let first = Event::AskAgain { nth, staleness: None, gaps, patience: None };
            vec![Event::Pause(pause), trouble, first, Event::Pause(gap), then]
        },
    )
}

/// A listing is read far down, and again when EC2 no longer takes its tokens.
fn deep_reads() -> impl Strategy<Value = Vec<Event>> {
    let stores = vec(store(), 3..9).prop_map(Event::Store);
    (stores, listing(), 0..3_000_u64, 0..2_000_u64).prop_map(|(stores, listing, pause, gap)| {
        let plan = Plan::Listing(ListingPlan { after: None, count: 1000, ..listing });
        let (staleness, patience) = (Some(0), None);
        let ask = Event::Ask { plan, staleness, gaps: vec![0], patience };
        let again = Event::AskAgain { nth: 0, staleness, gaps: vec![0], patience };
        let (pause, gap) = (Event::Pause(pause), Event::Pause(gap));
        vec![stores, ask, pause, Event::ExpireTokens, gap, again]
    })
}

/// How EC2 behaves in a story.
pub(super) fn world() -> BoxedStrategy<World> {
    let page_sizes = prop_oneof![
        2 => Just(vec![5]),
        1 => Just(vec![12]),
        1 => vec(0..6_usize, 1..5).prop_map(with_a_task),
    ];
    let at_end = prop_oneof![3 => Just(false), 1 => Just(true)];
    let unsorted = any::<bool>();
    let tokens = prop_oneof![
        12 => Just(Tokens::Positions),
        2 => Just(Tokens::Offsets),
        1 => Just(Tokens::Repeated),
        1 => (1..4_usize).prop_map(Tokens::RefusedFrom),
    ];
    let token_code = prop_oneof![
        1 => Just("InvalidNextToken"),
        1 => Just("InvalidPaginationToken"),
        2 => Just("InvalidParameterValue"),
    ];
    let latencies = prop_oneof![
        2 => Just(vec![500]),
        2 => vec(20..900_u64, 1..5),
        1 => vec(20..3_500_u64, 1..5),
    ];
    let retries = prop_oneof![4 => Just(vec![0]), 1 => vec(0..6_000_u64, 1..4)];
    let reads_at = prop_oneof![3 => Just(0_u64), 1 => 0..=100_u64];
    let lags = prop_oneof![
        3 => Just(vec![0]),
        2 => vec(0..4_000_u64, 1..4),
        1 => vec(0..60_000_u64, 1..4),
    ];
    let naming = prop_oneof![Just(Naming::None), Just(Naming::First), Just(Naming::All)];
    let budget = prop_oneof![
        3 => Just(None),
        1 => (1..20_u32, 500..4_000_u64).prop_map(|(burst, every)| Some(Budget { burst, every })),
    ];
    let pages = (page_sizes, at_end, unsorted, tokens, token_code);
    (pages, (retries, latencies), reads_at, lags, naming, budget)
        .prop_map(|(pages, (retries, latencies), reads_at, lags, naming, budget)| {
            let (page_sizes, token_at_end, unsorted, tokens, token_code) = pages;
            World {
                page_sizes,
                token_at_end,
                unsorted,
                tokens,
                token_code,
                retries,
                latencies,
                reads_at,
                lags,
                naming,
                budget,
            }
            .with_tokens(tokens)
        })
        .boxed()
}

/// Pages that are all empty would never end a listing.
fn with_a_task(mut sizes: Vec<usize>) -> Vec<usize> {
    sizes.push(3);
    sizes
}
