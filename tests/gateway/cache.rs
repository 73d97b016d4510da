//! The cache: the number of its EC2 calls, and the age of its answers.

use std::{collections::BTreeSet, time::Duration};

use amistore_gateway::{
    ec2::RateSettings,
    proto::{ListStoreImageTasksRequest, store_image_task::State},
    simulator::{Fault, Wire},
};
use futures_util::{
    StreamExt as _,
    future::{join_all, try_join_all},
    stream::FuturesUnordered,
};
use tonic::Code;

use crate::support::{
    OTHER_REGION, REGION, Rig, Setup, Task, all, at_most, cache_status, finished, image, images_of,
    of_images, pushback, reason, watch_of,
};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

/// Invariant 1 (docs/invariants.md): demand
#[tokio::test]
async fn no_ec2_call_without_a_demand() {
    let rig = Rig::with_tasks(finished(5)).await;
    rig.run_for(HOUR / 6).await;
    assert_eq!(rig.calls(), 0, "no request was made");
    rig.until(rig.client().list(all())).await.expect("answered");
    rig.run_for(HOUR / 6).await;
    assert_eq!(rig.calls(), 1, "no further request was made");
}

/// Invariant 2 (docs/invariants.md): coalescing
#[tokio::test]
async fn ten_thousand_identical_questions_at_once_are_one_ec2_call() {
    let rig = Rig::with_tasks(finished(5)).await;
    let clients: Vec<_> = (0..10).map(|_| rig.client()).collect();
    let lists = (0..10_000).map(|number| clients[number % 10].list(all()));
    let answers = rig.until(try_join_all(lists)).await.expect("all answered");
    assert!(answers.iter().all(|answer| answer.get_ref().tasks.len() == 5));
    assert_eq!(rig.calls(), 1);
    // A request that arrives after the answer is a hit.
    let hits = answers.iter().filter(|answer| cache_status(answer).contains("hit")).count();
    let collapsed =
        answers.iter().filter(|answer| cache_status(answer).ends_with("fwd=miss; collapsed"));
    // The call of the first request also counts as collapsed if others had come before it was made.
    assert!(collapsed.count() + hits >= 9_999);
}

/// A cold cache walks the listing, and a warm one needs only the head page.
#[tokio::test]
async fn a_thousand_images_among_two_thousand_tasks_cost_eleven_calls_and_then_one() {
    let rig = Rig::with_tasks(finished(2_000)).await;
    let clients: Vec<_> = (0..10).map(|_| rig.client()).collect();
    let ask = || {
        let lists = (0..1_000_u64).map(|number| {
            let client = &clients[usize::try_from(number % 10).expect("small")];
            client.list(of_images([image(number * 2 + number % 2)]))
        });
        rig.until(try_join_all(lists))
    };
    let cold = ask().await.expect("all answered");
    assert!(cold.iter().all(|answer| answer.get_ref().tasks.len() == 1));
    assert!(rig.calls() <= 11, "{} calls: {:#?}", rig.calls(), rig.requests());
    rig.run_for(60 * SECOND).await;
    let before = rig.calls();
    let warm = ask().await.expect("all answered");
    assert!(warm.iter().all(|answer| answer.get_ref().tasks.len() == 1));
    assert_eq!(rig.calls() - before, 1);
}

/// A page of the listing shows two of the images, and a look-up shows twenty.
#[tokio::test]
async fn a_thousand_images_scattered_over_a_hundred_thousand_tasks_cost_fifty_one_calls() {
    let mut setup = Setup::default();
    // The default rates would stretch 51 calls over half a minute, which is not tested here.
    setup.gateway.ec2.rate.burst = 100;
    setup.simulator.describe_quota.burst = 100;
    let rig = setup.start().await;
    rig.add((0..100_000).map(|number| Task::done(&image(number), HOUR + SECOND * u32_of(number))));
    let client = rig.client();
    let lists = (0..1_000).map(|number| client.list(of_images([image(number * 100 + 7)])));
    let answers = rig.until(try_join_all(lists)).await.expect("all answered");
    assert!(answers.iter().all(|answer| answer.get_ref().tasks.len() == 1));
    assert!(rig.calls() <= 51, "{} calls", rig.calls());
}

fn u32_of(number: u64) -> u32 {
    u32::try_from(number).expect("small")
}

