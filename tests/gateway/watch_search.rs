//! `WatchStoreImageTask`: which task a stream follows, and how it begins.

use std::{
    cmp::Reverse,
    collections::HashMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use amistore_gateway::{
    domain::{
        self, Answer, DescribeResponse, ImageId, MakeUpstream, TaskKey, TaskState, wall_clock,
    },
    proto::{
        ListStoreImageTasksRequest, StoreImageTask, WatchStoreImageTaskRequest,
        WatchStoreImageTaskResponse, store_image_task::State,
        watch_store_image_task_response::Kind,
    },
    simulator::{Fault, Wire},
};
use prost_types::Timestamp;
use tokio::time::Instant;
use tonic::{Code, Status, Streaming};
use tonic_types::StatusExt as _;
use tower::{service_fn, util::BoxCloneSyncService};

use crate::support::{
    BUCKET, REGION, Rig, Setup, Task, all, at_most, fields, finished, image, of_images, reason,
    watch_of,
};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

type Stream = Streaming<WatchStoreImageTaskResponse>;

/// A watch that waits up to ten minutes for its task.
fn waiting_for(image: &str) -> WatchStoreImageTaskRequest {
    WatchStoreImageTaskRequest { wait_for_task: seconds(600), ..watch_of(image) }
}

fn by_id(task: &StoreImageTask) -> WatchStoreImageTaskRequest {
    WatchStoreImageTaskRequest { task_id: task.task_id.clone(), ..Default::default() }
}

fn seconds(seconds: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos: 0 })
}

async fn next(rig: &Rig, stream: &mut Stream) -> WatchStoreImageTaskResponse {
    rig.until(stream.message()).await.expect("no error").expect("a message")
}

async fn open(rig: &Rig, request: WatchStoreImageTaskRequest) -> Stream {
    rig.until(rig.client().watch(request)).await.expect("open")
}

/// The first message with a task, and how many came before it.
async fn first_task(rig: &Rig, stream: &mut Stream) -> (StoreImageTask, usize) {
    for before in 0.. {
        if let Some(task) = next(rig, stream).await.task {
            return (task, before);
        }
    }
    unreachable!("the loop has no end")
}

/// The messages that have come so far.
async fn so_far(rig: &Rig, stream: &mut Stream) -> Vec<WatchStoreImageTaskResponse> {
    let mut messages = Vec::new();
    while let Ok(message) = rig.until(tokio::time::timeout(SECOND, stream.message())).await {
        let Some(message) = message.expect("no error") else { break };
        messages.push(message);
    }
    messages
}

async fn to_the_end(rig: &Rig, stream: &mut Stream) -> (Option<StoreImageTask>, Option<Status>) {
    let mut last = None;
    loop {
        match rig.until(stream.message()).await {
            Ok(Some(message)) => last = message.task.or(last),
            Ok(None) => return (last, None),
            Err(status) => return (last, Some(status)),
        }
    }
}

/// What a caller passes as `started_after`: the latest start time of an image by a List that tolerates
/// no staleness.
async fn latest_start(rig: &Rig, image: &str) -> Option<Timestamp> {
    let listed = rig.until(rig.client().list(at_most(0, of_images([image])))).await;
    listed.expect("answered").into_inner().tasks.first()?.start_time
}

fn metadata(status: &Status) -> HashMap<String, String> {
    status.get_details_error_info().expect("an ErrorInfo").metadata
}

fn time(timestamp: Option<Timestamp>) -> SystemTime {
    SystemTime::try_from(timestamp.expect("a time")).expect("in range")
}

#[tokio::test]
async fn a_watch_begun_right_after_a_store_follows_the_new_task() {
    for names_the_last_start in [true, false] {
        let rig = Rig::with_tasks([Task::done(&image(1), DAY)]).await;
        let started_after = latest_start(&rig, &image(1)).await;
        rig.run_for(SECOND).await;
        rig.add([Task::running(&image(1), 2 * MINUTE)]);
        let mut request = waiting_for(&image(1));
        if names_the_last_start {
            request.started_after = started_after;
        }
        let mut stream = open(&rig, request).await;
        let (first, _) = first_task(&rig, &mut stream).await;
        assert_eq!(first.state(), State::InProgress);
        assert!(time(first.start_time) > time(started_after));
        let (last, error) = to_the_end(&rig, &mut stream).await;
        let last = last.expect("messages");
        assert_eq!((last.state(), last.task_id), (State::Completed, first.task_id));
        assert!(error.is_none(), "{error:?}");
    }
}

