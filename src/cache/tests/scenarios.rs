//! Single stories whose calls are counted exactly: who is told of an error and until when, what is
//! refreshed behind an old answer, who waits for whom.

use std::time::Duration;

use tokio::time::sleep;

use super::{
    ask::{Ask, Heard, ImagesAsk, ListingAsk},
    ec2::{Budget, Fault, World, lock},
    run::{Run, on_paused_clock},
    story::{End, Event, Store},
    support::image_id,
};
use crate::{
    cache::{CacheError, Outcome, Settings, StaleReason},
    domain::{ListingFilter, TaskStateKind},
};

/// How long a call takes.
const CALL: Duration = Duration::from_millis(500);
const NONE: Option<Duration> = Some(Duration::ZERO);

fn run(world: World) -> Run {
    Run::new(world, Settings::default())
}

/// Tasks of these images, which end after some seconds.
fn stores(images: impl IntoIterator<Item = u8>, end: End) -> Event {
    let mut stores = Vec::new();
    for image in images {
        let (bucket, tie) = (false, false);
        stores.push(Store { image, bucket, shows_after: 0, step: 1000, gain: 34, end, tie });
    }
    Event::Store(stores)
}

/// Tasks that have all ended, of which the first page is known.
async fn ended(tasks: u8) -> Run {
    let mut run = run(World::plain(5));
    run.live(&stores(0..tasks, End::Completes)).await;
    sleep(Duration::from_mins(10)).await;
    run.ask(top(), NONE).await;
    run
}

/// The same, and an image that EC2 refuses to look up.
async fn refusing_an_image() -> Run {
    let mut run = ended(40).await;
    run.live(&Event::Refuse { image: 99, code: "InvalidAMIID.NotFound" }).await;
    run
}

fn everything() -> Ask {
    Ask::Listing(ListingAsk::everything(1000))
}

fn top() -> Ask {
    Ask::Listing(ListingAsk::everything(1))
}

fn failed() -> Ask {
    let states = [TaskStateKind::Failed].into();
    Ask::Listing(ListingAsk { states, ..ListingAsk::everything(1000) })
}

fn images(numbers: impl IntoIterator<Item = u64>) -> Ask {
    let images = numbers.into_iter().map(image_id).collect();
    Ask::Images(ImagesAsk { images, ..ImagesAsk::default() })
}

fn outcome(heard: &Heard) -> Outcome {
    let result = heard.result.as_ref().expect("the caller waits");
    result.as_ref().expect("answered").outcome.clone()
}

fn error(heard: &Heard) -> CacheError {
    let result = heard.result.as_ref().expect("the caller waits");
    result.as_ref().expect_err("refused").clone()
}

#[test]
fn a_crowd_costs_one_call() {
    on_paused_clock(async {
        let mut run = run(World::plain(5));
        run.live(&stores(0..3, End::Completes)).await;
        for ask in [top(), everything(), images([1]), images([1, 2, 9])] {
            let before = run.calls();
            sleep(Duration::from_hours(1)).await;
            for _ in 0..1000 {
                run.ask_after(Duration::ZERO, ask.clone(), NONE, None);
            }
            run.quiet().await.expect("all are told");
            assert_eq!(run.calls() - before, 1, "{ask:?}");
        }
    });
}

#[test]
fn a_denial_is_remembered_for_a_second_for_those_who_take_it() {
    on_paused_clock(async {
        let mut run = run(World::plain(5));
        run.live(&Event::Fail(vec![Fault::Denied])).await;
        let denied = run.ask(top(), None).await;
        assert!(matches!(error(&denied), CacheError::Upstream(_)));
        assert_eq!(denied.ended - denied.arrived, CALL, "told at once");
        for ask in [top(), everything(), failed(), images([1])] {
            sleep(Duration::from_millis(100)).await;
            let again = run.ask(ask, None).await;
            assert!(matches!(error(&again), CacheError::Remembered { .. }), "{again:?}");
        }
        assert_eq!(run.calls(), 1);
        let fresh = run.ask(top(), NONE).await;
        assert!(matches!(outcome(&fresh), Outcome::Fetched { .. }), "it takes no old refusal");
        assert_eq!(run.calls(), 2);
    });
}

