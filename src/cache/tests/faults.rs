//! Rules of EC2's and of freshness, and faults that the cache once had, each with the right outcome.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::{
    support::image_id,
    world::{Tokens, World, all, latest, listing, scope},
};
use crate::{
    cache::{CacheError, CacheRead, MissingImage, Outcome, Query, Settings},
    domain::{
        Caller, DescribeTarget, ErrorKind, ImageId, ListingFilter, StoreImageTask, TaskState,
        TaskStateKind,
    },
};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

fn images(found: &CacheRead) -> Vec<ImageId> {
    found.reading.tasks.iter().map(|task| task.key.image_id).collect()
}

fn ids(numbers: impl IntoIterator<Item = u64>) -> Vec<ImageId> {
    numbers.into_iter().map(image_id).collect()
}

fn after(task: &StoreImageTask, states: &[TaskStateKind], count: usize) -> Query {
    let Query::Listing { filter, .. } = listing(states, None, count) else { unreachable!("it is") };
    Query::Listing { filter, after: Some(task.key.clone()), count }
}

#[tokio::test(start_paused = true)]
async fn images_come_in_the_order_of_the_query_and_states_only_remove() {
    let world = World::new();
    world.add_done([1, 2, 3], 60);
    let running = world.add_running(4, 10);
    let found = world.get(latest([3, 9, 4, 1])).await.expect("answered");
    assert_eq!(images(&found), ids([3, 4, 1]));
    let missing = MissingImage { image_id: image_id(9), ec2_code: None, known_since: None };
    assert_eq!(found.reading.missing, std::slice::from_ref(&missing));
    let Query::Images { images: asked, .. } = latest([3, 9, 4, 1]) else { unreachable!("it is") };
    let in_progress = Query::Images {
        images: asked.clone(),
        buckets: [].into(),
        started_after: None,
        states: [TaskStateKind::InProgress].into(),
    };
    let found = world.get(in_progress).await.expect("answered");
    assert_eq!((images(&found), &found.reading.missing), (ids([4]), &vec![missing]));
    let since = Query::Images {
        images: asked,
        buckets: [].into(),
        started_after: Some(running.key.start_time.0 - SECOND),
        states: [].into(),
    };
    let found = world.get(since).await.expect("answered");
    assert_eq!((images(&found), found.reading.missing.len()), (ids([4]), 3));
    assert_eq!(world.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_image_that_ec2_does_not_know_is_missing_and_one_that_was_deregistered_is_found() {
    for names_images in [true, false] {
        let world = World::new();
        world.ec2().names_images = names_images;
        world.add_done(1..=200, 60);
        let running = world.add_running(300, 200);
        world.ec2().refused = [
            (image_id(35), "InvalidAMIID.NotFound"),
            (image_id(300), "InvalidAMIID.NotFound"),
            (image_id(999), "InvalidAMIID.NotFound"),
        ]
        .into();
        let found = world.get(latest([999, 150, 300, 35])).await.expect("no image fails a query");
        assert_eq!(images(&found), ids([150, 300, 35]), "names images: {names_images}");
        let [missing] = &found.reading.missing[..] else { panic!("{:?}", found.reading.missing) };
        assert_eq!(missing.image_id, image_id(999));
        assert_eq!(missing.ec2_code.as_deref(), Some("InvalidAMIID.NotFound"));
        let known_since = missing.known_since.expect("not the whole listing was read");
        assert!(known_since > running.key.start_time.0 - 60 * MINUTE);
        // The first page and five pages below it, no further within this TTL.
        let pages = |world: &World| {
            world
                .ec2()
                .calls
                .iter()
                .filter(|call| format!("{call:?}").contains("states: {}"))
                .count()
        };
        assert_eq!(pages(&world), 6);
        sleep(6 * SECOND).await;
        let again = world.get_now(latest([999])).await.expect("missing");
        let deeper = again.reading.missing[0].known_since.expect("not the whole listing yet");
        assert!(deeper < known_since, "the next request goes on from there");
    }
}

#[tokio::test(start_paused = true)]
async fn an_auth_failure_about_one_image_is_noticed_by_no_other_caller() {
    let world = World::new();
    world.add_done(1..=200, 60);
    world.ec2().refused = [(image_id(120), "AuthFailure")].into();
    world.get(all(10)).await.expect("answered");
    let (bad, good) = tokio::join!(world.get(latest([120])), world.get(latest([150])));
    assert_eq!(images(&good.expect("not concerned")), ids([150]));
    let bad = bad.expect("no image fails a query");
    assert_eq!(bad.reading.missing[0].ec2_code.as_deref(), Some("AuthFailure"));
    world.get_now(all(10)).await.expect("not concerned");
    world.ec2().broken = Some((ErrorKind::Credentials, "AuthFailure"));
    let refused = world.get_now(all(10)).await.expect_err("refused");
    assert!(refused.to_string().contains("us-east-1"), "{refused}");
    assert!(refused.to_string().contains("may not be enabled"), "{refused}");
    let refused = world.get_now(latest([160])).await.expect_err("refused");
    assert!(matches!(refused, CacheError::Upstream(_)), "{refused:?}");
}

/// Whether EC2 still lists is asked once for a set of images, not for each part of it.
#[tokio::test(start_paused = true)]
async fn one_call_shows_that_an_auth_failure_is_about_one_of_many_images() {
    let world = World::new();
    world.add_done(1..=200, 60);
    world.ec2().refused = [(image_id(120), "AuthFailure")].into();
    world.ec2().names_images = false;
    world.get(all(10)).await.expect("answered");
    let found = world.get(latest([120, 121, 122, 123])).await.expect("no image fails a query");
    assert_eq!(images(&found), ids(121..=123));
    let ec2 = world.ec2();
    let first = DescribeTarget::Listing { filter: ListingFilter::default(), next: None };
    let lists = ec2.calls.iter().skip(1).filter(|call| **call == first).count();
    assert_eq!(lists, 1, "{:?}", ec2.calls);
}

#[tokio::test(start_paused = true)]
async fn any_refusal_of_a_token_restarts_the_walk_once_and_the_second_one_is_an_error() {
    for code in ["InvalidNextToken", "InvalidParameterValue", "SomethingNew"] {
        let world = World::new();
        world.add_done(1..=50, 60);
        world.get(all(35)).await.expect("answered");
        world.ec2().tokens = Tokens::RefusedFrom(4, code);
        let before = world.calls();
        let error = world.get(all(50)).await.expect_err("refused twice");
        let CacheError::Upstream(error) = error else { panic!("{error:?}") };
        assert_eq!(error.kind, ErrorKind::MalformedAnswer);
        assert!(error.message.contains(code), "{}", error.message);
        assert!(world.calls() - before <= 2 + 4, "{:#?}", world.ec2().calls);
        world.ec2().tokens = Tokens::Taken;
        assert_eq!(world.get(all(50)).await.expect("healed").reading.tasks.len(), 50);
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_that_repeats_is_an_error_after_two_calls() {
    let world = World::new();
    world.add_done(1..=50, 60);
    world.ec2().tokens = Tokens::Repeated;
    let error = world.get(all(50)).await.expect_err("a circle");
    assert!(
        matches!(&error, CacheError::Upstream(error) if error.kind == ErrorKind::MalformedAnswer)
    );
    assert_eq!(world.calls(), 2);
    assert_eq!(world.get(all(5)).await.expect("the first page is good").reading.tasks.len(), 5);
}

#[tokio::test(start_paused = true)]
async fn tokens_that_lead_in_a_circle_are_an_error_when_it_closes() {
    let world = World::new();
    world.add_done(1..=50, 60);
    world.ec2().tokens = Tokens::BackFrom(3);
    let answer = timeout(MINUTE, world.get(all(50))).await.expect("no walk is endless");
    let error = answer.expect_err("a circle");
    assert!(
        matches!(&error, CacheError::Upstream(error) if error.kind == ErrorKind::MalformedAnswer)
    );
    assert_eq!(world.calls(), 4);
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_dated_by_the_attempt_that_was_answered() {
    let world = World::new();
    world.add_done(1..=5, 60);
    world.ec2().attempts = vec![Duration::ZERO, 5 * SECOND, 15 * SECOND];
    let begun = Instant::now();
    let late = async {
        sleep(3 * SECOND).await;
        world.get_now(all(5)).await
    };
    let (first, late) = tokio::join!(world.get_now(all(5)), late);
    for found in [first.expect("answered"), late.expect("answered")] {
        let as_of = found.as_of().expect("a call");
        assert_eq!(as_of.instant, begun + 15 * SECOND);
    }
    assert_eq!(world.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn collapsed_is_said_of_a_call_that_another_request_had_or_shared() {
    let world = World::new();
    world.add_done(1..=5, 60);
    let collapsed = |found: &CacheRead| match found.outcome {
        Outcome::Fetched { collapsed, .. } => collapsed,
        _ => panic!("{:?}", found.outcome),
    };
    let alone = world.get_now(all(5)).await.expect("answered");
    assert!(!collapsed(&alone));
    let late = async {
        sleep(Duration::from_millis(50)).await;
        world.scope.get(all(3), Some(Duration::from_millis(60))).await
    };
    let (first, joined) = tokio::join!(world.get_now(all(5)), late);
    assert!(!collapsed(&first.expect("answered")), "made for it alone");
    assert!(collapsed(&joined.expect("answered")), "had been started for another");
    let (one, two) = tokio::join!(world.get_now(all(5)), world.get_now(latest([3])));
    assert!(collapsed(&one.expect("answered")) && collapsed(&two.expect("answered")));
    let (one, two) = tokio::join!(world.get_now(all(5)), world.get_now(all(5)));
    assert!(collapsed(&one.expect("answered")) && collapsed(&two.expect("answered")));
}

#[tokio::test(start_paused = true)]
async fn collapsed_is_said_also_if_the_call_brings_only_a_part_of_the_answer() {
    let world = World::new();
    world.add_done(1..=20, 60);
    let collapsed =
        |found: &CacheRead| matches!(found.outcome, Outcome::Fetched { collapsed: true, .. });
    let begun = Instant::now();
    let late = async {
        sleep(Duration::from_millis(150)).await;
        world.scope.get(all(20), Some(MINUTE)).await
    };
    let (first, late) = tokio::join!(world.get_now(all(20)), late);
    assert!(!collapsed(&first.expect("answered")), "made for it alone");
    let late = late.expect("answered");
    assert_eq!(late.as_of().map(|call| call.instant), Some(begun), "by the page above");
    assert!(collapsed(&late), "the second page was being read");
    assert_eq!(world.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_page_deep_down_a_filtered_listing_is_reached_by_attempts_that_are_cut_short() {
    let world = World::new();
    world.add_done(1..=400, 60);
    for task in &mut world.ec2().tasks {
        if task.key.start_time.0 < world.clock.at(0).wall - 100 * MINUTE {
            task.state = TaskState::Failed;
        }
    }
    world.add_done(1_000..1_400, 600);
    world.ec2().latency = 3 * SECOND;
    world.get(all(1)).await.expect("answered");
    let target = world.ec2().tasks[340].clone();
    let query = after(&target, &[TaskStateKind::Failed], 5);
    let mut attempts = 0;
    let found = loop {
        attempts += 1;
        assert!(attempts < 10, "never answered");
        match timeout(30 * SECOND, world.get_now(query.clone())).await {
            Ok(found) => break found.expect("answered"),
            // The client calls again after a while, past the TTL.
            Err(_) => sleep(20 * SECOND).await,
        }
    };
    assert_eq!(images(&found), ids(342..=346));
    assert!(world.calls() <= 40, "each page is read about once: {}", world.calls());
}

#[tokio::test(start_paused = true)]
async fn below_the_watermark_a_walk_without_staleness_reads_no_page_again() {
    let world = World::new();
    world.add_done(1..=100, 60);
    world.get(all(100)).await.expect("answered");
    let before = world.calls();
    sleep(MINUTE).await;
    let last = world.ec2().tasks[39].clone();
    let found = world.get_now(after(&last, &[], 30)).await.expect("answered");
    assert_eq!(images(&found), ids(41..=70));
    assert_eq!((world.calls(), found.as_of()), (before, None));
}

#[tokio::test(start_paused = true)]
async fn with_no_room_deep_reads_are_refused_at_once_and_first_pages_and_images_go_on() {
    let world = World::with(Settings { max_tasks: 30, ..Settings::default() });
    for image in 1..=40 {
        world.add_running(image, image);
    }
    world.add_done([100], 0);
    let refused = world.get(all(60)).await.expect_err("no room");
    assert_eq!(refused, CacheError::TooManyTasks);
    let before = world.calls();
    assert!(before <= 4, "{before} calls");
    assert_eq!(world.get(all(60)).await.expect_err("no room"), CacheError::TooManyTasks);
    assert_eq!(world.calls(), before, "at once");
    assert_eq!(images(&world.get_now(all(5)).await.expect("served")), ids([100, 1, 2, 3, 4]));
    assert_eq!(images(&world.get_now(latest([39])).await.expect("looked up")), ids([39]));
}

/// A client comes back to a watch, with a task that is no longer known.
#[tokio::test(start_paused = true)]
async fn with_no_room_a_task_that_only_the_listing_tells_is_refused_at_once() {
    let world = World::with(Settings { max_tasks: 30, ..Settings::default() });
    world.add_done(1..=200, 60);
    let older = world.clock.task(7, 200, TaskState::Failed, 5);
    world.ec2().tasks.push(older.clone());
    world.get(all(5)).await.expect("answered");
    let newest = world.ec2().tasks[150].key.clone();
    let found = world.get(Query::Task(newest)).await.expect("looked up");
    assert_eq!(found.reading.tasks.len(), 1);
    let calls = world.calls();
    let answer = world.get(Query::Task(older.key)).await;
    assert_eq!(answer.expect_err("a newer task hides it from look-ups"), CacheError::TooManyTasks);
    assert!(world.calls() <= calls + 6, "{} calls", world.calls() - calls);
}

#[tokio::test(start_paused = true)]
async fn with_no_room_many_images_are_still_looked_up() {
    let world = World::with(Settings { max_tasks: 30, ..Settings::default() });
    world.add_done(1..=200, 60);
    world.ec2().page = 50;
    let found = world.get(latest(1..=200)).await.expect("answered");
    assert_eq!((images(&found), found.reading.missing.len()), (ids(1..=200), 0));
    assert!(world.calls() <= 14, "{} calls", world.calls());
}

#[tokio::test(start_paused = true)]
async fn a_watched_task_is_never_evicted() {
    let world = World::with(Settings { max_tasks: 20, ..Settings::default() });
    world.add_done(1..=30, 60);
    let watched = world.ec2().tasks[29].clone();
    let unwatched = world.ec2().tasks[28].clone();
    world.get(latest([30, 29])).await.expect("looked up");
    let kept = world.scope.keep(&watched.key);
    let known = |key| world.scope.subscribe().borrow().task(key).is_some();
    let _ = world.get(all(30)).await;
    sleep(SECOND).await;
    assert!(known(&watched.key) && !known(&unwatched.key));
    drop(kept);
    let _ = world.get_now(latest([28])).await;
    let _ = world.get_now(all(20)).await;
    sleep(SECOND).await;
    assert!(!known(&watched.key), "it is watched no longer");
}

/// The scope that was idle longest gives its tasks first
#[tokio::test(start_paused = true)]
async fn the_bound_of_tasks_is_shared_and_an_idle_scope_gives_first() {
    let world = World::with(Settings { max_tasks: 600, ..Settings::default() });
    world.ec2().page = 200;
    world.add_done(1..=600, 60);
    let idle = world.cache.scope(&scope("eu-west-1"));
    let _ = idle.get(all(350), None).await;
    sleep(MINUTE).await;
    let found = world.get(all(350)).await.expect("there is room");
    assert_eq!(found.reading.tasks.len(), 350);
    sleep(SECOND).await;
    let tasks = |scope: &crate::cache::ScopeCache| scope.subscribe().borrow().len();
    assert!(tasks(&idle) <= 200, "{} tasks", tasks(&idle));
    assert!(tasks(&world.scope) >= 350, "{} tasks", tasks(&world.scope));
}

#[tokio::test(start_paused = true)]
async fn an_unfinished_task_is_gone_after_several_answers_without_it_and_comes_back_if_listed() {
    let world = World::new();
    let task = world.add_running(1, 60);
    world.add_done(2..=5, 70);
    world.get(all(10)).await.expect("answered");
    sleep(6 * MINUTE).await;
    world.ec2().left_out = ids([1]);
    let lacking = world.get_now(all(10)).await.expect("answered");
    assert_eq!(images(&lacking)[0], image_id(1), "one answer without it means nothing");
    for _ in 0..6 {
        sleep(MINUTE).await;
        world.get_now(all(10)).await.expect("answered");
    }
    let gone = world.get_now(Query::Task(task.key.clone())).await.expect("answered");
    assert!(gone.reading.tasks.is_empty(), "EC2 has not listed it for five minutes");
    world.ec2().left_out.clear();
    assert_eq!(images(&world.get_now(all(10)).await.expect("answered"))[0], image_id(1));
}

#[tokio::test(start_paused = true)]
async fn tasks_of_the_same_start_time_at_a_page_boundary_are_on_exactly_one_page() {
    let world = World::new();
    for image in (1..=40).rev() {
        // Fives of them start at the same time; EC2 lists them in another order than the gateway.
        world.add_running(image, 60 + (image - 1) / 5);
    }
    let mut expected = world.ec2().tasks.clone();
    expected.sort_by(|one, two| one.key.cmp(&two.key));
    world.ec2().page = 7;
    for round in 0..8 {
        let mut seen = Vec::new();
        let mut query = all(4);
        loop {
            let found = world.get_now(query).await.expect("answered");
            seen.extend(found.reading.tasks.iter().map(|task| (**task).clone()));
            if !found.reading.more {
                break;
            }
            query = after(seen.last().expect("some"), &[], 4);
        }
        assert_eq!(seen, expected, "round {round}");
        sleep(2 * MINUTE).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_empty_first_page_with_a_token_is_still_the_first_page() {
    let world = World::new();
    world.add_done(1..=5, 60);
    world.ec2().empty_first_page = true;
    world.get_now(all(10)).await.expect("answered");
    sleep(Duration::from_millis(10)).await;
    let asked = Instant::now();
    let found = world.get_now(all(10)).await.expect("answered");
    assert_eq!(images(&found), ids(1..=5));
    assert!(found.as_of().expect("a call").instant >= asked);
    assert_eq!(world.calls(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_query_about_a_thousand_images_lets_single_look_ups_go_between() {
    let world = World::new();
    world.add_done(1..=200, 60);
    world.get(all(1)).await.expect("answered");
    let crowd = world.get(latest(10_000..11_000));
    let single = async {
        sleep(Duration::from_millis(250)).await;
        let asked = Instant::now();
        let found = world.get(latest([150])).await.expect("answered");
        (images(&found), asked.elapsed())
    };
    let (crowd, (found, took)) = tokio::join!(crowd, single);
    assert_eq!(found, ids([150]));
    assert!(took <= Duration::from_millis(400), "{took:?}");
    assert_eq!(crowd.expect("answered").reading.missing.len(), 1_000);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_ends_with_a_newer_answer() {
    let world = World::with(Settings { refusal_ttl: MINUTE, ..Settings::default() });
    world.add_done(1..=5, 60);
    world.ec2().broken = Some((ErrorKind::Denied, "UnauthorizedOperation"));
    world.get(all(5)).await.expect_err("denied");
    let remembered = world.get(all(5)).await.expect_err("denied");
    assert!(matches!(remembered, CacheError::Remembered { .. }));
    world.ec2().broken = None;
    world.get_now(all(3)).await.expect("a request that insists is not told the old refusal");
    world.get(all(5)).await.expect("EC2 has answered since");
    world.get(latest([9])).await.expect("EC2 has answered since");
}

#[tokio::test(start_paused = true)]
async fn a_wall_clock_that_leaps_loses_no_task() {
    let world = World::new();
    world.add_done(1..=30, 60);
    world.get(all(30)).await.expect("answered");
    let days = 40 * 24 * 60 * MINUTE;
    crate::domain::wall_offset::set(i64::try_from(days.as_millis()).expect("small"));
    assert_eq!(world.get_now(all(30)).await.expect("answered").reading.tasks.len(), 30);
    sleep(MINUTE).await;
    assert_eq!(world.get_now(all(30)).await.expect("answered").reading.tasks.len(), 30);
    crate::domain::wall_offset::set(0);
    let found = world.get_now(all(30)).await.expect("answered");
    assert_eq!(images(&found), ids(1..=30));
}

#[tokio::test(start_paused = true)]
async fn a_dry_run_is_shared_by_those_who_came_before_it_started_and_by_no_other() {
    let world = World::with(Settings { max_waiting: 3, ..Settings::default() });
    let caller = Caller::default();
    let dry_run = || world.scope.dry_run(Instant::now(), &caller);
    let late = async {
        sleep(Duration::from_millis(50)).await;
        dry_run().await
    };
    let (one, two, late) = tokio::join!(dry_run(), dry_run(), late);
    assert_eq!((one, two, late), (Ok(()), Ok(()), Ok(())));
    assert_eq!(world.calls(), 2);
    let (one, two, three, four) = tokio::join!(dry_run(), dry_run(), dry_run(), dry_run());
    assert_eq!((one, two, three), (Ok(()), Ok(()), Ok(())));
    assert_eq!(four, Err(CacheError::TooManyWaiting));
}

#[tokio::test(start_paused = true)]
async fn watches_have_places_of_their_own() {
    let settings =
        Settings { max_queries: 1, max_waiting: 1, max_refreshes: 2, ..Settings::default() };
    let world = World::with(settings);
    world.add_done(1..=30, 60);
    let running: Vec<_> = (100..104).map(|image| world.add_running(image, image)).collect();
    world.get(all(1)).await.expect("answered");
    sleep(MINUTE).await;
    let caller = Caller::default();
    let refresh = |number: usize| {
        world.scope.refresh(Query::Task(running[number].key.clone()), Instant::now(), &caller)
    };
    let (list, other, one, two, three) = tokio::join!(
        world.get_now(all(30)),
        world.get_now(all(20)),
        refresh(0),
        refresh(1),
        refresh(2)
    );
    assert_eq!((list.is_ok(), other.err()), (true, Some(CacheError::TooManyWaiting)));
    assert_eq!((one, two, three), (Ok(()), Ok(()), Err(CacheError::TooManyWaiting)));
    sleep(MINUTE).await;
    // Also those that ask the same.
    let (one, two, three) = tokio::join!(refresh(0), refresh(0), refresh(0));
    assert_eq!((one, two, three), (Ok(()), Ok(()), Err(CacheError::TooManyWaiting)));
}

/// A page of images ends early rather than miss the deadline
#[tokio::test(start_paused = true)]
async fn at_the_deadline_a_query_about_images_is_answered_about_the_first_of_them() {
    let world = World::new();
    world.add_done(1..=200, 60);
    world.ec2().latency = SECOND;
    world.get(all(1)).await.expect("answered");
    let deadline = Instant::now() + Duration::from_millis(2_500);
    let miss = world.scope.get_known(latest(101..=200), None).expect_err("not known");
    let found = world.scope.wait_for(*miss, &Caller::default(), Some(deadline)).await;
    let reading = found.expect("answered").reading;
    assert!(reading.more && reading.images >= 20 && reading.images < 100, "{}", reading.images);
    assert_eq!(reading.tasks.len(), reading.images);
    assert!(Instant::now() <= deadline);
}
