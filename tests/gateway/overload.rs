//! Overload and fairness: what is refused at the bounds of calls in progress, of waiting places and of
//! watches, and which caller it is refused to.

use std::time::Duration;

use amistore_gateway::proto::{
    ListStoreImageTasksRequest, ListStoreImageTasksResponse, WatchStoreImageTaskRequest,
};
use futures_util::future::join_all;
use tokio::{
    task::JoinHandle,
    time::{Instant, timeout},
};
use tonic::{Code, Response, Status};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::support::{
    Client, Setup, Task, all, at_most, cache_status, finished, image, of_images, pushback, reason,
    watch_of,
};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

/// One caller and another one.
const GREEDY: [u8; 4] = [127, 0, 0, 1];
const MODEST: [u8; 4] = [127, 0, 0, 2];

type Listed = Result<Response<ListStoreImageTasksResponse>, Status>;

fn spawn(client: &Client, request: ListStoreImageTasksRequest) -> JoinHandle<Listed> {
    let client = client.clone();
    tokio::spawn(async move { client.list(request).await })
}

/// Asserts that a call was refused for this reason, with a pushback.
fn assert_refused(status: &Status, expected: &str) {
    assert_eq!((status.code(), reason(status).1.as_str()), (Code::Unavailable, expected));
    assert!(pushback(status).is_some_and(|pushback| pushback >= 1_000), "{status:?}");
}

fn of_bucket(number: u64) -> ListStoreImageTasksRequest {
    ListStoreImageTasksRequest { buckets: vec![format!("bucket-{number}")], ..all() }
}

/// Invariant 7 (docs/invariants.md): bounds
#[tokio::test]
async fn above_max_requests_a_list_is_refused_at_once_and_what_is_known_is_answered() {
    let mut setup = Setup::default();
    setup.gateway.grpc.max_requests = 5;
    setup.simulator.latency = 2 * SECOND;
    let rig = setup.start().await;
    rig.add(finished(3));
    let client = rig.client();
    rig.until(client.list(all())).await.expect("answered");
    let waiting: Vec<_> =
        (0..5).map(|number| spawn(&client, at_most(0, of_images([image(number)])))).collect();
    rig.run_for(SECOND).await;
    let calls = rig.calls();

    let refused = rig.at_once(client.list(at_most(0, all()))).await.expect_err("no room");
    assert_refused(&refused, "TOO_MANY_REQUESTS");
    let dry_run = ListStoreImageTasksRequest { dry_run: true, ..all() };
    let refused = rig.at_once(client.list(dry_run)).await.expect_err("no room");
    assert_refused(&refused, "TOO_MANY_REQUESTS");
    let hit = rig.at_once(client.list(all())).await.expect("a hit");
    assert!(cache_status(&hit).contains("hit"), "{}", cache_status(&hit));
    let other = ListStoreImageTasksRequest { page_size: 2, ..all() };
    let hit = rig.at_once(client.list(other)).await.expect("a hit that was never encoded");
    assert_eq!(hit.into_inner().tasks.len(), 2);
    let bad = ListStoreImageTasksRequest { page_size: -1, ..all() };
    let bad = rig.at_once(client.list(bad)).await.expect_err("invalid");
    assert_eq!(bad.code(), Code::InvalidArgument);
    let health = HealthCheckRequest::default();
    rig.at_once(HealthClient::new(rig.channel()).check(health))
        .await
        .expect("health is not bounded");
    assert_eq!(rig.calls(), calls, "none of them cost a call");

    for list in waiting {
        rig.until(list).await.expect("no panic").expect("answered");
    }
    rig.until(client.list(at_most(0, all()))).await.expect("there is room again");
}