#[test]
fn a_denial_is_forgotten_after_a_second() {
    on_paused_clock(async {
        let mut run = run(World::plain(5));
        run.live(&Event::Fail(vec![Fault::Denied])).await;
        run.ask(top(), None).await;
        sleep(Duration::from_millis(999)).await;
        assert!(matches!(error(&run.ask(top(), None).await), CacheError::Remembered { .. }));
        sleep(Duration::from_millis(1)).await;
        assert!(matches!(outcome(&run.ask(top(), None).await), Outcome::Fetched { .. }));
        assert_eq!(run.calls(), 2);
    });
}

#[test]
fn a_refusal_of_one_listing_is_not_the_refusal_of_another() {
    on_paused_clock(async {
        let mut run = ended(30).await;
        run.live(&Event::Fail(vec![Fault::Invalid])).await;
        let refused = run.ask(failed(), None).await;
        let CacheError::Upstream(refusal) = error(&refused) else { panic!("{refused:?}") };
        let filtered = lock(&run.ec2).attempts.last().expect("it").target.clone();
        let filter = ListingFilter { states: [TaskStateKind::Failed].into(), ..Default::default() };
        assert_eq!(
            filtered,
            crate::domain::DescribeTarget::Listing { filter, next: None },
            "EC2 filters"
        );
        let again = run.ask(failed(), None).await;
        let CacheError::Remembered { error, left } = error(&again) else { panic!("{again:?}") };
        assert_eq!((error, left), (refusal, Duration::from_secs(1)));
        let calls = run.calls();
        outcome(&run.ask(top(), None).await);
        outcome(&run.ask(images([1]), None).await);
        outcome(&run.ask(everything(), None).await);
        assert!(run.calls() > calls, "the others are asked for");
    });
}

/// A refusal that is not about the image.
#[test]
fn a_refusal_of_a_look_up_is_remembered_for_its_images_and_no_other() {
    on_paused_clock(async {
        let mut run = ended(40).await;
        run.live(&Event::Fail(vec![Fault::Invalid])).await;
        let refused = run.ask(images([99]), None).await;
        assert!(matches!(error(&refused), CacheError::Upstream(_)), "{refused:?}");
        let calls = run.calls();
        let again = run.ask(images([99]), None).await;
        assert!(matches!(error(&again), CacheError::Remembered { .. }), "{again:?}");
        assert_eq!(run.calls(), calls);
        outcome(&run.ask(images([98]), None).await);
        assert_eq!(run.calls(), calls + 1);
    });
}

/// It is no error, but what a look-up tells of the image.
#[test]
fn the_refusal_of_an_image_is_as_old_as_its_call() {
    on_paused_clock(async {
        let mut run = refusing_an_image().await;
        let codes = |heard: Heard| {
            let told = heard.result.expect("the caller waits").expect("answered");
            told.missing.into_iter().map(|missing| missing.ec2_code).collect::<Vec<_>>()
        };
        let refused = [Some("InvalidAMIID.NotFound".into())];
        assert_eq!(codes(run.ask(images([99]), None).await), refused);
        run.live(&Event::Accept(99)).await;
        sleep(Duration::from_secs(1)).await;
        let calls = run.calls();
        let again = run.ask(images([99]), None).await;
        assert_eq!((run.calls(), again.ended), (calls, again.arrived), "{again:?}");
        assert_eq!(codes(again), refused, "within the TTL");
        assert_eq!(codes(run.ask(images([99]), NONE).await), [None], "EC2 accepts it now");
        assert!(run.calls() > calls);
    });
}

