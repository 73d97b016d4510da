//! `ListStoreImageTasks`: the selected tasks and their fields.

use std::{collections::BTreeSet, time::Duration};

use amistore_gateway::{
    proto::{ListStoreImageTasksRequest, ListStoreImageTasksResponse, store_image_task::State},
    simulator::Outcome,
};
use prost::Message as _;
use tonic::Code;

use crate::support::{
    BUCKET, REGION, Rig, Setup, Task, all, at_most, cache_status, finished, image, images_of,
    of_images,
};

const HOUR: Duration = Duration::from_secs(3600);
const MINUTE: Duration = Duration::from_secs(60);
const SECOND: Duration = Duration::from_secs(1);

#[tokio::test]
async fn an_empty_account_answers_with_no_tasks_and_an_as_of() {
    let rig = Rig::with_tasks([]).await;
    let answer = rig.until(rig.client().list(all())).await.expect("answered").into_inner();
    assert!(answer.tasks.is_empty() && answer.next_page_token.is_empty() && answer.as_of.is_some());
}

#[tokio::test]
async fn a_list_fills_every_field_of_a_task() {
    let rig = Rig::with_tasks([
        Task::running(&image(1), 10 * MINUTE).aged(5 * MINUTE),
        Task::done(&image(2), HOUR).into("other-bucket"),
        Task::done(&image(3), 2 * HOUR).failing(40),
    ])
    .await;
    let tasks = rig.until(rig.client().walk(all())).await;
    assert_eq!(images_of(&tasks), [image(1), image(2), image(3)], "newest first");
    let [running, done, failed] = &tasks[..] else { panic!("three") };
    assert_eq!((running.account.as_str(), running.region.as_str()), ("default", REGION));
    assert_eq!(running.bucket, BUCKET);
    assert_eq!(running.object_key, format!("{}.bin", image(1)));
    assert_eq!((running.state(), running.progress_percentage), (State::InProgress, Some(50)));
    assert_eq!(running.state_text, "InProgress");
    assert_eq!(running.estimated_completion_time, None, "one answer gives no rate");
    assert_eq!((done.state(), done.progress_percentage), (State::Completed, Some(100)));
    assert_eq!(done.bucket, "other-bucket");
    assert_eq!((failed.state(), failed.progress_percentage), (State::Failed, Some(40)));
    assert_eq!(failed.failure_reason, "a snapshot is gone");
    let planned = rig.simulator.tasks(REGION);
    let starts: Vec<_> = tasks.iter().map(|task| task.start_time.expect("a start")).collect();
    let expected: Vec<_> =
        planned.iter().map(|task| prost_types::Timestamp::from(task.start)).collect();
    assert_eq!(starts, expected);
}

#[tokio::test]
async fn progress_gives_an_estimated_completion_time() {
    let rig = Rig::with_tasks([Task::running(&image(1), 10 * MINUTE)]).await;
    let client = rig.client();
    rig.until(client.list(all())).await.expect("answered");
    rig.run_for(2 * MINUTE).await;
    let answer = rig.until(client.list(at_most(0, all()))).await.expect("answered").into_inner();
    let task = &answer.tasks[0];
    let end = task.estimated_completion_time.expect("an estimate").seconds;
    let planned = task.start_time.expect("a start").seconds + 600;
    assert!((end - planned).abs() <= 30, "{end} for {planned}");
}

#[tokio::test]
async fn a_list_filters_by_state_and_bucket() {
    let rig = Rig::with_tasks([
        Task::running(&image(1), HOUR),
        Task::done(&image(2), HOUR).into("other-bucket"),
        Task::done(&image(3), 2 * HOUR),
        Task::done(&image(4), 3 * HOUR).failing(40),
    ])
    .await;
    let client = rig.client();
    let ask = async |states: &[State], buckets: &[&str]| {
        let request = ListStoreImageTasksRequest {
            states: states.iter().map(|state| (*state).into()).collect(),
            buckets: buckets.iter().map(ToString::to_string).collect(),
            ..all()
        };
        let tasks = rig.until(client.walk(request)).await;
        tasks.into_iter().map(|task| task.image_id).collect::<Vec<_>>()
    };
    assert_eq!(ask(&[State::Completed], &[]).await, [image(2), image(3)]);
    assert_eq!(ask(&[State::InProgress, State::Failed], &[]).await, [image(1), image(4)]);
    assert_eq!(ask(&[], &["other-bucket"]).await, [image(2)]);
    assert_eq!(ask(&[State::Completed], &[BUCKET]).await, [image(3)]);
    assert!(ask(&[], &["no-such-bucket"]).await.is_empty());
    assert_eq!(rig.calls(), 1, "one listing answers all of them");
}