#[tokio::test]
async fn a_new_task_is_found_although_the_cache_says_that_there_is_none() {
    let rig = Rig::with_tasks(finished(3)).await;
    rig.simulator.add_image(REGION, &image(9));
    let listed = rig.until(rig.client().list(of_images([image(9)]))).await.expect("answered");
    assert_eq!(listed.into_inner().missing_images.len(), 1);
    rig.add([Task::running(&image(9), MINUTE)]);
    let mut stream = open(&rig, watch_of(&image(9))).await;
    assert_eq!(first_task(&rig, &mut stream).await.0.image_id, image(9));
}

#[tokio::test]
async fn nothing_final_is_said_while_ec2_throttles() {
    let rig = Rig::with_tasks([Task::done(&image(1), DAY)]).await;
    rig.simulator.add_image(REGION, &image(9));
    rig.until(rig.client().list(of_images([image(1), image(9)]))).await.expect("answered");
    rig.simulator.set_fault(Some(Fault::error(503, "RequestLimitExceeded")));
    let mut done = open(&rig, watch_of(&image(1))).await;
    let mut missing = open(&rig, watch_of(&image(9))).await;
    for stream in [&mut done, &mut missing] {
        let first = next(&rig, stream).await;
        assert_eq!((first.kind(), first.task), (Kind::Heartbeat, None));
        let degraded = first.degraded.expect("degraded");
        assert_eq!((degraded.code, &*degraded.reason), (8, "RequestLimitExceeded"));
        assert_eq!((&*degraded.domain, degraded.message.is_empty()), ("ec2.amazonaws.com", false));
    }
    rig.run_for(6 * MINUTE).await;
    for stream in [&mut done, &mut missing] {
        let messages = so_far(&rig, stream).await;
        assert!(messages.len() >= 11, "heartbeats: {}", messages.len());
        assert!(messages.iter().all(|message| message.task.is_none()));
    }
    rig.simulator.set_fault(None);
    let (last, error) = to_the_end(&rig, &mut done).await;
    assert_eq!((last.expect("a task").state(), error.is_none()), (State::Completed, true));
    let (_, error) = to_the_end(&rig, &mut missing).await;
    assert_eq!(reason(&error.expect("NOT_FOUND")).1, "NO_TASK");
}

#[tokio::test]
async fn an_image_and_a_task_that_ec2_shows_late_are_waited_for() {
    let mut setup = Setup::default();
    setup.simulator.image_appear_after = 40 * SECOND;
    let rig = setup.start().await;
    rig.simulator.add_image(REGION, &image(1));
    let mut stream = open(&rig, waiting_for(&image(1))).await;
    let first = next(&rig, &mut stream).await;
    assert_eq!((first.kind(), first.task), (Kind::Heartbeat, None));
    assert_eq!(first.waiting.expect("waiting").ec2_code, "InvalidAMIID.NotFound");
    rig.run_for(100 * SECOND).await;
    let messages = so_far(&rig, &mut stream).await;
    assert_eq!(messages.len(), 3, "one in each half minute: {messages:?}");
    let last = messages.last().expect("messages").waiting.clone().expect("waiting");
    assert_eq!(last.ec2_code, "", "EC2 knows the image by now");
    rig.add([Task::running(&image(1), MINUTE)]);
    let (last, error) = to_the_end(&rig, &mut stream).await;
    assert_eq!((last.expect("a task").state(), error.is_none()), (State::Completed, true));
}

#[tokio::test]
async fn a_wait_ends_with_not_found_and_says_what_it_was_for() {
    let rig = Rig::with_tasks([Task::done(&image(1), HOUR)]).await;
    let begun = Instant::now();
    let request = WatchStoreImageTaskRequest {
        bucket: "wrong-bucket".to_owned(),
        wait_for_task: seconds(90),
        ..watch_of(&image(1))
    };
    let mut stream = open(&rig, request).await;
    let waiting = next(&rig, &mut stream).await.waiting.expect("waiting");
    assert!(waiting.latest_start_time.is_some(), "the task into the other bucket");
    let (_, error) = to_the_end(&rig, &mut stream).await;
    let waited = begun.elapsed().as_secs();
    assert!((90..=96).contains(&waited), "{waited}");
    let error = error.expect("an error");
    assert_eq!((error.code(), &*reason(&error).1), (Code::NotFound, "NO_TASK"));
    let metadata = metadata(&error);
    assert_eq!(metadata["imageId"], image(1));
    assert_eq!(metadata["bucket"], "wrong-bucket");
    assert_eq!((&*metadata["account"], &*metadata["region"]), ("default", REGION));
    assert!(metadata.contains_key("latestStartTime"), "{metadata:?}");
    for part in [&image(1), "wrong-bucket", REGION] {
        assert!(error.message().contains(part), "{}", error.message());
    }
}