/// Mixed requests of 200 clients cost one call per TTL, while tasks end and others start.
async fn an_hour_of_mixed_requests(tasks: u64) {
    let rig = Rig::with_tasks(
        (0..tasks - 15).map(|number| Task::done(&image(number), HOUR + SECOND * u32_of(number))),
    )
    .await;
    // The running tasks take 1 to 15 hours, so one of them ends within the hour.
    let running =
        (0..15).map(|number| Task::running(&image(900_000 + number), u32_of(1 + number) * HOUR));
    rig.add(running);
    rig.simulator.add_image(REGION, &image(999_999));
    let clients: Vec<_> = (0..10).map(|_| rig.client()).collect();
    let walked =
        rig.until(clients[0].walk(ListStoreImageTasksRequest { page_size: 1_000, ..all() }));
    assert_eq!(walked.await.len() as u64, tasks);
    let before = rig.calls();
    let answers = std::cell::Cell::new(0_u64);
    let crowd: FuturesUnordered<_> = (0..200_u64)
        .map(|number| {
            let client = clients[usize::try_from(number % 10).expect("small")].clone();
            let answers = &answers;
            async move {
                let mut rng = fastrand::Rng::with_seed(number);
                loop {
                    let some = image(rng.u64(0..tasks - 15));
                    let running = image(900_000 + rng.u64(0..15));
                    let states = vec![rng.i32(1..=3)];
                    let request = match rng.u8(0..9) {
                        0 => all(),
                        7 => {
                            let half = ListStoreImageTasksRequest {
                                page_size: i32::try_from(tasks / 2).expect("small"),
                                ..all()
                            };
                            let page_token = client.list(half.clone()).await?.into_inner();
                            let page_token = page_token.next_page_token;
                            answers.set(answers.get() + 1);
                            ListStoreImageTasksRequest { page_token, ..half }
                        }
                        8 => {
                            let images = of_images([some, running]);
                            ListStoreImageTasksRequest { states, ..images }
                        }
                        1 => ListStoreImageTasksRequest { page_size: rng.i32(1..=300), ..all() },
                        2 => of_images([some, running]),
                        3 => of_images([image(999_999)]),
                        4 => ListStoreImageTasksRequest { states, page_size: 50, ..all() },
                        5 => {
                            let buckets = vec!["no-such-bucket".to_owned()];
                            ListStoreImageTasksRequest { buckets, ..all() }
                        }
                        _ => at_most(5 + rng.i64(0..100), of_images([running])),
                    };
                    client.list(request).await?;
                    answers.set(answers.get() + 1);
                    tokio::time::sleep(Duration::from_millis(rng.u64(20_000..60_000))).await;
                }
                #[expect(unreachable_code, reason = "gives the block its type")]
                Ok::<(), tonic::Status>(())
            }
        })
        .collect();
    let hour = async {
        for number in 0..6 {
            rig.run_for(HOUR / 6).await;
            rig.add([Task::running(&image(800_000 + number), HOUR)]);
        }
    };
    tokio::select! {
        biased;
        ended = crowd.collect::<Vec<_>>() => panic!("a client failed: {ended:?}"),
        () = hour => {}
    }
    let calls = rig.calls() - before;
    let each = f64::from(u32::try_from(calls).expect("few")) / f64::from(u32_of(answers.get()));
    println!(
        "{tasks} tasks: {calls} calls for {} answers in an hour: {each:.3} each",
        answers.get()
    );
    // An hour has 720 TTLs; one percent is allowed on top.
    assert!(calls <= 727, "{calls} calls: {:#?}", rig.requests());
    assert!(calls >= 600, "{calls} calls");
}

#[tokio::test]
async fn an_hour_of_mixed_requests_costs_one_call_per_ttl_with_a_hundred_tasks() {
    an_hour_of_mixed_requests(100).await;
}

#[tokio::test]
async fn an_hour_of_mixed_requests_costs_one_call_per_ttl_with_ten_thousand_tasks() {
    an_hour_of_mixed_requests(10_000).await;
}

#[tokio::test]
async fn callers_that_give_up_early_still_fill_the_cache_with_one_call() {
    let mut setup = Setup::default();
    setup.simulator.latency = Duration::from_millis(200);
    let rig = setup.start().await;
    rig.add(finished(5));
    let clients: Vec<_> = (0..10).map(|_| rig.client()).collect();
    let mut hits = Vec::new();
    for _ in 0..10 {
        let asked = (0..1_000).map(|number| {
            let asked = clients[number % 10].list(all());
            tokio::time::timeout(Duration::from_millis(50), asked)
        });
        let answers = rig.until(join_all(asked)).await;
        hits.push(answers.into_iter().filter(|answer| matches!(answer, Ok(Ok(_)))).count());
        rig.run_for(Duration::from_millis(50)).await;
    }
    let filled = hits.iter().position(|hits| *hits > 0).expect("some wave has hits");
    assert!(filled <= 3, "a call of 200 ms lasts for two or three waves: {hits:?}");
    assert!(hits[filled..].iter().all(|hits| *hits == 1_000), "{hits:?}");
    assert_eq!(rig.calls(), 1);
}