/// While the places are taken, an answer that is a little too old is served, and refreshed, too.
#[tokio::test]
async fn above_max_requests_and_max_queries_frequent_answers_stay_fresh() {
    let mut setup = Setup::default();
    setup.gateway.grpc.max_requests = 5;
    setup.gateway.cache.max_queries = 5;
    let rig = setup.start().await;
    rig.add(finished(1_000));
    let client = rig.client();
    rig.until(client.list(all())).await.expect("answered");
    let mut questions = Vec::new();
    let begun = Instant::now();
    while begun.elapsed() < 120 * SECOND {
        // More of them come than the call budget is good for.
        for _ in 0..5 {
            questions.push(spawn(&client, of_bucket(questions.len() as u64)));
        }
        rig.run_for(SECOND).await;
        let list = rig.at_once(client.list(all())).await.expect("answered");
        let status = cache_status(&list);
        let as_of = list.into_inner().as_of.expect("a time");
        let now = amistore_gateway::domain::wall_clock()
            .duration_since(std::time::UNIX_EPOCH)
            .expect("after 1970");
        let age = i64::try_from(now.as_secs()).expect("fits") - as_of.seconds;
        assert!(age <= 10, "{age} s: {status}");
    }
    let mut refused = 0;
    for question in questions {
        refused += usize::from(rig.until(question).await.expect("no panic").is_err());
    }
    assert!(refused > 300, "the bounds were reached: {refused}");
}

/// Invariant 4 (docs/invariants.md)
#[tokio::test]
async fn at_max_requests_the_caller_that_holds_most_gives_a_place() {
    let mut setup = Setup::default();
    setup.gateway.grpc.max_requests = 4;
    setup.simulator.latency = SECOND;
    let rig = setup.start().await;
    rig.add(finished(10));
    let (greedy, modest) = (rig.client_from(GREEDY), rig.client_from(MODEST));
    let mut held = Vec::new();
    for number in 0..4 {
        held.push(spawn(&greedy, at_most(0, of_images([image(number)]))));
        rig.run_for(SECOND / 10).await;
    }
    let mut taken = Vec::new();
    for number in 7..9 {
        taken.push(spawn(&modest, at_most(0, of_images([image(number)]))));
        rig.run_for(SECOND / 10).await;
        let newest = held.pop().expect("some");
        assert!(newest.is_finished(), "the newest is refused at once");
        assert_refused(&newest.await.expect("no panic").expect_err("refused"), "PREEMPTED");
    }
    for client in [&modest, &greedy] {
        let refused = rig.at_once(client.list(at_most(0, of_images([image(9)])))).await;
        assert_refused(&refused.expect_err("it would hold more"), "TOO_MANY_REQUESTS");
    }
    for list in taken.into_iter().chain(held) {
        rig.until(list).await.expect("no panic").expect("answered");
    }
}

/// Invariant 4 (docs/invariants.md)
#[tokio::test]
async fn at_each_bound_of_waiting_places_the_caller_that_holds_most_gives_one() {
    for bounds_queries in [false, true] {
        let mut setup = Setup::default();
        setup.simulator.latency = SECOND;
        let bound = if bounds_queries {
            &mut setup.gateway.cache.max_queries
        } else {
            &mut setup.gateway.cache.max_waiting
        };
        *bound = 4;
        let rig = setup.start().await;
        rig.add(finished(10));
        let (greedy, modest) = (rig.client_from(GREEDY), rig.client_from(MODEST));
        let mut held = Vec::new();
        for number in 0..4 {
            held.push(spawn(&greedy, at_most(0, of_images([image(number)]))));
            rig.run_for(SECOND / 10).await;
        }
        let refused = rig.at_once(greedy.list(at_most(0, of_images([image(5)])))).await;
        assert_refused(&refused.expect_err("no room"), "TOO_MANY_WAITING");
        let other = spawn(&modest, at_most(0, of_images([image(8)])));
        rig.run_for(SECOND / 10).await;
        let newest = held.pop().expect("four");
        assert!(newest.is_finished(), "the newest is refused at once");
        assert_refused(&newest.await.expect("no panic").expect_err("refused"), "PREEMPTED");
        rig.until(other).await.expect("no panic").expect("answered");
        for list in held {
            rig.until(list).await.expect("no panic").expect("answered");
        }
    }
}