#[test]
fn an_error_ends_the_wait_of_those_who_came_before_its_call_and_of_no_other() {
    on_paused_clock(async {
        for fault in [Fault::Denied, Fault::Unavailable, Fault::Throttled, Fault::Malformed] {
            let mut run = run(World::plain(5));
            run.live(&Event::Fail(vec![fault])).await;
            run.ask_after(Duration::ZERO, top(), NONE, None);
            run.ask_after(Duration::ZERO, everything(), NONE, None);
            // These come while the call runs, and take nothing that was asked before.
            for after in [1, 250, 499] {
                run.ask_after(Duration::from_millis(after), top(), NONE, None);
            }
            run.quiet().await.expect("all are told");
            for heard in run.heard() {
                let after = heard.ended - heard.arrived;
                match heard.result.as_ref().expect("nobody gives up") {
                    Err(error) => {
                        assert!(matches!(error, CacheError::Upstream(_)), "{error:?}");
                        assert_eq!(after, CALL, "{fault:?}: with the call");
                    }
                    Ok(told) => assert!(told.as_of >= Some(heard.arrived), "{heard:?}"),
                }
            }
            let heard = run.heard();
            let refused = heard.iter().filter(|heard| matches!(heard.result, Some(Err(_))));
            assert_eq!(refused.count(), 2, "{fault:?}");
            assert_eq!(run.calls(), 2, "{fault:?}");
        }
    });
}

#[test]
fn an_old_answer_is_refreshed_behind_once() {
    on_paused_clock(async {
        let mut run = run(World::plain(5));
        run.live(&stores(0..40, End::Completes)).await;
        sleep(Duration::from_mins(10)).await;
        let asks = [images([39, 35]), images([1]), failed(), everything(), images([2, 3])];
        for ask in &asks {
            outcome(&run.ask(ask.clone(), NONE).await);
        }
        for ask in &asks {
            outcome(&run.ask(ask.clone(), NONE).await);
        }
        sleep(Duration::from_secs(7)).await;
        let stale = tokio::time::Instant::now();
        let calls = run.calls();
        let mut refreshed = Vec::new();
        for ask in &asks {
            let heard = run.ask(ask.clone(), None).await;
            assert_eq!(heard.arrived, stale, "at once");
            if outcome(&heard) == Outcome::StaleWhileRevalidate {
                refreshed.push(ask.clone());
            }
        }
        assert!(refreshed.len() >= 3, "{refreshed:?}");
        run.quiet().await.expect("nobody waits");
        assert!(run.calls() > calls);
        let calls = run.calls();
        for ask in refreshed {
            let heard = run.ask(ask, Some(stale.elapsed())).await;
            assert_eq!(outcome(&heard), Outcome::Hit, "refreshed since: {heard:?}");
        }
        assert_eq!(run.calls(), calls);
    });
}

/// The caller has gone by then.
#[test]
fn an_old_answer_that_was_given_for_want_of_budget_is_refreshed_behind() {
    on_paused_clock(async {
        let budget = Some(Budget { burst: 1, every: 5_000 });
        let mut run = run(World { budget, ..World::plain(5) });
        run.live(&stores(0..3, End::Completes)).await;
        run.ask(top(), NONE).await;
        sleep(Duration::from_secs(20)).await;
        run.live(&Event::SpendBudget).await;
        let calls = run.calls();
        let stale = run.ask(top(), None).await;
        assert_eq!(outcome(&stale), Outcome::StaleIfError(StaleReason::BudgetSpent));
        sleep(Duration::from_secs(10)).await;
        assert_eq!(run.calls(), calls + 1);
        assert_eq!(outcome(&run.ask(top(), None).await), Outcome::Hit);
    });
}

#[test]
fn an_old_answer_is_given_only_while_ec2_is_in_trouble() {
    on_paused_clock(async {
        let mut run = run(World::plain(5));
        run.live(&stores(0..3, End::Completes)).await;
        run.ask(top(), NONE).await;
        sleep(Duration::from_secs(20)).await;
        run.live(&Event::Slow(vec![10_000])).await;
        let stale = run.ask(top(), None).await;
        assert!(matches!(outcome(&stale), Outcome::StaleIfError(_)));
        assert_eq!(stale.ended - stale.arrived, Duration::from_secs(2));
        sleep(Duration::from_secs(4)).await;
        let during = run.ask(top(), None).await;
        assert!(matches!(outcome(&during), Outcome::StaleIfError(_)), "{during:?}");
        assert_eq!(during.ended, during.arrived, "the trouble is known");
        // The slow call ends, and with it the trouble.
        sleep(Duration::from_secs(60)).await;
        let after = run.ask(top(), None).await;
        assert!(matches!(outcome(&after), Outcome::Fetched { .. }), "{after:?}");
    });
}