#[tokio::test]
async fn an_unknown_image_is_not_found_with_ec2s_code() {
    let rig = Rig::with_tasks(finished(3)).await;
    let status = rig.until(rig.client().watch(watch_of(&image(99)))).await.expect_err("unknown");
    assert_eq!((status.code(), &*reason(&status).1), (Code::NotFound, "NO_TASK"));
    assert_eq!(metadata(&status)["ec2Code"], "InvalidAMIID.NotFound");
}

/// NOT_FOUND rests on calls that started at most 30 s before the wait was over.
#[tokio::test]
async fn the_end_of_a_wait_rests_on_fresh_calls() {
    let mut setup = Setup::default();
    setup.gateway.watch.interval.min = HOUR;
    setup.gateway.watch.interval.max = HOUR;
    let rig = setup.start().await;
    rig.simulator.add_image(REGION, &image(1));
    let request = WatchStoreImageTaskRequest { wait_for_task: seconds(300), ..watch_of(&image(1)) };
    let mut stream = open(&rig, request).await;
    assert_eq!(next(&rig, &mut stream).await.task, None);
    rig.run_for(200 * SECOND).await;
    // By itself the watch asks once an hour.
    rig.add([Task::running(&image(1), HOUR)]);
    let (task, _) = first_task(&rig, &mut stream).await;
    assert_eq!(task.image_id, image(1), "it is found at the end of the wait");
}

#[tokio::test]
async fn the_first_task_after_the_given_time_is_followed_although_there_is_a_newer_one() {
    let rig = Rig::with_tasks([Task::done(&image(1), DAY)]).await;
    let started_after = latest_start(&rig, &image(1)).await;
    rig.add([Task::running(&image(1), 3 * MINUTE).failing(50).aged(20 * SECOND)]);
    rig.add([Task::running(&image(1), HOUR).into("other-bucket")]);
    let request = WatchStoreImageTaskRequest { started_after, ..waiting_for(&image(1)) };
    let mut stream = open(&rig, request).await;
    let (first, _) = first_task(&rig, &mut stream).await;
    assert_eq!(first.bucket, BUCKET);
    let (last, error) = to_the_end(&rig, &mut stream).await;
    assert_eq!((last.expect("a task").state(), error.is_none()), (State::Failed, true));
}

/// A store that failed at once is tried again: the second watch never tells of the first store.
#[tokio::test]
async fn a_second_store_seconds_after_a_failed_one_is_not_mixed_up() {
    let rig = Rig::with_tasks([]).await;
    rig.add([Task::running(&image(1), 10 * SECOND).failing(20)]);
    let mut stream = open(&rig, waiting_for(&image(1))).await;
    let (last, _) = to_the_end(&rig, &mut stream).await;
    let failed = last.expect("a task");
    assert_eq!(failed.state(), State::Failed);
    let started_after = latest_start(&rig, &image(1)).await;
    assert_eq!(started_after, failed.start_time);
    let request = WatchStoreImageTaskRequest { started_after, ..waiting_for(&image(1)) };
    let mut stream = open(&rig, request).await;
    rig.run_for(5 * SECOND).await;
    rig.add([Task::running(&image(1), 30 * SECOND)]);
    let (first, _) = first_task(&rig, &mut stream).await;
    assert_ne!(first.task_id, failed.task_id);
    let (last, error) = to_the_end(&rig, &mut stream).await;
    let last = last.expect("a task");
    assert_eq!(
        (last.state(), last.task_id, error.is_none()),
        (State::Completed, first.task_id, true)
    );
}

