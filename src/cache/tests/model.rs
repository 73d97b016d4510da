//! The properties of a scope's cache: whatever EC2 and the callers do, every answer is one that EC2
//! could have given to some attempt in the allowed window.

use std::{env, fmt::Debug, io::Write as _};

use proptest::{
    prelude::*,
    test_runner::{RngSeed, TestError, TestRunner},
};

use super::{
    ec2::{Tokens, World},
    run::{Run, on_paused_clock},
    story::{End, Event, ListingPlan, Plan, Store, events, world},
};
use crate::cache::Settings;

/// The seed of CI. `AMISTORE_SEED` names another, or is `random`.
const SEED: u64 = 1;

/// The number of cases, and the seed that they come from.
fn config(name: &str, cases: u32) -> (ProptestConfig, u64) {
    let cases = env::var("AMISTORE_CASES").map_or(cases, |factor| {
        let factor: u32 = factor.parse().expect("AMISTORE_CASES: a factor by which cases grow");
        cases * factor
    });
    let seed = match env::var("AMISTORE_SEED").as_deref() {
        Err(_) => SEED,
        Ok("random") => fastrand::u64(..),
        Ok(seed) => seed.parse().expect("AMISTORE_SEED: a number, or `random`"),
    };
    // The macros of the standard library print only when a test fails.
    let _ = writeln!(std::io::stderr(), "{name}: {cases} cases of seed {seed}");
    let config = ProptestConfig {
        cases,
        rng_seed: RngSeed::Fixed(seed),
        failure_persistence: None,
        max_shrink_iters: 2_000,
        max_shrink_time: 30_000,
        ..ProptestConfig::default()
    };
    (config, seed)
}

/// Tries a property on random stories.
fn for_all<T: Debug>(
    name: &str,
    cases: u32,
    stories: impl Strategy<Value = T>,
    property: impl Fn(&T) -> Result<(), String>,
) {
    let (config, seed) = config(name, cases);
    let result = TestRunner::new(config)
        .run(&stories, |story| property(&story).map_err(TestCaseError::fail));
    match result {
        Ok(()) => {}
        Err(TestError::Fail(fault, story)) => {
            panic!("{name}, seed {seed}: {fault}\nthe shortest such story: {story:?}")
        }
        Err(TestError::Abort(reason)) => panic!("{name}, seed {seed}: {reason}"),
    }
}

/// A world and what happens in it.
type Story = (World, Vec<Event>);

fn stories() -> impl Strategy<Value = Story> {
    (world(), events())
}

/// Every caller is told in time, of what EC2 could have said; errors reach those whom they concern,
/// and do not outlive their cause.
fn holds(story: &Story, settings: &Settings) -> Result<(), String> {
    play(story, settings)?.judge()
}

/// Plays a story to its end.
fn play((world, events): &Story, settings: &Settings) -> Result<Run, String> {
    on_paused_clock(async {
        let mut run = Run::new(world.clone(), settings.clone());
        for event in events {
            run.live(event).await;
        }
        run.heal_and_ask_all().await?;
        run.judge_bounds()?;
        Ok(run)
    })
}

/// How often the stories come to each path of the cache. Stories that miss one prove nothing of it.
#[derive(Debug, Default)]
struct Reached(std::collections::BTreeMap<&'static str, usize>);

impl Reached {
    fn count(&mut self, run: &Run) {
        for path in run.paths() {
            *self.0.entry(path).or_default() += 1;
        }
    }
}

/// The paths that the stories must reach, each in at least one of a hundred stories.
#[test]
fn the_stories_reach_every_path() {
    let reached = std::cell::RefCell::new(Reached::default());
    for_all("every path", 400, stories(), |story| {
        let run = play(story, &Settings::default())?;
        reached.borrow_mut().count(&run);
        Ok(())
    });
    let reached = reached.into_inner().0;
    for path in super::run::PATHS {
        let stories = reached.get(path).copied().unwrap_or(0);
        assert!(stories >= 4, "{path}: {stories} of 400 stories; {reached:#?}");
    }
}

#[test]
fn every_answer_is_one_that_ec2_could_have_given() {
    let settings = Settings::default();
    for_all("every answer", 1500, stories(), |story| holds(story, &settings));
}

/// Bounds that many stories meet.
fn narrow() -> Settings {
    Settings { max_waiting: 6, max_queries: 3, max_tasks: 15, ..Settings::default() }
}

/// Invariant 7 (docs/invariants.md): what is over a bound is refused, and every answer is true.
#[test]
fn answers_are_true_within_narrow_bounds() {
    let settings = Settings { max_tasks: 30, ..narrow() };
    let stories = stories().prop_map(within_bounds);
    for_all("narrow bounds", 600, stories, |story| holds(story, &settings));
}

/// All tasks of the story end within seconds, no replica tells of them late, and callers read first
/// pages only: few tasks are unfinished at once, and no walk meets the bound of tasks.
fn within_bounds((mut world, mut events): Story) -> Story {
    world.lags = vec![0];
    for event in &mut events {
        match event {
            Event::Store(stores) => stores.iter_mut().for_each(shorten),
            Event::Ask { plan: Plan::Listing(listing), .. } => {
                *listing = ListingPlan { after: None, count: 4, ..ListingPlan::default() };
            }
            _ => {}
        }
    }
    events.retain(|event| !matches!(event, Event::Walk { .. }));
    (world, events)
}

fn shorten(store: &mut Store) {
    store.step = 200 + store.step % 300;
    if matches!(store.end, End::Hangs) {
        store.end = End::Completes;
    }
}

/// More tasks than are kept, many of them never finished, and walks over all of them.
#[test]
fn more_tasks_than_are_kept_are_refused() {
    let settings = narrow();
    for_all("unfinished", 300, stories(), |story| holds(story, &settings));
}

/// Pages may be short or empty, and a token may lead to the end.
#[test]
fn short_and_empty_pages_lead_on() {
    with_world("short pages", |world| World {
        page_sizes: vec![0, 1, 0, 3, 1],
        token_at_end: true,
        ..world
    });
}

/// Then only the listing of all tasks must be whole.
#[test]
fn tokens_may_be_offsets() {
    with_world("offsets", |world| world.with_tokens(Tokens::Offsets));
}

#[test]
fn a_token_that_repeats_ends_a_walk() {
    with_world("repeated tokens", |world| world.with_tokens(Tokens::Repeated));
}

#[test]
fn a_page_that_cannot_be_read_ends_a_walk() {
    with_world("refused pages", |world| world.with_tokens(Tokens::RefusedFrom(1)));
}

/// Stories of an EC2 that behaves in one way always, which few of all stories have.
fn with_world(name: &str, change: impl Fn(World) -> World) {
    let stories = stories().prop_map(|(world, events)| (change(world), events));
    let settings = Settings::default();
    for_all(name, 300, stories, |story| holds(story, &settings));
}

/// Tasks that start together may stand on either of two pages.
#[test]
fn tasks_of_the_same_start_time_are_told_once() {
    let stories = stories().prop_map(|(world, mut events)| {
        for event in &mut events {
            if let Event::Store(stores) = event {
                for store in stores {
                    store.tie = true;
                }
            }
        }
        (world, events)
    });
    let settings = Settings::default();
    for_all("ties", 300, stories, |story| holds(story, &settings));
}