#[test]
fn all_who_take_an_old_answer_have_it_when_a_call_is_slow() {
    on_paused_clock(async {
        let mut run = run(World::plain(5));
        run.live(&stores(0..3, End::Completes)).await;
        run.ask(top(), NONE).await;
        sleep(Duration::from_secs(20)).await;
        run.live(&Event::Slow(vec![10_000])).await;
        for _ in 0..3 {
            run.ask_after(Duration::ZERO, top(), None, None);
        }
        run.quiet().await.expect("all are told");
        for heard in &run.heard()[1..] {
            assert!(matches!(outcome(heard), Outcome::StaleIfError(_)), "{heard:?}");
            assert_eq!(heard.ended - heard.arrived, Duration::from_secs(2));
        }
    });
}

#[test]
fn an_image_that_is_refused_does_not_fail_the_others_of_its_call() {
    on_paused_clock(async {
        let mut run = refusing_an_image().await;
        let askers = [images([1]), images([99]), images([2, 3]), images([4])];
        for ask in &askers {
            run.ask_after(Duration::ZERO, ask.clone(), NONE, None);
        }
        run.quiet().await.expect("all are told");
        for heard in run.heard() {
            let bad = heard.ask == images([99]);
            let failed = matches!(heard.result, Some(Err(_)));
            assert!(!failed || bad, "{heard:?}");
        }
    });
}

/// A cache that keeps few tasks, and new tasks on each first page that it reads.
async fn evicting(max_tasks: usize) -> Run {
    let settings = Settings { max_tasks, ..Settings::default() };
    let mut run = Run::new(World::plain(5), settings);
    for round in 0..6 {
        run.live(&stores(4 * round..4 * round + 4, End::Completes)).await;
        sleep(Duration::from_mins(10)).await;
        outcome(&run.ask(top(), NONE).await);
    }
    run
}

#[test]
fn a_listing_is_whole_or_refused_after_an_eviction() {
    on_paused_clock(async {
        for max_tasks in [8, 12, 16, 23] {
            let run = evicting(max_tasks).await;
            let heard = run.ask(everything(), None).await;
            match heard.result.as_ref().expect("the caller waits") {
                Ok(told) => assert_eq!(told.tasks.len(), 24, "with {max_tasks} tasks"),
                Err(error) => assert_eq!(*error, CacheError::TooManyTasks),
            }
            for image in 0..24 {
                let heard = run.ask(images([image]), None).await;
                match heard.result.expect("the caller waits") {
                    Ok(told) => assert_eq!(told.tasks.len(), 1, "with {max_tasks} tasks"),
                    // That an image is never too much is one of the known faults.
                    Err(error) => assert_eq!(error, CacheError::TooManyTasks),
                }
            }
        }
    });
}

#[test]
fn a_task_that_hides_an_unfinished_one_is_not_evicted() {
    on_paused_clock(async {
        let settings = Settings { max_tasks: 10, ..Settings::default() };
        let mut run = Run::new(World::plain(5), settings);
        run.live(&stores([0], End::Hangs)).await;
        run.live(&stores([0], End::Completes)).await;
        sleep(Duration::from_mins(10)).await;
        outcome(&run.ask(top(), NONE).await);
        for round in 0..6 {
            run.live(&stores(4 * round + 1..4 * round + 5, End::Completes)).await;
            sleep(Duration::from_mins(10)).await;
            outcome(&run.ask(top(), NONE).await);
            let heard = run.ask(images([0]), None).await;
            let told = heard.result.expect("the caller waits").expect("answered");
            assert!(told.tasks[0].state.is_terminal(), "round {round}: {told:?}");
        }
    });
}

