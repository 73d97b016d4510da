//! `WatchStoreImageTask`: the messages of a stream, and its end.

use std::time::Duration;

use amistore_gateway::{
    proto::{
        WatchStoreImageTaskRequest, WatchStoreImageTaskResponse, store_image_task::State,
        watch_store_image_task_response::Kind,
    },
    simulator::Fault,
};
use futures_util::future::join_all;
use tonic::{Code, Status, Streaming};

use crate::support::{
    REGION, Rig, Setup, Task, all, at_most, finished, image, pushback, reason, watch_of,
};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

async fn next(
    rig: &Rig,
    stream: &mut Streaming<WatchStoreImageTaskResponse>,
) -> WatchStoreImageTaskResponse {
    rig.until(stream.message()).await.expect("no error").expect("a message")
}

fn progress(messages: &[WatchStoreImageTaskResponse]) -> Vec<i32> {
    messages
        .iter()
        .map(|message| message.task.as_ref().expect("a task").progress_percentage())
        .collect()
}

fn seconds(seconds: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos: 0 })
}

/// Invariant 6 (docs/invariants.md): terminal state
#[tokio::test]
async fn a_watch_gets_every_change_and_the_terminal_state_and_then_ok() {
    let rig = Rig::with_tasks([Task::running(&image(1), 2 * MINUTE)]).await;
    let (messages, ended) = rig.until(rig.client().watch_to_end(watch_of(&image(1)))).await;
    ended.expect("OK");
    let last = messages.last().expect("messages").task.clone().expect("a task");
    assert_eq!((last.state(), last.progress_percentage), (State::Completed, Some(100)));
    assert_eq!(last.estimated_completion_time, None);
    assert!(messages.len() >= 8, "{}", messages.len());
    assert!(messages.iter().all(|message| message.kind() == Kind::Update));
    assert!(progress(&messages).is_sorted_by(|one, two| one < two), "{:?}", progress(&messages));
    let as_of: Vec<_> = messages.iter().map(|message| message.as_of.expect("an as_of")).collect();
    assert!(as_of.is_sorted_by_key(|at| (at.seconds, at.nanos)));
    assert!(messages[3].task.as_ref().expect("a task").estimated_completion_time.is_some());
}

#[tokio::test]
async fn a_failed_task_is_a_message_and_not_an_error() {
    let rig = Rig::with_tasks([Task::running(&image(1), 2 * MINUTE).failing(30)]).await;
    let (messages, ended) = rig.until(rig.client().watch_to_end(watch_of(&image(1)))).await;
    ended.expect("OK");
    let last = messages.last().expect("messages").task.clone().expect("a task");
    assert_eq!((last.state(), last.failure_reason.as_str()), (State::Failed, "a snapshot is gone"));
}

#[tokio::test]
async fn a_finished_task_is_one_message_and_no_further_call() {
    let rig = Rig::with_tasks(finished(3)).await;
    let (messages, ended) = rig.until(rig.client().watch_to_end(watch_of(&image(1)))).await;
    ended.expect("OK");
    assert_eq!(progress(&messages), [100]);
    rig.run_for(HOUR / 6).await;
    assert_eq!(rig.calls(), 1);
}

#[tokio::test]
async fn a_watch_without_a_task_is_not_found_or_waits_for_one() {
    let rig = Rig::with_tasks(finished(3)).await;
    rig.simulator.add_image(REGION, &image(9));
    let client = rig.client();
    let (_, ended) = rig.until(client.watch_to_end(watch_of(&image(9)))).await;
    let status = ended.expect_err("there is no task");
    assert_eq!((status.code(), reason(&status).1.as_str()), (Code::NotFound, "NO_TASK"));
    assert!(status.message().contains(&image(9)), "{}", status.message());

    let waits = WatchStoreImageTaskRequest { wait_for_task: seconds(600), ..watch_of(&image(9)) };
    let watch = tokio::spawn(async move { client.watch_to_end(waits).await });
    rig.run_for(MINUTE).await;
    assert!(!watch.is_finished());
    rig.add([Task::running(&image(9), MINUTE)]);
    let (messages, ended) = rig.until(watch).await.expect("not cancelled");
    ended.expect("OK");
    let (waiting, found): (Vec<_>, Vec<_>) =
        messages.into_iter().partition(|message| message.task.is_none());
    assert_eq!(waiting.len(), 2, "one heartbeat in each half minute: {waiting:?}");
    assert!(waiting.iter().all(|message| message.kind() == Kind::Heartbeat));
    assert!(progress(&found)[0] < 100, "the task is seen before it ends: {:?}", progress(&found));
    assert_eq!(progress(&found).last(), Some(&100));
}