/// A terminal task cannot change, and the listing shows that no other can be the first one.
#[tokio::test]
async fn a_terminal_task_comes_from_the_cache_if_nothing_can_precede_it() {
    let rig = Rig::with_tasks([Task::done(&image(1), 2 * HOUR), Task::done(&image(1), HOUR)]).await;
    let listed = rig.until(rig.client().list(all())).await.expect("answered").into_inner().tasks;
    let (newer, older) = (&listed[0], &listed[1]);
    rig.run_for(MINUTE).await;
    let request =
        WatchStoreImageTaskRequest { started_after: older.start_time, ..watch_of(&image(1)) };
    for request in [request, by_id(older), by_id(newer)] {
        let named = request.task_id.clone();
        let mut stream = open(&rig, request).await;
        let (task, _) = first_task(&rig, &mut stream).await;
        assert!(task.done && (named.is_empty() || named == task.task_id));
    }
    assert_eq!(rig.calls(), 1);
    open(&rig, watch_of(&image(1))).await;
    assert_eq!(rig.calls(), 2, "the latest one may be another by now");
}

#[tokio::test]
async fn a_client_that_calls_again_with_a_task_id_hears_the_end_of_that_task() {
    let rig = Rig::with_tasks(finished(450)).await;
    rig.add([Task::running(&image(1), 4 * HOUR).aged(3 * HOUR)]);
    let (task, _) = first_task(&rig, &mut open(&rig, watch_of(&image(1))).await).await;
    rig.run_for(2 * HOUR).await;
    rig.add([Task::running(&image(1), HOUR).into("other-bucket")]);
    let replica = rig.another_gateway().await;
    for gateway in [&rig, &replica] {
        let mut stream = open(gateway, by_id(&task)).await;
        let (seen, _) = first_task(gateway, &mut stream).await;
        assert_eq!((seen.state(), &seen.task_id), (State::Completed, &task.task_id));
    }
}

#[tokio::test]
async fn a_task_id_finds_an_unfinished_task_far_down_the_listing_of_a_fresh_replica() {
    let rig = Rig::with_tasks(finished(650)).await;
    rig.add([
        Task::running(&image(1000), 40 * HOUR).aged(10 * HOUR),
        Task::done(&image(1000), HOUR / 2).into("other-bucket"),
    ]);
    let filter = ListStoreImageTasksRequest { buckets: vec![BUCKET.to_owned()], ..all() };
    let filter = ListStoreImageTasksRequest { states: vec![State::InProgress.into()], ..filter };
    let listed = rig.until(rig.client().list(filter)).await.expect("answered").into_inner().tasks;
    let replica = rig.another_gateway().await;
    let (seen, _) = first_task(&replica, &mut open(&replica, by_id(&listed[0])).await).await;
    assert_eq!((seen.state(), &seen.task_id), (State::InProgress, &listed[0].task_id));
}

#[tokio::test]
async fn a_task_id_that_ec2_does_not_list_is_gone_after_five_minutes() {
    let rig = Rig::with_tasks([Task::running(&image(1), 5 * HOUR)]).await;
    let (task, _) = first_task(&rig, &mut open(&rig, watch_of(&image(1))).await).await;
    rig.simulator.forget_tasks(REGION, &image(1));
    let replica = rig.another_gateway().await;
    let begun = Instant::now();
    let mut stream = open(&replica, by_id(&task)).await;
    assert_eq!(next(&replica, &mut stream).await.kind(), Kind::Heartbeat);
    let (seen, error) = to_the_end(&replica, &mut stream).await;
    assert_eq!(seen, None);
    let error = error.expect("an error");
    assert_eq!((error.code(), &*reason(&error).1), (Code::NotFound, "TASK_GONE"));
    let waited = begun.elapsed();
    assert!(waited >= 5 * MINUTE && waited < 6 * MINUTE, "{waited:?}");
    assert_eq!(metadata(&error)["imageId"], image(1));
}

#[tokio::test]
async fn a_task_id_of_a_task_older_than_31_days_is_gone_at_once() {
    let rig =
        Rig::with_tasks([Task::running(&image(1), 60 * DAY).aged(30 * DAY + 1439 * MINUTE)]).await;
    let (task, _) = first_task(&rig, &mut open(&rig, watch_of(&image(1))).await).await;
    rig.run_for(2 * MINUTE).await;
    let replica = rig.another_gateway().await;
    let error = replica.until(replica.client().watch(by_id(&task))).await.expect_err("too old");
    assert_eq!(reason(&error).1, "TASK_GONE");
}