#[tokio::test]
async fn ec2_filters_the_listing_for_a_filtered_request_on_a_large_account() {
    let rig = Rig::with_tasks(
        (0..5_000).map(|number| Task::done(&image(number), HOUR + SECOND * u32_of(number))),
    )
    .await;
    rig.add([Task::done(&image(7_777), 10 * HOUR).failing(50)]);
    let client = rig.client();
    let failed = ListStoreImageTasksRequest { states: vec![State::Failed.into()], ..all() };
    let tasks = rig.until(client.walk(failed.clone())).await;
    assert_eq!(images_of(&tasks), [image(7_777)]);
    assert_eq!(
        rig.calls(),
        2,
        "one for the head page, one for the filtered listing: {:#?}",
        rig.requests()
    );
    let other = "other-bucket".to_owned();
    rig.add([Task::done(&image(8_888), 20 * HOUR).into(&other)]);
    let of_bucket = ListStoreImageTasksRequest { buckets: vec![other], ..all() };
    let tasks = rig.until(client.walk(of_bucket)).await;
    assert_eq!((images_of(&tasks), rig.calls()), (vec![image(8_888).as_str()], 3));
    rig.run_for(60 * SECOND).await;
    assert_eq!(rig.until(client.walk(failed)).await.len(), 1);
    assert_eq!(
        rig.calls(),
        4,
        "the head page does not show the failed task: {:#?}",
        rig.requests()
    );
}

#[tokio::test]
async fn one_listing_of_unfinished_tasks_refreshes_all_below_the_head_page() {
    let rig = Rig::with_tasks(finished(300)).await;
    let running = |number: u64| {
        Task::running(&image(5_000 + number), 1_000 * HOUR)
            .aged(1_000 * SECOND * u32_of(100 + number))
    };
    rig.add((0..150).map(running));
    let client = rig.client();
    let tasks = rig.until(client.walk(all())).await;
    assert_eq!(tasks.len(), 450);
    let before = rig.calls();
    rig.run_for(60 * SECOND).await;
    let tasks = rig.until(client.walk(all())).await;
    assert_eq!(tasks.len(), 450);
    assert_eq!(
        rig.calls() - before,
        2,
        "one for the head page, one for the unfinished tasks: {:#?}",
        rig.requests()
    );
}

/// Invariant 2 (docs/invariants.md): cancellation
#[tokio::test]
async fn the_cancellation_of_any_harms_none() {
    let mut setup = Setup::default();
    setup.simulator.latency = 2 * SECOND;
    let rig = setup.start().await;
    rig.add(finished(5));
    let client = rig.client();
    let patient = tokio::spawn({
        let client = client.clone();
        async move { client.list(all()).await }
    });
    let hasty = async {
        let many = (0..100).map(|_| client.list(all()));
        tokio::time::timeout(SECOND / 2, join_all(many)).await
    };
    assert!(rig.until(hasty).await.is_err(), "the hasty callers give up");
    let answer = rig.until(patient).await.expect("not cancelled").expect("answered");
    assert_eq!(answer.into_inner().tasks.len(), 5);
    assert_eq!(rig.calls(), 1);
}

#[tokio::test]
async fn a_call_fills_the_cache_even_if_all_its_callers_give_up() {
    let mut setup = Setup::default();
    setup.simulator.latency = SECOND;
    let rig = setup.start().await;
    rig.add(finished(5));
    let client = rig.client();
    let gave_up = rig.until(tokio::time::timeout(SECOND / 2, client.list(all()))).await;
    assert!(gave_up.is_err());
    rig.run_for(SECOND).await;
    let answer = rig.until(client.list(all())).await.expect("answered");
    assert!(cache_status(&answer).contains("hit"), "{}", cache_status(&answer));
    assert_eq!(rig.calls(), 1);
}

#[tokio::test]
async fn mixed_requests_of_a_hundred_clients_cost_one_call_per_ttl() {
    let rig = Rig::with_tasks(finished(100)).await;
    rig.add((0..15).map(|number| Task::running(&image(1000 + number), HOUR)));
    let clients: Vec<_> = (0..10).map(|_| rig.client()).collect();
    let crowd: FuturesUnordered<_> = (0..100_u64)
        .map(|number| {
            let client = clients[usize::try_from(number % 10).expect("small")].clone();
            async move {
                let ask = async |request| client.list(request).await.map(|_| ());
                for round in 0_u64.. {
                    match (number + round) % 5 {
                        0 => ask(all()).await?,
                        1 => ask(ListStoreImageTasksRequest { page_size: 7, ..all() }).await?,
                        2 => ask(of_images([image(number), image(1000 + number % 15)])).await?,
                        3 => {
                            let states = vec![State::InProgress.into()];
                            ask(ListStoreImageTasksRequest { states, ..all() }).await?;
                        }
                        _ => {
                            let watch = client.watch(watch_of(&image(1000 + number % 15))).await?;
                            let messages = watch.take(2).collect::<Vec<_>>();
                            // The second message may or may not come within 7 s.
                            let _ = tokio::time::timeout(7 * SECOND, messages).await;
                        }
                    }
                    tokio::time::sleep(Duration::from_millis(500 + 7 * number)).await;
                }
                Ok::<_, tonic::Status>(())
            }
        })
        .collect();
    let minute = rig.run_for(60 * SECOND);
    tokio::select! {
        biased;
        ended = crowd.collect::<Vec<_>>() => panic!("a client failed: {ended:?}"),
        () = minute => {}
    }
    assert!((10..=13).contains(&rig.calls()), "{} calls: {:#?}", rig.calls(), rig.requests());
}