#[tokio::test]
async fn a_watch_stays_with_its_task_when_the_image_is_stored_again() {
    let rig = Rig::with_tasks([Task::running(&image(1), 3 * MINUTE)]).await;
    let client = rig.client();
    let watch = tokio::spawn({
        let client = client.clone();
        async move { client.watch_to_end(watch_of(&image(1))).await }
    });
    rig.run_for(MINUTE).await;
    rig.add([Task::running(&image(1), HOUR).into("other-bucket")]);
    let (messages, ended) = rig.until(watch).await.expect("not cancelled");
    ended.expect("OK");
    let buckets: Vec<_> = messages
        .iter()
        .map(|message| message.task.as_ref().expect("a task").bucket.as_str())
        .collect();
    assert!(buckets.iter().all(|bucket| *bucket == buckets[0]), "{buckets:?}");
    assert_eq!(progress(&messages).last(), Some(&100));
    let mut newer = rig.until(client.watch(watch_of(&image(1)))).await.expect("open");
    assert_eq!(next(&rig, &mut newer).await.task.expect("a task").bucket, "other-bucket");
}

#[tokio::test]
async fn a_bucket_selects_its_task_even_far_below_the_head_page() {
    let rig = Rig::with_tasks(finished(450)).await;
    rig.add([
        Task::running(&image(1000), 20 * HOUR).aged(10 * HOUR).into("wanted-bucket"),
        Task::done(&image(1000), HOUR / 2),
    ]);
    let into =
        WatchStoreImageTaskRequest { bucket: "wanted-bucket".to_owned(), ..watch_of(&image(1000)) };
    let mut stream = rig.until(rig.client().watch(into)).await.expect("open");
    let first = next(&rig, &mut stream).await.task.expect("a task");
    assert_eq!((first.bucket.as_str(), first.progress_percentage()), ("wanted-bucket", 50));
    rig.run_for(HOUR).await;
    let mut later = first;
    // The messages of that hour wait in the client's buffer.
    while let Ok(message) = rig.until(tokio::time::timeout(SECOND, stream.message())).await {
        later = message.expect("no error").expect("a message").task.expect("a task");
    }
    assert!(
        later.progress_percentage() >= 54,
        "the task is refreshed although look-ups show a newer one: {}",
        later.progress_percentage()
    );
}

#[tokio::test]
async fn heartbeats_come_at_their_interval_while_nothing_changes() {
    let rig = Rig::with_tasks([Task::running(&image(1), 100 * HOUR)]).await;
    let request =
        WatchStoreImageTaskRequest { heartbeat_interval: seconds(10), ..watch_of(&image(1)) };
    let mut stream = rig.until(rig.client().watch(request)).await.expect("open");
    assert_eq!(next(&rig, &mut stream).await.kind(), Kind::Update);
    let began = tokio::time::Instant::now();
    let mut as_of = Vec::new();
    for _ in 0..6 {
        let message = next(&rig, &mut stream).await;
        assert_eq!(message.kind(), Kind::Heartbeat);
        as_of.push(message.as_of.expect("an as_of").seconds);
    }
    assert_eq!(began.elapsed().as_secs().next_multiple_of(10), 60);
    assert!(as_of.last() > as_of.first(), "EC2 was asked between the heartbeats: {as_of:?}");
}