/// An EC2 that always lists the same tasks.
fn listing(tasks: Vec<domain::StoreImageTask>) -> MakeUpstream {
    let answer = DescribeResponse::Tasks(Answer { tasks, next: None });
    let upstream = service_fn(move |_| {
        let answer = answer.clone();
        async move {
            tokio::time::sleep(SECOND / 20).await;
            Ok(answer)
        }
    });
    Arc::new(move |_| BoxCloneSyncService::new(upstream.clone()))
}

/// A task that EC2 goes on to list, however old it is.
fn old_task(number: u64, state: TaskState) -> domain::StoreImageTask {
    let start = wall_clock() - 31 * DAY + MINUTE;
    domain::StoreImageTask {
        key: TaskKey {
            start_time: Reverse(start),
            image_id: ImageId::parse(&image(number)).expect("valid"),
            bucket: BUCKET.into(),
        },
        object_key: "object".into(),
        state,
        progress: Some(50),
        failure_reason: None,
    }
}

#[tokio::test]
async fn a_task_older_than_31_days_is_gone_although_ec2_still_lists_it() {
    let tasks = vec![old_task(1, TaskState::InProgress), old_task(2, TaskState::Completed)];
    let rig = Setup::default().start_with(Some(listing(tasks))).await;
    let begun = Instant::now();
    let mut stream = open(&rig, watch_of(&image(1))).await;
    let (running, _) = first_task(&rig, &mut stream).await;
    let (completed, _) = first_task(&rig, &mut open(&rig, watch_of(&image(2))).await).await;
    let (_, error) = to_the_end(&rig, &mut stream).await;
    assert_eq!(reason(&error.expect("an error")).1, "TASK_GONE");
    let after = begun.elapsed();
    assert!(after > 55 * SECOND && after < 70 * SECOND, "{after:?}");

    for task in [running, completed] {
        let by_id = rig.until(rig.client().watch(by_id(&task))).await.expect_err("too old");
        assert_eq!(reason(&by_id).1, "TASK_GONE", "{}", task.image_id);
        let first_since = WatchStoreImageTaskRequest {
            started_after: Some((rig.simulator.now() - 40 * DAY).into()),
            ..watch_of(&task.image_id)
        };
        for request in [watch_of(&task.image_id), first_since] {
            let by_image = rig.until(rig.client().watch(request)).await.expect_err("too old");
            assert_eq!(reason(&by_image).1, "NO_TASK", "{}", task.image_id);
        }
    }
}

#[tokio::test]
async fn other_fields_beside_a_task_id_must_agree_with_it() {
    let rig = Rig::with_tasks([Task::running(&image(1), HOUR)]).await;
    let listed = rig.until(rig.client().list(all())).await.expect("answered").into_inner().tasks;
    let task = &listed[0];
    let good = WatchStoreImageTaskRequest {
        image_id: image(1),
        bucket: BUCKET.to_owned(),
        started_after: Some(Timestamp { seconds: 1, nanos: 0 }),
        ..by_id(task)
    };
    first_task(&rig, &mut open(&rig, good.clone()).await).await;
    let bad = WatchStoreImageTaskRequest {
        image_id: image(2),
        bucket: "other-bucket".to_owned(),
        started_after: task.start_time,
        ..good
    };
    let error = rig.until(rig.client().watch(bad)).await.expect_err("refused");
    assert_eq!(fields(&error), ["image_id", "bucket", "started_after"]);
    let unreadable =
        WatchStoreImageTaskRequest { task_id: task.task_id[1..].to_owned(), ..Default::default() };
    let error = rig.until(rig.client().watch(unreadable)).await.expect_err("refused");
    assert_eq!(fields(&error), ["task_id"]);
    let error = rig
        .until(rig.client().watch(WatchStoreImageTaskRequest::default()))
        .await
        .expect_err("refused");
    assert_eq!(fields(&error), ["image_id"]);
}

#[tokio::test]
async fn a_started_after_in_the_future_is_refused_as_in_a_list() {
    let rig = Rig::with_tasks(finished(1)).await;
    let ahead = |minutes: u32| Some(Timestamp::from(rig.simulator.now() + minutes * MINUTE));
    let request = |minutes: u32| WatchStoreImageTaskRequest {
        started_after: ahead(minutes),
        ..waiting_for(&image(1))
    };
    let error = rig.until(rig.client().watch(request(20))).await.expect_err("refused");
    assert_eq!(fields(&error), ["started_after"]);
    open(&rig, request(10)).await;
}