/// Invariant 3 (docs/invariants.md): freshness
#[tokio::test]
async fn no_answer_is_older_than_its_request_allows() {
    let rig = Rig::with_tasks([Task::running(&image(1), 1000 * SECOND)]).await;
    let client = rig.client();
    rig.until(client.list(all())).await.expect("answered");
    for (pause, limit) in [(1, 0), (3, 2), (2, 3), (7, 7), (8, 7), (60, 30), (1, 0)] {
        rig.run_for(pause * SECOND).await;
        let asked = amistore_gateway::domain::wall_clock();
        let answer = rig.until(client.list(at_most(limit, all()))).await.expect("answered");
        let as_of = answer.get_ref().as_of.expect("an as_of");
        let as_of = std::time::SystemTime::try_from(as_of).expect("a time");
        let age = asked.duration_since(as_of).unwrap_or_default();
        let limit = Duration::from_secs(limit.unsigned_abs());
        assert!(age <= limit + Duration::from_millis(1), "{age:?} for {limit:?}");
    }
}

#[tokio::test]
async fn a_request_with_zero_staleness_sees_a_task_that_was_created_just_before() {
    let rig = Rig::with_tasks(finished(3)).await;
    let client = rig.client();
    rig.until(client.list(all())).await.expect("answered");
    rig.add([Task::running(&image(77), HOUR)]);
    let cached = rig.until(client.walk(all())).await;
    assert!(
        !images_of(&cached).contains(&image(77).as_str()),
        "the cached answer is within its TTL"
    );
    let fresh = rig.until(client.list(at_most(0, all()))).await.expect("answered");
    assert_eq!(cache_status(&fresh), "amistore-gateway; fwd=request");
    assert_eq!(images_of(&fresh.get_ref().tasks)[0], image(77));
}

#[tokio::test]
async fn requests_with_zero_staleness_share_one_call_that_starts_after_them() {
    let mut setup = Setup::default();
    setup.simulator.latency = SECOND;
    let rig = setup.start().await;
    rig.add(finished(3));
    let client = rig.client();
    let first = tokio::spawn({
        let client = client.clone();
        async move { client.list(all()).await }
    });
    rig.run_for(SECOND / 2).await;
    let late = rig.until(try_join_all((0..1000).map(|_| client.list(at_most(0, all()))))).await;
    rig.until(first).await.expect("not cancelled").expect("answered");
    assert_eq!(late.expect("all answered").len(), 1000);
    assert_eq!(rig.calls(), 2);
}

#[tokio::test]
async fn two_hundred_watchers_of_one_image_cost_one_call_per_interval() {
    let rig = Rig::with_tasks([Task::running(&image(1), 1000 * SECOND)]).await;
    let client = rig.client();
    let watches =
        rig.until(try_join_all((0..200).map(|_| client.watch(watch_of(&image(1)))))).await;
    let watches = watches.expect("all open");
    assert_eq!(rig.calls(), 1, "all share the first call");
    rig.run_for(60 * SECOND).await;
    // The task gains a percent in 10 s: the interval is 5 s until that is known, and then 10 s.
    assert!((6..=13).contains(&rig.calls()), "{} calls", rig.calls());
    drop(watches);
    rig.run_for(SECOND).await;
    let calls = rig.calls();
    rig.run_for(HOUR / 6).await;
    assert_eq!(rig.calls(), calls, "no watch is open");
}

#[tokio::test]
async fn an_answer_just_past_its_ttl_is_served_at_once_and_refreshed_in_the_background() {
    let rig = Rig::with_tasks(finished(3)).await;
    let client = rig.client();
    rig.until(client.list(all())).await.expect("answered");
    rig.run_for(7 * SECOND).await;
    rig.add([Task::running(&image(77), HOUR)]);
    let stale = rig.until(client.list(all())).await.expect("answered");
    assert_eq!(
        cache_status(&stale),
        "amistore-gateway; hit; ttl=-2; detail=stale-while-revalidate"
    );
    assert_eq!(stale.get_ref().tasks.len(), 3);
    rig.run_for(SECOND).await;
    assert_eq!(rig.calls(), 2, "the background refresh");
    let fresh = rig.until(client.list(all())).await.expect("answered");
    assert_eq!((fresh.get_ref().tasks.len(), rig.calls()), (4, 2));
}