#[tokio::test]
async fn a_transient_error_sets_degraded_and_an_answer_clears_it() {
    let rig = Rig::with_tasks([Task::running(&image(1), 1000 * SECOND)]).await;
    let mut stream = rig.until(rig.client().watch(watch_of(&image(1)))).await.expect("open");
    assert_eq!(next(&rig, &mut stream).await.degraded, None);
    rig.simulator.set_fault(Some(Fault::error(503, "RequestLimitExceeded")));
    let degraded = loop {
        let message = next(&rig, &mut stream).await;
        if let Some(degraded) = message.degraded {
            assert!(message.task.is_some(), "the task as last known");
            break degraded;
        }
    };
    assert_eq!((degraded.code, degraded.reason.as_str()), (8, "RequestLimitExceeded"));
    assert!(degraded.since.is_some());
    rig.run_for(10 * MINUTE).await;
    rig.simulator.set_fault(None);
    let healed = loop {
        let message = next(&rig, &mut stream).await;
        match &message.degraded {
            None => break message,
            Some(still) => assert_eq!(still.since, degraded.since, "since the first error"),
        }
    };
    assert!(healed.task.expect("a task").progress_percentage() > 50);
    let (rest, ended) = rig.until(drain(&mut stream)).await;
    ended.expect("OK");
    assert_eq!(progress(&rest).last(), Some(&100));
}

async fn drain(
    stream: &mut Streaming<WatchStoreImageTaskResponse>,
) -> (Vec<WatchStoreImageTaskResponse>, Result<(), Status>) {
    let mut messages = Vec::new();
    loop {
        match stream.message().await {
            Ok(Some(message)) => messages.push(message),
            Ok(None) => return (messages, Ok(())),
            Err(status) => return (messages, Err(status)),
        }
    }
}

#[tokio::test]
async fn a_permanent_error_ends_the_watch_and_its_calls() {
    let rig = Rig::with_tasks([Task::running(&image(1), HOUR)]).await;
    let mut stream = rig.until(rig.client().watch(watch_of(&image(1)))).await.expect("open");
    next(&rig, &mut stream).await;
    rig.simulator.set_fault(Some(Fault::error(403, "UnauthorizedOperation")));
    let (_, ended) = rig.until(drain(&mut stream)).await;
    let status = ended.expect_err("denied");
    assert_eq!(
        (status.code(), reason(&status).1.as_str()),
        (Code::PermissionDenied, "UnauthorizedOperation")
    );
    rig.run_for(SECOND).await;
    let calls = rig.calls();
    rig.run_for(HOUR / 6).await;
    assert_eq!(rig.calls(), calls, "no call follows");
}

#[tokio::test]
async fn a_task_that_ec2_stops_listing_ends_the_watch() {
    let rig = Rig::with_tasks([Task::running(&image(1), 5 * HOUR)]).await;
    let mut stream = rig.until(rig.client().watch(watch_of(&image(1)))).await.expect("open");
    next(&rig, &mut stream).await;
    rig.simulator.forget_tasks(REGION, &image(1));
    let (_, ended) = rig.until(drain(&mut stream)).await;
    let status = ended.expect_err("the task is gone");
    assert_eq!((status.code(), reason(&status).1.as_str()), (Code::NotFound, "TASK_GONE"));
}

/// HTTP/2's default window of 64 KB would take all messages of the task. The slow reader's window takes
/// a few.
#[tokio::test]
async fn a_slow_reader_skips_to_the_newest_state_and_still_gets_the_terminal_one() {
    let rig = Rig::with_tasks([Task::running(&image(1), 55 * SECOND)]).await;
    let mut slow =
        rig.until(rig.narrow_client(512).watch(watch_of(&image(1)))).await.expect("open");
    next(&rig, &mut slow).await;
    let (quick, _) = rig.until(rig.client().watch_to_end(watch_of(&image(1)))).await;
    let (slow, ended) = rig.until(drain(&mut slow)).await;
    ended.expect("OK");
    assert!(quick.len() > 15, "{} messages", quick.len());
    assert!((1..8).contains(&slow.len()), "{} of {} messages", slow.len(), quick.len());
    assert_eq!(progress(&slow).last(), Some(&100));
}