#[tokio::test]
async fn image_ids_select_the_latest_candidate_of_each_and_states_only_remove() {
    let rig = Rig::with_tasks([
        Task::running(&image(1), HOUR),
        Task::done(&image(1), 2 * HOUR).into("other-bucket"),
        Task::done(&image(2), 3 * HOUR),
    ])
    .await;
    rig.simulator.add_image(REGION, &image(9));
    let client = rig.client();
    let both = of_images([image(2), image(1), image(1), image(9)]);
    let tasks = rig.until(client.walk(both.clone())).await;
    assert_eq!(
        images_of(&tasks),
        [image(2), image(1)],
        "the latest task of each; image 9 has none"
    );
    assert_eq!(tasks[1].state(), State::InProgress);
    let done = ListStoreImageTasksRequest { states: vec![State::Completed.into()], ..both.clone() };
    let tasks = rig.until(client.walk(done)).await;
    assert_eq!(images_of(&tasks), [image(2)], "states only ever remove");
    let buckets = vec!["other-bucket".to_owned()];
    let into_other = ListStoreImageTasksRequest { buckets, ..both.clone() };
    let tasks = rig.until(client.walk(into_other)).await;
    assert_eq!(images_of(&tasks), [image(1)], "the latest task into the bucket");
    let paged = ListStoreImageTasksRequest { page_size: 1, ..both };
    let page = rig.until(client.list(paged.clone())).await.expect("answered").into_inner();
    assert_eq!(images_of(&page.tasks), [image(2)]);
    assert_eq!(images_of(&rig.until(client.walk(paged)).await), [image(2), image(1)]);
}

#[tokio::test]
async fn an_image_that_is_not_on_the_head_page_is_looked_up() {
    let rig = Rig::with_tasks(finished(450)).await;
    let tasks = rig.until(rig.client().walk(of_images([image(444), image(3)]))).await;
    assert_eq!(images_of(&tasks), [image(444), image(3)], "in the order of the request");
    assert_eq!(
        rig.requests(),
        ["MaxResults=200".to_owned(), format!("ImageId.1={}", image(444))],
        "the head page shows image 3, and a look-up image 444"
    );
}

#[tokio::test]
async fn pages_of_every_size_walk_the_whole_account() {
    let rig = Rig::with_tasks(finished(450)).await;
    let client = rig.client();
    let expected: Vec<_> = (0..450).map(image).collect();
    for page_size in [0, 1, 7, 100, 200, 449, 450, 1000, i32::MAX] {
        let request = ListStoreImageTasksRequest { page_size, ..all() };
        let tasks = rig.until(client.walk(request)).await;
        assert_eq!(images_of(&tasks), expected, "page size {page_size}");
    }
    let defaulted = rig.until(client.list(all())).await.expect("answered").into_inner();
    assert_eq!(defaulted.tasks.len(), 100);
}