/// Invariant 9 (docs/invariants.md): errors
#[tokio::test]
async fn a_transient_error_never_replaces_good_data_and_is_never_stored() {
    let rig = Rig::with_tasks(finished(3)).await;
    let client = rig.client();
    rig.until(client.list(all())).await.expect("answered");
    rig.run_for(60 * SECOND).await;
    rig.simulator.set_fault(Some(Fault::error(503, "Unavailable")));
    let stale = rig.until(client.list(all())).await.expect("answered");
    let status = cache_status(&stale);
    assert!(
        status.contains("hit; ttl=-") && status.ends_with("detail=\"stale-if-error: Unavailable\""),
        "{status}"
    );
    assert_eq!(stale.get_ref().tasks.len(), 3);
    let bounded =
        rig.until(client.list(at_most(30, all()))).await.expect_err("the request allows 30 s");
    assert_eq!(bounded.code(), Code::Unavailable);
    rig.run_for(300 * SECOND).await;
    let too_old =
        rig.until(client.list(all())).await.expect_err("the data is older than five minutes");
    assert_eq!(too_old.code(), Code::Unavailable);
    rig.simulator.set_fault(None);
    let healed = rig.until(client.list(all())).await.expect("EC2 answers again");
    assert_eq!(healed.get_ref().tasks.len(), 3);
}

#[tokio::test]
async fn a_process_begins_with_half_of_its_burst() {
    let mut setup = Setup::default();
    setup.gateway.ec2.rate = RateSettings::default();
    setup.gateway.grpc.request_timeout = SECOND;
    let rig = setup.start().await;
    rig.add(finished(3));
    let client = rig.client();
    let began = tokio::time::Instant::now();
    let mut answered = 0;
    while rig.until(client.list(at_most(0, all()))).await.is_ok() {
        answered += 1;
    }
    let earned = began.elapsed().as_secs_f64() * RateSettings::default().per_second;
    assert!(f64::from(answered) <= 20.0 + earned, "{answered} calls");
    assert!(answered >= 20, "{answered} calls");
}

#[tokio::test]
async fn a_spent_call_budget_serves_a_stale_answer_or_makes_the_caller_wait() {
    let mut setup = Setup::default();
    setup.gateway.ec2.rate.burst = 2;
    setup.gateway.ec2.rate.per_second = 0.01;
    let rig = setup.start().await;
    rig.add(finished(3));
    let client = rig.client();
    for _ in 0..2 {
        rig.until(client.list(at_most(0, all()))).await.expect("answered");
    }
    rig.run_for(20 * SECOND).await;
    let stale = rig.until(client.list(all())).await.expect("answered");
    assert_eq!(
        cache_status(&stale),
        "amistore-gateway; hit; ttl=-15; detail=\"stale-if-error: call budget spent\""
    );
    let waits =
        rig.until(client.list(at_most(0, all()))).await.expect_err("the budget refills in 100 s");
    assert_eq!((waits.code(), reason(&waits).1.as_str()), (Code::Unavailable, "REQUEST_TIMED_OUT"));
    assert_eq!(rig.calls(), 2);
}

#[tokio::test]
async fn a_stale_answer_is_served_while_a_call_waits_for_its_retry() {
    let rig = Rig::with_tasks(finished(3)).await;
    let client = rig.client();
    rig.until(client.list(all())).await.expect("answered");
    rig.run_for(60 * SECOND).await;
    // Throttling halves the rate of the budget: the third attempt comes after half a minute.
    rig.simulator.set_fault(Some(Fault::error(503, "RequestLimitExceeded")));
    let began = tokio::time::Instant::now();
    let stale = rig.until(client.list(all())).await.expect("answered");
    let took = began.elapsed();
    assert!(took <= 3 * SECOND, "{took:?}");
    assert!(
        cache_status(&stale).ends_with("detail=\"stale-if-error: EC2 is slow\""),
        "{}",
        cache_status(&stale)
    );
    assert_eq!(stale.get_ref().tasks.len(), 3);
}