#[tokio::test]
async fn a_new_watcher_of_a_watched_task_sees_its_state_at_once() {
    let rig = Rig::with_tasks([Task::running(&image(1), HOUR)]).await;
    let client = rig.client();
    let mut first = rig.until(client.watch(watch_of(&image(1)))).await.expect("open");
    next(&rig, &mut first).await;
    rig.run_for(10 * MINUTE).await;
    let calls = rig.calls();
    let mut second = rig.until(client.watch(watch_of(&image(1)))).await.expect("open");
    let seen = next(&rig, &mut second).await.task.expect("a task").progress_percentage();
    assert!(seen >= 15, "{seen}");
    assert!(rig.calls() <= calls + 1);
}

#[tokio::test]
async fn a_watch_delivers_what_a_list_has_fetched() {
    let mut setup = Setup::default();
    // By itself the watch refreshes its task once an hour.
    setup.gateway.watch.interval.min = HOUR;
    setup.gateway.watch.interval.max = HOUR;
    let rig = setup.start().await;
    rig.add([Task::running(&image(1), 10 * MINUTE)]);
    let client = rig.client();
    let request =
        WatchStoreImageTaskRequest { heartbeat_interval: seconds(3600), ..watch_of(&image(1)) };
    let mut stream = rig.until(client.watch(request)).await.expect("open");
    next(&rig, &mut stream).await;
    rig.run_for(5 * MINUTE).await;
    rig.until(client.list(at_most(0, all()))).await.expect("answered");
    let message = rig.until(tokio::time::timeout(SECOND, stream.message())).await.expect("at once");
    let task = message.expect("no error").expect("a message").task.expect("a task");
    assert_eq!(task.progress_percentage(), 50);
    assert_eq!(rig.calls(), 2);
}

#[tokio::test]
async fn too_many_watches_are_refused_and_closed_ones_make_room() {
    let mut setup = Setup::default();
    setup.gateway.watch.max_watches = 3;
    let rig = setup.start().await;
    rig.add([Task::running(&image(1), HOUR)]);
    let client = rig.client();
    let opened = rig.until(join_all((0..4).map(|_| client.watch(watch_of(&image(1)))))).await;
    let (open, refused): (Vec<_>, Vec<_>) = opened.into_iter().partition(Result::is_ok);
    assert_eq!((open.len(), refused.len()), (3, 1));
    let status = refused[0].as_ref().expect_err("refused");
    assert_eq!((status.code(), reason(status).1.as_str()), (Code::Unavailable, "TOO_MANY_WATCHES"));
    assert!((10_000..=20_000).contains(&pushback(status).expect("a pushback")));
    drop(open);
    rig.run_for(SECOND).await;
    rig.until(client.watch(watch_of(&image(1)))).await.expect("there is room again");
}

#[tokio::test]
async fn a_deadline_ends_a_watch_with_deadline_exceeded() {
    let rig = Rig::with_tasks([Task::running(&image(1), HOUR)]).await;
    let mut request = tonic::Request::new(watch_of(&image(1)));
    // Only the header is set. With a timeout of its own, the client library would end the call
    // itself.
    request.metadata_mut().insert("grpc-timeout", "20S".parse().expect("ASCII"));
    let stream = rig.until(rig.client().0.watch_store_image_task(request)).await;
    let mut stream = stream.expect("open").into_inner();
    let (messages, ended) = rig.until(drain(&mut stream)).await;
    assert!(!messages.is_empty());
    assert_eq!(ended.expect_err("the deadline is over").code(), Code::DeadlineExceeded);
}