#[tokio::test]
async fn a_heartbeat_after_three_seconds_says_that_a_slow_call_is_being_made() {
    let mut setup = Setup::default();
    setup.simulator.latency = 5 * SECOND;
    let rig = setup.start().await;
    rig.add([Task::running(&image(1), HOUR)]);
    let begun = Instant::now();
    let mut stream = open(&rig, watch_of(&image(1))).await;
    let first = next(&rig, &mut stream).await;
    assert_eq!((first.kind(), first.task), (Kind::Heartbeat, None));
    let waited = begun.elapsed();
    assert!(waited >= 3 * SECOND && waited < 4 * SECOND, "{waited:?}");
    assert_eq!(next(&rig, &mut stream).await.kind(), Kind::Update);
}

#[tokio::test]
async fn a_watch_begins_while_ec2_cannot_be_asked() {
    for fault in [
        Fault::error(503, "RequestLimitExceeded"),
        Fault::Wire(Wire::Reset),
        Fault::Wire(Wire::Stall(10 * MINUTE)),
    ] {
        let rig = Rig::with_tasks([Task::running(&image(1), HOUR)]).await;
        let mut watched = open(&rig, watch_of(&image(1))).await;
        let (task, _) = first_task(&rig, &mut watched).await;
        rig.simulator.set_fault(Some(fault.clone()));
        rig.run_for(2 * MINUTE).await;
        for request in [watch_of(&image(1)), by_id(&task)] {
            let first = next(&rig, &mut open(&rig, request).await).await;
            assert!(first.degraded.is_some(), "{fault:?}");
            assert_eq!(
                (first.kind(), first.task.map(|task| task.task_id)),
                (Kind::Update, Some(task.task_id.clone()))
            );
        }
        let other = next(&rig, &mut open(&rig, watch_of(&image(2))).await).await;
        assert_eq!((other.kind(), other.task), (Kind::Heartbeat, None));
        assert!(other.degraded.is_some(), "{fault:?}");
    }
}

#[tokio::test]
async fn a_refusal_of_the_scope_is_told_at_once_to_a_watch_that_begins() {
    let rig = Rig::with_tasks([Task::running(&image(1), HOUR)]).await;
    for (http, code, expected) in [
        (403, "UnauthorizedOperation", Code::PermissionDenied),
        (400, "AccessDenied", Code::PermissionDenied),
        (401, "AuthFailure", Code::Unauthenticated),
        (400, "InvalidClientTokenId", Code::Unauthenticated),
        (401, "OptInRequired", Code::FailedPrecondition),
        (400, "Blocked", Code::FailedPrecondition),
        (400, "PendingVerification", Code::FailedPrecondition),
        (400, "InvalidAction", Code::Unimplemented),
        (400, "UnsupportedOperation", Code::Unimplemented),
        // Not of the whole scope, but no less final.
        (400, "NoSuchCodeYet", Code::FailedPrecondition),
        (400, "InvalidParameterValue", Code::InvalidArgument),
    ] {
        rig.simulator.set_fault(Some(Fault::error(http, code)));
        let begun = Instant::now();
        let error = rig.until(rig.client().watch(waiting_for(&image(1)))).await;
        let error = error.expect_err("refused");
        assert_eq!((error.code(), &*reason(&error).1), (expected, code));
        assert!(begun.elapsed() < 3 * SECOND, "{:?}", begun.elapsed());
        rig.run_for(2 * SECOND).await;
    }
}

/// Fifty pipelines store an image each, one after the other, and wait for its task.
#[tokio::test]
async fn watches_that_wait_share_their_calls() {
    let rig = Rig::with_tasks(finished(3)).await;
    let mut streams = Vec::new();
    for number in 100..150 {
        rig.simulator.add_image(REGION, &image(number));
        let client = rig.client();
        streams.push(tokio::spawn(async move { client.watch(waiting_for(&image(number))).await }));
        rig.run_for(SECOND / 5).await;
    }
    rig.run_for(20 * SECOND).await;
    for stream in &streams {
        assert!(stream.is_finished(), "each has its first heartbeat");
    }
    assert!(rig.calls() <= 20, "{} calls in 30 s", rig.calls());
    let before = rig.calls();
    rig.run_for(2 * MINUTE).await;
    assert!(rig.calls() - before <= 24, "{} calls in 2 min", rig.calls() - before);
}