/// Invariant 8 (docs/invariants.md): budget
#[tokio::test]
async fn calls_stay_within_the_budget_in_every_window_retries_counted() {
    let rig = Rig::with_tasks(finished(3)).await;
    let client = rig.client();
    rig.simulator.set_fault(Some(Fault::error(503, "Unavailable")));
    let storm = async |region: &str| {
        loop {
            let request = ListStoreImageTasksRequest { region: region.to_owned(), ..all() };
            let asked = client.list(at_most(0, request));
            // The answer is an error or a timeout; only the number of calls matters.
            let _ = tokio::time::timeout(SECOND, asked).await;
        }
    };
    tokio::select! {
        () = storm(REGION) => {}
        () = storm(OTHER_REGION) => {}
        () = rig.run_for(600 * SECOND) => {}
    }
    let journal = rig.simulator.journal();
    for region in [REGION, OTHER_REGION] {
        let of_region = journal.entries().filter(|entry| entry.region == region);
        let at: Vec<_> = of_region.map(|entry| entry.at.as_secs_f64()).collect();
        // 40 calls at once and 240 later: each scope has a budget of its own.
        assert!(at.len() > 200, "the requests are many: {} in {region}", at.len());
        assert_within_budget(&at);
    }
}

/// Asserts that calls at these times stay within the default budget in every window.
fn assert_within_budget(at: &[f64]) {
    for (first, from) in at.iter().enumerate() {
        for (last, to) in at.iter().enumerate().skip(first) {
            let calls = u32::try_from(last - first + 1).expect("few");
            let allowed = 40.0 + 0.4 * (to - from) + 1.0;
            assert!(f64::from(calls) <= allowed, "{calls} calls in {} s", to - from);
        }
    }
}

#[tokio::test]
async fn throttling_halves_the_rate() {
    let rig = Rig::with_tasks(finished(3)).await;
    let client = rig.client();
    rig.simulator.script([Fault::error(503, "RequestLimitExceeded")]);
    let began = tokio::time::Instant::now();
    let answer = rig.until(client.list(all())).await.expect("the retry is answered");
    assert_eq!(answer.get_ref().tasks.len(), 3);
    assert!(
        began.elapsed() >= 5 * SECOND,
        "the retry waits for a token at 0.2 per second: {:?}",
        began.elapsed()
    );
}