/// Invariant 4 (docs/invariants.md)
#[tokio::test]
async fn at_max_watches_the_newest_watch_of_the_caller_that_has_most_ends() {
    let mut setup = Setup::default();
    setup.gateway.watch.max_watches = 4;
    let rig = setup.start().await;
    rig.add([Task::running(&image(1), HOUR)]);
    let (greedy, modest) = (rig.client_from(GREEDY), rig.client_from(MODEST));
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(rig.until(greedy.watch(watch_of(&image(1)))).await.expect("room"));
    }
    let opened = rig.until(join_all((0..2).map(|_| modest.watch(watch_of(&image(1)))))).await;
    assert!(opened.iter().all(Result::is_ok), "{opened:?}");
    let refused = rig.until(modest.watch(watch_of(&image(1)))).await;
    assert_refused(&refused.expect_err("it would have as many"), "TOO_MANY_WATCHES");
    for (number, mut stream) in held.into_iter().enumerate() {
        let is_held = number < 2;
        let end = rig.until(timeout(2 * SECOND, async {
            loop {
                if let Err(status) = stream.message().await {
                    break status;
                }
            }
        }));
        match end.await {
            Ok(status) => {
                assert!(!is_held, "watch {number}: {status:?}");
                assert_refused(&status, "PREEMPTED");
            }
            Err(_) => assert!(is_held, "watch {number} goes on"),
        }
    }
}

/// Invariant 4 (docs/invariants.md): one caller fills all places, and costs all calls
#[tokio::test]
async fn a_caller_with_ten_thousand_questions_and_fifty_thousand_watches_holds_up_no_other() {
    const QUESTIONS: u64 = 10_000;
    const WATCHES: u64 = 50_000;
    const CONNECTIONS: u64 = 10;
    let mut setup = Setup::default();
    setup.gateway.grpc.request_timeout = HOUR;
    assert_eq!(setup.gateway.watch.max_watches as u64, WATCHES, "all places are taken");
    assert_eq!(setup.gateway.cache.max_queries as u64, QUESTIONS);
    let rig = setup.start().await;
    rig.add(finished(5_000));
    rig.add((0..100).map(|number| Task::running(&image(1_000 + number), 20 * HOUR)));
    let greedy: Vec<_> = (0..CONNECTIONS).map(|_| rig.client_from(GREEDY)).collect();
    let of = |number: u64| &greedy[usize::try_from(number % CONNECTIONS).expect("few")];
    for number in 0..WATCHES {
        let client = of(number).clone();
        let watch = WatchStoreImageTaskRequest {
            heartbeat_interval: Some(prost_types::Duration { seconds: 3_600, nanos: 0 }),
            ..watch_of(&image(1_000 + number % 100))
        };
        tokio::spawn(async move { client.watch_to_end(watch).await });
        if number % 1_000 == 0 {
            rig.run_for(SECOND / 20).await;
        }
    }
    // The first hundred spend the burst. So many more come that all places are taken.
    for number in 0..QUESTIONS + 200 {
        spawn(of(number), of_bucket(number));
        if number == 100 {
            rig.run_for(60 * SECOND).await;
        }
        if number % 1_000 == 0 {
            rig.run_for(SECOND / 20).await;
        }
    }
    rig.run_for(SECOND / 20).await;

    let refused =
        rig.at_once(of(0).list(of_bucket(2 * QUESTIONS))).await.expect_err("no place is left");
    assert_refused(&refused, "TOO_MANY_WAITING");
    let refused = rig.until(of(0).watch(watch_of(&image(1_000)))).await.expect_err("nor here");
    assert_refused(&refused, "TOO_MANY_WATCHES");
    let modest = rig.client_from(MODEST);
    // The budget has a call each 2.5 s.
    for request in [all(), at_most(0, all()), of_images([image(1)]), of_bucket(3 * QUESTIONS)] {
        let (begun, calls) = (Instant::now(), rig.calls());
        rig.until(modest.list(request.clone())).await.expect("served");
        let (calls, took) = (rig.calls() - calls, begun.elapsed());
        assert!(calls <= 2 && took <= 6 * SECOND, "{request:?}: {calls} calls, {took:?}");
    }
    let begun = Instant::now();
    rig.until(modest.watch(watch_of(&image(1_000)))).await.expect("open");
    assert!(begun.elapsed() <= 3 * SECOND, "{:?}", begun.elapsed());
}