#[test]
fn no_call_is_made_for_a_caller_who_has_gone() {
    on_paused_clock(async {
        let mut run = run(World::plain(5));
        run.live(&stores(0..10, End::Hangs)).await;
        sleep(Duration::from_mins(10)).await;
        run.ask(everything(), NONE).await;
        sleep(Duration::from_secs(20)).await;
        let calls = run.calls();
        run.live(&Event::Slow(vec![10_000])).await;
        run.ask_after(Duration::ZERO, top(), NONE, None);
        run.ask_after(Duration::ZERO, everything(), None, Some(Duration::from_millis(1)));
        run.quiet().await.expect("all are told");
        assert_eq!(run.calls() - calls, 1, "the first page is for the one who waits");
    });
}

/// One caller that asks for very much does not keep another from a single call.
#[test]
fn a_single_look_up_does_not_wait_for_a_large_one() {
    on_paused_clock(async {
        let budget = Some(Budget { burst: 1, every: 2500 });
        let mut run = run(World { budget, ..World::plain(5) });
        run.live(&stores(0..100, End::Completes)).await;
        sleep(Duration::from_mins(10)).await;
        run.ask(top(), NONE).await;
        run.ask_after(Duration::ZERO, images(10_000..11_000), NONE, None);
        run.ask_after(Duration::from_secs(3), images([20_000]), NONE, None);
        run.quiet().await.expect("all are told");
        for heard in run.heard() {
            if heard.ask == images([20_000]) {
                let waited = heard.ended - heard.arrived;
                assert!(waited <= Duration::from_secs(20), "{waited:?}");
            }
        }
    });
}

/// However often the caller gives up and asks again, each page is read once, but for the first, which is
/// read for each question. Failed tasks are half of all, so the listing of all tasks is read: its pages
/// can no longer change when all of their tasks are terminal and too old for late neighbours.
#[test]
fn a_caller_who_asks_again_is_answered_after_each_page_was_read_about_once() {
    on_paused_clock(async {
        let budget = Some(Budget { burst: 1, every: 2500 });
        let mut run = run(World { budget, ..World::plain(5) });
        run.live(&stores(0..120, End::Completes)).await;
        run.live(&stores(0..120, End::FailsAt(50))).await;
        sleep(Duration::from_mins(20)).await;
        for _ in 0..50 {
            let patience = Some(Duration::from_secs(10));
            run.ask_after(Duration::ZERO, failed(), None, patience);
            run.all_told().await.expect("the caller gives up");
            if run.heard().last().is_some_and(|heard| heard.result.is_some()) {
                break;
            }
        }
        let answered = run.heard().last().is_some_and(|heard| heard.result.is_some());
        assert!(answered, "after {} calls", run.calls());
        let (calls, questions) = (run.calls(), run.heard().len());
        assert!(calls <= 48 + questions, "{calls} calls for 48 pages and {questions} questions");
    });
}

/// More tasks than are kept are refused at once, not asked for again and again.
#[test]
fn more_running_tasks_than_are_kept_are_refused_at_once() {
    on_paused_clock(async {
        let settings = Settings { max_tasks: 50, ..Settings::default() };
        let mut run = Run::new(World::plain(5), settings);
        run.live(&stores(0..49, End::Hangs)).await;
        run.live(&stores([200], End::FailsAt(90))).await;
        sleep(Duration::from_secs(1)).await;
        run.ask(everything(), NONE).await;
        sleep(Duration::from_mins(10)).await;
        run.ask_after(Duration::ZERO, failed(), NONE, Some(Duration::from_mins(10)));
        run.all_told().await.expect("the caller gives up");
        let heard = run.heard().pop().expect("one");
        assert!(heard.result.is_some(), "neither answer nor refusal after {} calls", run.calls());
        assert!(run.calls() <= 40, "{} calls", run.calls());
    });
}