/// 3,000 finished tasks, among them one of image 9,000 on this page of EC2's listing, and above them all a
/// running one of that image, which is the only one that a look-up shows.
async fn candidate_on_page(page: u64) -> (Rig, WatchStoreImageTaskRequest) {
    let rig = Rig::with_tasks(finished(3_000)).await;
    let tasks_above = (page - 1) * 200 + 100;
    rig.add([
        Task::done(&image(9_000), HOUR + u32::try_from(tasks_above).expect("few") * MINUTE),
        Task::running(&image(9_000), 5 * HOUR).aged(HOUR / 2),
    ]);
    let started_after = Some((rig.simulator.now() - 10 * DAY).into());
    (rig, WatchStoreImageTaskRequest { started_after, ..watch_of(&image(9_000)) })
}

/// Number of pages below the first one that EC2 was asked for.
fn pages_further(rig: &Rig) -> usize {
    rig.requests().iter().filter(|parameters| parameters.contains("NextToken")).count()
}

#[tokio::test]
async fn the_first_candidate_is_looked_for_at_most_five_pages_down_the_listing() {
    let (rig, request) = candidate_on_page(5).await;
    let (first, _) = first_task(&rig, &mut open(&rig, request).await).await;
    assert_eq!(first.state(), State::Completed, "the older one, which only the listing shows");
    assert!((4..=5).contains(&pages_further(&rig)), "{}", pages_further(&rig));

    let (rig, request) = candidate_on_page(9).await;
    let mut stream = open(&rig, request).await;
    let (first, _) = first_task(&rig, &mut stream).await;
    assert_eq!(first.state(), State::InProgress, "the first one of those that are known");
    rig.run_for(10 * MINUTE).await;
    assert_eq!(pages_further(&rig), 5, "no page is read for it later, either");
}

/// A gateway that has as many tasks as it keeps, in front of an account with more.
async fn at_the_bound_of_tasks() -> Rig {
    let mut setup = Setup::default();
    setup.gateway.cache.max_tasks = 300;
    let rig = setup.start().await;
    rig.add(finished(1_000));
    rig.add([Task::running(&image(9_000), 40 * HOUR).aged(15 * HOUR)]);
    rig.add([Task::running(&image(9_000), 40 * HOUR).into("other-bucket").aged(HOUR / 2)]);
    walk_to_the_bound(&rig, 300).await;
    rig
}

/// Lists pages of this size until the gateway has no room for one.
async fn walk_to_the_bound(rig: &Rig, page_size: i32) {
    let mut page = ListStoreImageTasksRequest { page_size, ..all() };
    loop {
        match rig.until(rig.client().list(page.clone())).await {
            Ok(answer) => page.page_token = answer.into_inner().next_page_token,
            Err(status) => {
                assert_eq!(reason(&status).1, "TOO_MANY_TASKS");
                return;
            }
        }
        assert!(!page.page_token.is_empty(), "refused before the last page");
    }
}

#[tokio::test]
async fn at_the_bound_of_tasks_a_watch_goes_on_without_the_listing() {
    let rig = at_the_bound_of_tasks().await;
    let deep = pages_further(&rig);
    // What is in progress shows the older task, so the newer one in another bucket does not hide it.
    let request =
        WatchStoreImageTaskRequest { bucket: BUCKET.to_owned(), ..watch_of(&image(9_000)) };
    let (running, _) = first_task(&rig, &mut open(&rig, request).await).await;
    let (same, _) = first_task(&rig, &mut open(&rig, by_id(&running)).await).await;
    assert_eq!((&running.bucket[..], &same.task_id), (BUCKET, &running.task_id));

    // The bucket has no task of the image, as far as is known without the listing.
    let third = WatchStoreImageTaskRequest {
        bucket: "third-bucket".to_owned(),
        wait_for_task: seconds(60),
        ..watch_of(&image(9_000))
    };
    let mut stream = open(&rig, third.clone()).await;
    rig.run_for(20 * SECOND).await;
    rig.add([Task::running(&image(9_000), 30 * SECOND).into("third-bucket")]);
    let (last, error) = to_the_end(&rig, &mut stream).await;
    assert_eq!((last.expect("a task").state(), error.is_none()), (State::Completed, true));

    let fourth = WatchStoreImageTaskRequest { bucket: "fourth-bucket".to_owned(), ..third };
    let (_, error) = to_the_end(&rig, &mut open(&rig, fourth).await).await;
    let error = error.expect("an error");
    assert_eq!(reason(&error).1, "NO_TASK");
    assert!(metadata(&error).contains_key("knownSince"), "the listing was not read to its end");
    assert_eq!(pages_further(&rig), deep);
}