/// Invariant 4 (docs/invariants.md): isolation
#[tokio::test]
async fn one_bad_id_never_fails_another_caller() {
    for names_the_id in [true, false] {
        let rig = Rig::with_tasks(finished(400)).await;
        let client = rig.client();
        rig.until(client.list(all())).await.expect("the head page is known");
        if !names_the_id {
            // EC2 does not name the bad ID, so the gateway must find it by bisection.
            rig.simulator.set_mute_about_images(true);
        }
        let bad = "ami-0000000000000bad0".to_owned();
        let images: Vec<_> = (300..319).map(image).chain([bad.clone()]).collect();
        let lists = images.iter().map(|id| client.list(of_images([id.clone()])));
        let answers = rig.until(join_all(lists)).await;
        let (good, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
        assert_eq!((good.len(), refused.len()), (20, 0));
        let (mut found, mut missing) = (0, Vec::new());
        for answer in good {
            let answer = answer.expect("good").into_inner();
            found += answer.tasks.len();
            missing.extend(answer.missing_images);
        }
        assert_eq!(found, 19, "a task for each image but the bad one");
        let [missing] = &missing[..] else { panic!("one image is missing: {missing:?}") };
        assert_eq!(
            (missing.image_id.as_str(), missing.ec2_code.as_str()),
            (bad.as_str(), "InvalidAMIID.NotFound")
        );
        assert_eq!(missing.known_since, None, "the listing was read to its end for it");
        // Two of the calls are for the bad image: the tasks in progress and the rest of the listing.
        let calls = rig.calls() - 1;
        assert!(calls <= 10 + 2, "{calls} calls: {:#?}", rig.requests());
        let again = rig.until(client.list(of_images([bad]))).await.expect("missing, and no error");
        assert!(again.get_ref().tasks.is_empty());
        assert_eq!(again.get_ref().missing_images.len(), 1);
        assert_eq!(rig.calls() - 1, calls, "the refusal is remembered");
    }
}

#[tokio::test]
async fn zero_settings_switch_off_stale_answers_remembered_refusals_and_encoded_answers() {
    let mut setup = Setup::default();
    let cache = &mut setup.gateway.cache;
    (cache.stale_while_revalidate, cache.stale_if_error) = (Duration::ZERO, Duration::ZERO);
    cache.refusal_ttl = Duration::ZERO;
    setup.gateway.grpc.max_answer_bytes = 0;
    let rig = setup.start().await;
    rig.add(finished(3));
    let client = rig.client();
    rig.until(client.list(all())).await.expect("answered");
    let hit = rig.until(client.list(all())).await.expect("answered");
    assert_eq!(cache_status(&hit), "amistore-gateway; hit; ttl=5", "hits need no encoded answer");
    rig.run_for(7 * SECOND).await;
    let fresh = rig.until(client.list(all())).await.expect("answered");
    assert_eq!(
        cache_status(&fresh),
        "amistore-gateway; fwd=stale",
        "no stale answer while EC2 is asked"
    );
    rig.run_for(7 * SECOND).await;
    rig.simulator.set_fault(Some(Fault::error(503, "Unavailable")));
    let failed =
        rig.until(client.list(all())).await.expect_err("no stale answer instead of an error");
    assert_eq!(failed.code(), Code::Unavailable);
    rig.simulator.set_fault(Some(Fault::error(403, "UnauthorizedOperation")));
    let before = rig.calls();
    for _ in 0..3 {
        let denied = rig.until(client.list(all())).await.expect_err("denied");
        assert_eq!(denied.code(), Code::PermissionDenied);
    }
    assert_eq!(rig.calls() - before, 3, "no refusal is remembered");
}

#[tokio::test]
async fn a_refusal_is_remembered_for_one_second() {
    let rig = Rig::with_tasks(finished(3)).await;
    let client = rig.client();
    rig.simulator.script([Fault::error(403, "UnauthorizedOperation")]);
    for round in 0..100 {
        let denied = rig.until(client.list(all())).await.expect_err("denied");
        assert_eq!(denied.code(), Code::PermissionDenied);
        let said = denied.metadata().get("cache-status").and_then(|value| value.to_str().ok());
        let remembered = "amistore-gateway; hit; ttl=1; detail=remembered-refusal";
        assert_eq!(said, (round > 0).then_some(remembered));
    }
    assert_eq!(rig.calls(), 1, "100 requests cost one call");
    rig.until(client.list(at_most(0, all()))).await.expect("zero staleness asks EC2 again");
    rig.run_for(2 * SECOND).await;
    rig.until(client.list(all())).await.expect("the refusal is forgotten");
}

#[tokio::test]
async fn a_refusal_of_one_filter_does_not_affect_other_requests() {
    let rig = Rig::with_tasks(
        (0..1_000).map(|number| Task::done(&image(number), HOUR + SECOND * u32_of(number))),
    )
    .await;
    let client = rig.client();
    rig.until(client.list(all())).await.expect("answered");
    rig.simulator.script([Fault::error(400, "InvalidParameterValue")]);
    let failed = ListStoreImageTasksRequest { states: vec![State::Failed.into()], ..all() };
    for _ in 0..3 {
        let refused = rig.until(client.list(failed.clone())).await.expect_err("refused");
        assert_eq!(refused.code(), Code::InvalidArgument);
    }
    assert_eq!(rig.calls(), 2, "the refusal is remembered");
    rig.until(client.list(at_most(0, all()))).await.expect("not refused");
    rig.until(client.list(of_images([image(5)]))).await.expect("not refused");
}

/// Invariant 7 (docs/invariants.md): bounds
#[tokio::test]
async fn dry_runs_that_come_at_once_share_a_call_that_starts_after_them() {
    let mut setup = Setup::default();
    setup.simulator.latency = SECOND;
    let rig = setup.start().await;
    let client = rig.client();
    let dry = ListStoreImageTasksRequest { dry_run: true, ..all() };
    let asked = (0..20).map(|_| client.list(dry.clone()));
    let permitted = rig.until(try_join_all(asked)).await.expect("all are permitted");
    assert!(permitted.iter().all(|answer| answer.get_ref().dry_run_permitted));
    assert!(rig.calls() <= 2, "{} calls", rig.calls());
    let early = tokio::spawn({
        let (client, dry) = (client.clone(), dry.clone());
        async move { client.list(dry).await }
    });
    rig.run_for(SECOND / 2).await;
    let before = rig.calls();
    rig.until(client.list(dry)).await.expect("permitted");
    rig.until(early).await.expect("not cancelled").expect("permitted");
    assert_eq!(rig.calls(), before + 1, "a call that had begun before does not count");
}

/// Invariant 7 (docs/invariants.md): bounds
#[tokio::test]
async fn callers_beyond_max_waiting_are_refused_and_the_others_are_answered() {
    let mut setup = Setup::default();
    setup.gateway.cache.max_waiting = 10;
    setup.simulator.latency = SECOND;
    let rig = setup.start().await;
    rig.add(finished(3));
    let client = rig.client();
    let answers = rig.until(join_all((0..15).map(|_| client.list(all())))).await;
    let (good, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    assert_eq!((good.len(), refused.len()), (10, 5));
    let status = refused[0].as_ref().expect_err("refused");
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(reason(status), ("amistore".to_owned(), "TOO_MANY_WAITING".to_owned()));
    let pushbacks = refused.iter().map(|status| pushback(status.as_ref().expect_err("refused")));
    let pushbacks: BTreeSet<_> = pushbacks.collect();
    assert!(pushbacks.len() > 1, "drawn for each: {pushbacks:?}");
    assert!(pushbacks.iter().all(|pushback| (1_000..=2_000).contains(&pushback.expect("one"))));
}

/// Invariant 7 (docs/invariants.md): bounds
#[tokio::test]
async fn queries_beyond_max_queries_are_refused_and_pending_ones_can_be_joined() {
    let mut setup = Setup::default();
    setup.gateway.cache.max_queries = 10;
    setup.simulator.latency = SECOND;
    let rig = setup.start().await;
    rig.add(finished(50));
    let client = rig.client();
    let lists = (0..15).map(|number| client.list(of_images([image(number % 12)])));
    let (good, refused): (Vec<_>, Vec<_>) =
        rig.until(join_all(lists)).await.into_iter().partition(Result::is_ok);
    assert_eq!(
        (good.len(), refused.len()),
        (13, 2),
        "requests 12 to 14 repeat the queries of 0 to 2"
    );
    let status = refused[0].as_ref().expect_err("refused");
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(reason(status).1, "TOO_MANY_WAITING");
}

/// Invariant 7 (docs/invariants.md): bounds
#[tokio::test]
async fn tasks_beyond_max_tasks_are_refused_and_the_newest_are_still_served() {
    let mut setup = Setup::default();
    setup.gateway.cache.max_tasks = 1_000;
    let rig = setup.start().await;
    rig.add((0..2_000).map(|number| Task::done(&image(number), HOUR + SECOND * u32_of(number))));
    let client = rig.client();
    let page = |token: &str| ListStoreImageTasksRequest {
        page_size: 600,
        page_token: token.to_owned(),
        ..all()
    };
    let first = rig.until(client.list(page(""))).await.expect("there is room").into_inner();
    let status = rig.until(client.list(page(&first.next_page_token))).await.expect_err("no room");
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert_eq!(reason(&status), ("amistore".to_owned(), "TOO_MANY_TASKS".to_owned()));
    assert_eq!(pushback(&status), None);
    let calls = rig.calls();
    for number in [1_500, 1_600] {
        let found = rig.until(client.list(of_images([image(number)]))).await;
        assert_eq!(found.expect("looked up").get_ref().tasks.len(), 1);
    }
    assert_eq!(rig.calls(), calls + 2, "an image always has room");
    let again = rig.until(client.list(page(&first.next_page_token))).await.expect_err("no room");
    assert_eq!(reason(&again).1, "TOO_MANY_TASKS");
    assert_eq!(rig.calls(), calls + 2, "refused without a call");
    // New tasks evict the oldest.
    rig.add((0..100).map(|number| Task::done(&image(10_000 + number), 60 * SECOND)));
    rig.run_for(20 * SECOND).await;
    let newest = rig.until(client.list(page(""))).await.expect("served").into_inner();
    assert_eq!((newest.tasks.len(), newest.tasks[99].image_id.clone()), (600, image(10_099)));
    let known = rig.until(client.list(of_images([image(5)]))).await.expect("known");
    assert_eq!(known.get_ref().tasks.len(), 1);
}

#[tokio::test]
async fn the_gateway_asks_again_if_an_answer_is_broken() {
    for wire in
        [Wire::Reset, Wire::Truncated, Wire::MalformedXml, Wire::Html(502), Wire::Stall(HOUR)]
    {
        let rig = Rig::with_tasks(finished(3)).await;
        rig.simulator.script([Fault::Wire(wire)]);
        let answer = rig.until(rig.client().list(all())).await;
        assert_eq!(answer.expect("answered").get_ref().tasks.len(), 3, "{wire:?}");
        assert_eq!(rig.calls(), 2, "{wire:?}");
    }
}

#[tokio::test]
async fn a_new_task_that_ec2_lists_late_is_found() {
    let mut setup = Setup::default();
    setup.simulator.appear_after = 20 * SECOND;
    let rig = setup.start().await;
    rig.add(finished(3));
    rig.simulator.add_image(REGION, &image(50));
    let client = rig.client();
    rig.until(client.list(all())).await.expect("answered");
    let mut plan = rig.simulator.tasks(REGION)[0].clone();
    plan.image_id = image(50);
    plan.start = rig.simulator.now();
    plan.listed_from = plan.start + 20 * SECOND;
    rig.simulator.add_task(REGION, plan);
    rig.run_for(10 * SECOND).await;
    let early = rig.until(client.walk(at_most(0, of_images([image(50)])))).await;
    assert!(early.is_empty());
    rig.run_for(11 * SECOND).await;
    let late = rig.until(client.walk(at_most(0, of_images([image(50)])))).await;
    assert_eq!(images_of(&late), [image(50)]);
}