/// Invariant 5 (docs/invariants.md): pages
#[tokio::test]
async fn a_walk_returns_each_task_that_existed_throughout_exactly_once() {
    let rig = Rig::with_tasks(finished(450)).await;
    let client = rig.client();
    let mut request = ListStoreImageTasksRequest { page_size: 40, ..all() };
    let mut seen = Vec::new();
    for round in 0.. {
        let page = rig.until(client.list(request.clone())).await.expect("a page").into_inner();
        seen.extend(page.tasks.into_iter().map(|task| task.image_id));
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
        // New tasks move the listing down by more than a page between two requests.
        rig.add((0..60).map(|new| Task::done(&image(10_000 + 100 * round + new), Duration::ZERO)));
        rig.run_for(Duration::from_secs(30)).await;
    }
    let old: Vec<_> = seen.into_iter().filter(|id| *id < image(10_000)).collect();
    assert_eq!(old, (0..450).map(image).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_walk_that_takes_nothing_old_counts_from_the_request_for_its_first_page() {
    let recent = (0..30).map(|number| Task::done(&image(number), Duration::from_secs(number)));
    let rig = Rig::with_tasks(recent).await;
    let client = rig.client();
    let mut request = at_most(0, ListStoreImageTasksRequest { page_size: 10, ..all() });
    for (pause, calls) in [(Duration::ZERO, 1), (20 * SECOND, 1), (61 * MINUTE, 2)] {
        rig.run_for(pause).await;
        let page = rig.until(client.list(request.clone())).await.expect("a page").into_inner();
        assert_eq!((page.tasks.len(), rig.calls()), (10, calls), "after {pause:?}");
        request.page_token = page.next_page_token;
    }
}

#[tokio::test]
async fn a_page_token_is_valid_on_another_replica() {
    let first = Rig::with_tasks([]).await;
    let second = Rig::with_tasks([]).await;
    let story: Vec<_> = finished(30).collect();
    first.add(story.clone());
    let request = ListStoreImageTasksRequest { page_size: 20, ..all() };
    let page =
        first.until(first.client().list(request.clone())).await.expect("a page").into_inner();
    for task in first.simulator.tasks(REGION) {
        second.simulator.add_task(REGION, task);
    }
    let next = ListStoreImageTasksRequest { page_token: page.next_page_token, ..request };
    let rest = second.until(second.client().walk(next)).await;
    assert_eq!(images_of(&rest), (20..30).map(image).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_walk_survives_an_expired_token_of_ec2() {
    let mut setup = Setup::default();
    setup.simulator.token_ttl = Duration::from_secs(60);
    let rig = setup.start().await;
    rig.add(finished(650));
    let client = rig.client();
    let request = ListStoreImageTasksRequest { page_size: 200, ..all() };
    let mut tasks = Vec::new();
    let mut token = String::new();
    loop {
        let request = ListStoreImageTasksRequest { page_token: token, ..request.clone() };
        let page = rig.until(client.list(request)).await.expect("a page").into_inner();
        tasks.extend(page.tasks);
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
        rig.run_for(2 * MINUTE).await;
    }
    assert_eq!(images_of(&tasks), (0..650).map(image).collect::<Vec<_>>());
    let refused = rig
        .simulator
        .journal()
        .entries()
        .filter(|entry| entry.answer == "InvalidNextToken")
        .count();
    assert!(refused > 0, "EC2 refused an expired token");
}

#[tokio::test]
async fn each_region_has_its_own_tasks() {
    let rig = Rig::with_tasks(finished(1)).await;
    let client = rig.client();
    let there = ListStoreImageTasksRequest { region: "eu-west-1".to_owned(), ..all() };
    assert!(rig.until(client.walk(there)).await.is_empty());
    assert_eq!(rig.until(client.walk(all())).await.len(), 1);
    assert_eq!(rig.calls(), 2);
}

#[tokio::test]
async fn each_dry_run_asks_ec2_and_leaves_the_cache_alone() {
    let rig = Rig::with_tasks(finished(3)).await;
    let client = rig.client();
    rig.until(client.list(all())).await.expect("answered");
    let dry = ListStoreImageTasksRequest { dry_run: true, ..all() };
    for calls in [2, 3] {
        let answer = rig.until(client.list(dry.clone())).await.expect("permitted");
        assert_eq!(answer.metadata().get("x-ec2-code").expect("a code"), "DryRunOperation");
        assert_eq!(cache_status(&answer), "amistore-gateway; fwd=bypass");
        assert!(answer.get_ref().tasks.is_empty());
        assert_eq!(rig.calls(), calls);
    }
    rig.simulator.script([amistore_gateway::simulator::Fault::error(403, "UnauthorizedOperation")]);
    let denied = rig.until(client.list(dry)).await.expect_err("denied");
    assert_eq!(denied.code(), Code::PermissionDenied);
    rig.until(client.list(all())).await.expect("the cached answer");
}

#[tokio::test]
async fn a_task_says_whether_it_is_done_and_ec2s_own_words() {
    let rig = Rig::with_tasks([
        Task::running(&image(1), 100 * MINUTE).aged(50 * MINUTE),
        Task::running(&image(2), 100 * MINUTE).aged(50 * MINUTE).saying("Paused"),
        Task::running(&image(3), 100 * MINUTE).aged(50 * MINUTE).saying(""),
        Task::running(&image(4), 100 * MINUTE).aged(50 * MINUTE).without_progress_from(0),
        Task::done(&image(5), 10 * MINUTE),
        Task::running(&image(6), MINUTE).aged(10 * MINUTE).failing(90).without_progress_from(90),
    ])
    .await;
    let listed = rig.until(rig.client().list(of_images((1..=6).map(image)))).await;
    let tasks = listed.expect("answered").into_inner().tasks;
    let told: Vec<_> = tasks
        .iter()
        .map(|task| (task.state(), &*task.state_text, task.done, task.progress_percentage))
        .collect();
    assert_eq!(
        told,
        [
            (State::InProgress, "InProgress", false, Some(50)),
            (State::Other, "Paused", false, Some(50)),
            (State::Other, "Unknown", false, Some(50)),
            (State::InProgress, "InProgress", false, None),
            (State::Completed, "Completed", true, Some(100)),
            (State::Failed, "Failed", true, None),
        ]
    );
    let ids: BTreeSet<_> = tasks.iter().map(|task| task.task_id.clone()).collect();
    assert_eq!(ids.len(), 6);
    assert!(ids.iter().all(|id| (1..=512).contains(&id.len())), "{ids:?}");
}

/// EC2 fails a task at 90 % and leaves out the percentage.
#[tokio::test]
async fn a_task_that_fails_keeps_the_progress_that_was_seen() {
    let rig = Rig::with_tasks([Task::running(&image(1), 100 * SECOND)
        .failing(90)
        .without_progress_from(90)])
    .await;
    rig.run_for(60 * SECOND).await;
    let request = || at_most(0, of_images([image(1)]));
    let one = |response: tonic::Response<ListStoreImageTasksResponse>| {
        response.into_inner().tasks.pop().expect("a task")
    };
    let running = one(rig.until(rig.client().list(request())).await.expect("answered"));
    rig.run_for(60 * SECOND).await;
    let failed = one(rig.until(rig.client().list(request())).await.expect("answered"));
    assert_eq!((failed.state(), failed.progress_percentage), (State::Failed, Some(60)));
    assert_eq!((running.progress_percentage, running.task_id), (Some(60), failed.task_id));
}

#[tokio::test]
async fn a_page_of_a_thousand_long_reasons_fits_the_default_limit_and_paging_returns_all() {
    let rig = Setup::default().start().await;
    for number in 0..1_200 {
        let task = Task::done(&image(number), HOUR).into(&"b".repeat(63));
        let mut plan = task.plan(rig.simulator.now());
        plan.outcome = Outcome::Fails { at: 50, reason: "é".repeat(2_500) };
        rig.simulator.add_task(REGION, plan);
    }
    let client = rig.client();
    let mut request = ListStoreImageTasksRequest { page_size: 1_000, ..all() };
    let (mut images, mut pages) = (BTreeSet::new(), Vec::new());
    loop {
        let page = rig.until(client.list(request.clone())).await.expect("a page").into_inner();
        assert!(page.encoded_len() < 3_584 << 10, "{}", page.encoded_len());
        assert!(page.tasks.iter().all(|task| task.failure_reason.len() > 1_000));
        pages.push(page.tasks.len());
        images.extend(page.tasks.into_iter().map(|task| task.image_id));
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
    }
    assert_eq!((pages, images.len()), (vec![1_000, 200], 1_200));
}