/// Whether EC2 still lists the task cannot be told without the listing: nothing final is said.
#[tokio::test]
async fn at_the_bound_of_tasks_a_watch_by_task_id_goes_on_without_the_listing() {
    let other = Rig::with_tasks([Task::done(&image(9_000), 16 * HOUR)]).await;
    let listed = other.until(other.client().list(all())).await.expect("answered").into_inner();
    let rig = at_the_bound_of_tasks().await;
    let calls = rig.calls();
    let mut stream = open(&rig, by_id(&listed.tasks[0])).await;
    let begun = Instant::now();
    while begun.elapsed() < 10 * MINUTE {
        let message = next(&rig, &mut stream).await;
        assert_eq!((message.kind(), message.task), (Kind::Heartbeat, None));
        assert_eq!(message.degraded.expect("trouble").reason, "TOO_MANY_TASKS");
    }
    assert!(rig.calls() - calls <= 2, "{}", rig.calls() - calls);
}

/// EC2 lists the task, but only in the part of the listing for which there is no room: it has ended, and a
/// newer task of its image hides it from look-ups.
#[tokio::test]
async fn a_watch_by_task_id_hears_the_end_once_there_is_room_for_the_listing() {
    let mut setup = Setup::default();
    setup.gateway.cache.max_tasks = 300;
    let rig = setup.start().await;
    rig.add((0..200).map(|number| Task::running(&image(5_000 + number), 40 * HOUR).aged(MINUTE)));
    rig.add([Task::done(&image(9_000), HOUR)]);
    rig.add(finished(250));
    rig.add([Task::done(&image(9_000), 16 * HOUR)]);
    let only = ListStoreImageTasksRequest { buckets: vec![BUCKET.to_owned()], ..all() };
    let replica = rig.another_gateway().await;
    let listed = replica.until(replica.client().walk(only)).await;
    let task = listed.iter().rfind(|task| task.image_id == image(9_000)).expect("listed");
    walk_to_the_bound(&rig, 300).await;

    let mut stream = open(&rig, by_id(task)).await;
    let begun = Instant::now();
    while begun.elapsed() < 6 * MINUTE {
        let message = next(&rig, &mut stream).await;
        assert_eq!((message.kind(), message.task), (Kind::Heartbeat, None));
        assert_eq!(message.degraded.expect("trouble").reason, "TOO_MANY_TASKS");
    }
    // Unfinished tasks go when the answers to other callers have lacked them for five minutes.
    for number in 0..200 {
        rig.simulator.forget_tasks(REGION, &image(5_000 + number));
    }
    for _ in 0..14 {
        rig.until(rig.client().list(at_most(0, all()))).await.expect("answered");
        rig.run_for(30 * SECOND).await;
    }
    let last = so_far(&rig, &mut stream).await.pop().expect("messages").task.expect("a task");
    assert_eq!((&last.task_id, last.state()), (&task.task_id, State::Completed));
}

#[tokio::test]
async fn at_the_bound_of_tasks_a_task_id_is_gone_when_the_task_is_31_days_old() {
    let other = Rig::with_tasks([Task::done(&image(9_000), 30 * DAY + 1430 * MINUTE)]).await;
    let listed = other.until(other.client().list(all())).await.expect("answered").into_inner();
    let rig = at_the_bound_of_tasks().await;
    let begun = Instant::now();
    let mut stream = open(&rig, by_id(&listed.tasks[0])).await;
    let (seen, error) = to_the_end(&rig, &mut stream).await;
    assert_eq!((seen, &*reason(&error.expect("an error")).1), (None, "TASK_GONE"));
    let after = begun.elapsed();
    assert!(after > 9 * MINUTE && after < 11 * MINUTE, "{after:?}");
}
