//! Stories: how EC2 behaves, what happens to the account, and who asks what.

use std::{cmp::Reverse, time::Duration};

use proptest::{
    collection::vec,
    option,
    prelude::*,
    strategy::{BoxedStrategy, Union},
};

use super::{
    ask::{Ask, ImagesAsk, ListingAsk},
    ec2::{Budget, Fault, Moment, Naming, Tokens, World, ec2_time},
    support::image_id,
};
use crate::domain::{BucketName, ImageId, StoreImageTask, TaskKey, TaskState, TaskStateKind};

/// Images of a story: few, so that they are stored again.
const IMAGES: u8 = 12;

/// What the stories are made of beyond the plain rules. A test switches each on by name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
pub(super) struct Features {
    /// Tasks that start at the same time.
    pub(super) ties: bool,
    /// Short and empty pages with a token.
    pub(super) short_pages: bool,
    /// Pages whose tasks come in no order.
    pub(super) unsorted: bool,
    /// Tokens that are refused with `InvalidParameterValue`; the first refusal is told to no caller.
    pub(super) token_codes: bool,
    /// Tokens that are numbers of tasks to leave out.
    pub(super) offsets: bool,
    /// A token that comes back unchanged.
    pub(super) repeated_tokens: bool,
    /// Pages that can never be read.
    pub(super) refused_pages: bool,
    /// Single answers that lack an unfinished task.
    pub(super) omissions: bool,
    /// Tasks that EC2 no longer lists.
    pub(super) vanishing: bool,
    /// Images that EC2 refuses to look up although they have tasks.
    pub(super) deregistered: bool,
    /// Images that EC2 refuses to look up with `AuthFailure`.
    pub(super) foreign_images: bool,
    /// A refused image is answered as missing, not with an error.
    pub(super) missing_images: bool,
    /// Several images together with a bucket.
    pub(super) images_into_buckets: bool,
    /// Images together with several buckets.
    pub(super) several_buckets: bool,
    /// Images together with states.
    pub(super) images_in_states: bool,
    /// Only tasks that started later.
    pub(super) started_after: bool,
    /// Steps of the gateway's wall clock.
    pub(super) clock_leaps: bool,
    /// States that EC2 invents, without a percentage.
    pub(super) new_states: bool,
    /// `collapsed` is said by RFC 9211.
    pub(super) collapsed: bool,
    /// A refusal no longer counts once EC2 has answered.
    pub(super) newer_success: bool,
    /// More unfinished tasks than the cache keeps, and tasks that are asked for by key after the bound
    /// of tasks evicted them.
    pub(super) evicted_tasks: bool,
    /// No call is made for a caller who has given up.
    pub(super) gone_callers: bool,
}

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
                    states.push((after, self.task(start, verifying, 0)));
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
            progress,
            failure_reason: failed.then(|| format!("failed at {progress}").into()),
        }
    }
}

fn weighted<T: std::fmt::Debug + 'static>(
    choices: Vec<(u32, BoxedStrategy<T>)>,
) -> BoxedStrategy<T> {
    let mut used = Vec::new();
    for (weight, choice) in choices {
        if weight > 0 {
            used.push((weight, choice));
        }
    }
    Union::new_weighted(used).boxed()
}

/// The weight of a choice that a feature brings.
fn when(feature: bool, weight: u32) -> u32 {
    if feature { weight } else { 0 }
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

fn store(features: Features) -> impl Strategy<Value = Store> {
    let shows_after = prop_oneof![
        6 => Just(0_u64),
        2 => 0..3_000_u64,
        1 => 3_000..200_000_u64,
    ];
    let step = prop_oneof![3 => 200..3_000_u64, 2 => 3_000..40_000_u64, 2 => 60_000..2_000_000_u64];
    let end = weighted(vec![
        (3, Just(End::Completes).boxed()),
        (2, (10..90_u8).prop_map(End::FailsAt).boxed()),
        (1, Just(End::Hangs).boxed()),
        (when(features.new_states, 4), Just(End::Verifies).boxed()),
    ]);
    let tie = if features.ties { any::<bool>().boxed() } else { Just(false).boxed() };
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

fn listing(features: Features) -> impl Strategy<Value = ListingPlan> {
    let started_after =
        if features.started_after { option::of(0..40_usize).boxed() } else { Just(None).boxed() };
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

fn images(features: Features) -> impl Strategy<Value = Plan> {
    let many = if features.images_into_buckets { 7 } else { 1 };
    let most = if features.several_buckets { 2 } else { 1 };
    let into_buckets = (vec(0..IMAGES, 1..=many), vec(any::<bool>(), 1..=most));
    let anywhere = (vec(0..IMAGES, 1..8), Just(Vec::new()));
    let named = prop_oneof![2 => anywhere, 1 => into_buckets];
    let states =
        if features.images_in_states { states().boxed() } else { Just(Vec::new()).boxed() };
    let started_after =
        if features.started_after { option::of(0..40_usize).boxed() } else { Just(None).boxed() };
    (named, states, started_after).prop_map(|((images, buckets), states, started_after)| {
        Plan::Images { images, buckets, states, started_after }
    })
}

/// A question.
pub(super) fn plan(features: Features) -> impl Strategy<Value = Plan> {
    prop_oneof![
        5 => listing(features).prop_map(Plan::Listing),
        4 => images(features),
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

fn ask(features: Features) -> impl Strategy<Value = Event> {
    let gaps = vec(prop_oneof![1 => Just(0_u64), 2 => 0..600_u64], 1..4);
    let patience = prop_oneof![4 => Just(None), 1 => (0..4_000_u64).prop_map(Some)];
    (plan(features), staleness(), gaps, patience).prop_map(|(plan, staleness, gaps, patience)| {
        Event::Ask { plan, staleness, gaps, patience }
    })
}

fn ask_again(features: Features) -> impl Strategy<Value = Event> {
    (0..4_usize, ask(features)).prop_map(|(nth, event)| match event {
        Event::Ask { staleness, gaps, patience, .. } => {
            Event::AskAgain { nth, staleness, gaps, patience }
        }
        other => other,
    })
}

/// A listing that is read page by page from the top.
fn walk(features: Features) -> impl Strategy<Value = Event> {
    let pause = prop_oneof![2 => 0..1_500_u64, 1 => 1_500..30_000_u64];
    (listing(features), staleness(), 1..9_usize, pause).prop_map(
        |(listing, staleness, count, pause)| {
            let listing = ListingPlan { after: None, count, ..listing };
            Event::Walk { listing, staleness, pause }
        },
    )
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

fn refuse(features: Features) -> impl Strategy<Value = Event> {
    // Images above those of the stories have no tasks.
    let unknown = IMAGES..IMAGES + 4;
    let codes = weighted(vec![
        (3, Just("InvalidAMIID.NotFound").boxed()),
        (1, Just("InvalidAMIID.Unavailable").boxed()),
        (when(features.foreign_images, 4), Just("AuthFailure").boxed()),
    ]);
    let image = if features.deregistered { (0..IMAGES + 4).boxed() } else { unknown.boxed() };
    (image, codes).prop_map(|(image, code)| Event::Refuse { image, code })
}

/// Refused images are asked for, together with others.
fn ask_with_refused(features: Features) -> impl Strategy<Value = Event> {
    let images = vec(0..IMAGES + 4, 1..6);
    (images, ask(features)).prop_map(|(images, event)| match event {
        Event::Ask { staleness, gaps, patience, .. } => {
            let (buckets, states) = (Vec::new(), Vec::new());
            let plan = Plan::Images { images, buckets, states, started_after: None };
            Event::Ask { plan, staleness, gaps, patience }
        }
        other => other,
    })
}

/// What happens in a story.
pub(super) fn events(features: Features) -> BoxedStrategy<Vec<Event>> {
    let slow = prop_oneof![2 => 0..300_u64, 2 => 2_000..6_000_u64, 1 => 6_000..40_000_u64];
    let leap = prop_oneof![-4_000_000..4_000_000_i64, -400..400_i64];
    let event = weighted(vec![
        (9, pause().prop_map(Event::Pause).boxed()),
        (7, vec(store(features), 1..7).prop_map(Event::Store).boxed()),
        (9, ask(features).boxed()),
        (8, ask_again(features).boxed()),
        (1, Just(Event::SpendBudget).boxed()),
        (2, walk(features).boxed()),
        (2, vec(fault(), 1..3).prop_map(Event::Fail).boxed()),
        (2, vec(slow, 1..4).prop_map(Event::Slow).boxed()),
        (2, refuse(features).boxed()),
        (2, ask_with_refused(features).boxed()),
        (1, (0..IMAGES + 4).prop_map(Event::Accept).boxed()),
        (2, Just(Event::ExpireTokens).boxed()),
        (when(features.vanishing, 1), (0..40_usize).prop_map(Event::Vanish).boxed()),
        (when(features.omissions, 2), vec(0..10_usize, 1..3).prop_map(Event::Omit).boxed()),
        (when(features.clock_leaps, 2), leap.prop_map(Event::Leap).boxed()),
    ]);
    let one = event.prop_map(|event| vec![event]);
    let chapter =
        prop_oneof![9 => one, 1 => old_answers_in_trouble(features), 1 => deep_reads(features)];
    vec(chapter, 1..36).prop_map(|chapters| chapters.concat()).boxed()
}

/// What was asked before is asked again while its answer is old and EC2 is in trouble.
fn old_answers_in_trouble(features: Features) -> impl Strategy<Value = Vec<Event>> {
    let pause = prop_oneof![1 => 5_000..10_000_u64, 3 => 10_000..300_000_u64];
    let trouble = prop_oneof![
        vec(2_500..20_000_u64, 1..3).prop_map(Event::Slow),
        Just(Event::SpendBudget),
        vec(fault(), 1..3).prop_map(Event::Fail),
    ];
    (pause, trouble, ask_again(features), 0..4_000_u64, ask_again(features)).prop_map(
        |(pause, trouble, first, gap, then)| {
            let Event::AskAgain { nth, gaps, .. } = first else { return Vec::new() };
            let first = Event::AskAgain { nth, staleness: None, gaps, patience: None };
            vec![Event::Pause(pause), trouble, first, Event::Pause(gap), then]
        },
    )
}

/// A listing is read far down, and again when EC2 no longer takes its tokens.
fn deep_reads(features: Features) -> impl Strategy<Value = Vec<Event>> {
    let stores = vec(store(features), 3..9).prop_map(Event::Store);
    (stores, listing(features), 0..3_000_u64, 0..2_000_u64).prop_map(
        |(stores, listing, pause, gap)| {
            let plan = Plan::Listing(ListingPlan { after: None, count: 1000, ..listing });
            let (staleness, patience) = (Some(0), None);
            let ask = Event::Ask { plan, staleness, gaps: vec![0], patience };
            let again = Event::AskAgain { nth: 0, staleness, gaps: vec![0], patience };
            let (pause, gap) = (Event::Pause(pause), Event::Pause(gap));
            vec![stores, ask, pause, Event::ExpireTokens, gap, again]
        },
    )
}

/// How EC2 behaves in a story.
pub(super) fn world(features: Features) -> BoxedStrategy<World> {
    let page_sizes = if features.short_pages {
        prop_oneof![Just(vec![5]), vec(0..6_usize, 1..5).prop_map(with_a_task)].boxed()
    } else {
        prop_oneof![2 => Just(vec![5]), 1 => Just(vec![12])].boxed()
    };
    let at_end = if features.short_pages { any::<bool>().boxed() } else { Just(false).boxed() };
    let unsorted = if features.unsorted { any::<bool>().boxed() } else { Just(false).boxed() };
    let tokens = weighted(vec![
        (3, Just(Tokens::Positions).boxed()),
        (when(features.offsets, 6), Just(Tokens::Offsets).boxed()),
        (when(features.repeated_tokens, 6), Just(Tokens::Repeated).boxed()),
        (when(features.refused_pages, 6), (1..4_usize).prop_map(Tokens::RefusedFrom).boxed()),
    ]);
    let token_code = weighted(vec![
        (1, Just("InvalidNextToken").boxed()),
        (1, Just("InvalidPaginationToken").boxed()),
        (when(features.token_codes, 4), Just("InvalidParameterValue").boxed()),
    ]);
    let latencies = prop_oneof![
        2 => Just(vec![500]),
        2 => vec(20..900_u64, 1..5),
        1 => vec(20..3_500_u64, 1..5),
    ];
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
    (pages, latencies, reads_at, lags, naming, budget)
        .prop_map(|(pages, latencies, reads_at, lags, naming, budget)| {
            let (page_sizes, token_at_end, unsorted, tokens, token_code) = pages;
            World {
                page_sizes,
                token_at_end,
                unsorted,
                tokens,
                token_code,
                latencies,
                reads_at,
                lags,
                naming,
                budget,
            }
        })
        .boxed()
}

/// Pages that are all empty would never end a listing.
fn with_a_task(mut sizes: Vec<usize>) -> Vec<usize> {
    sizes.push(3);
    sizes
}
