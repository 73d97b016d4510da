//! `WatchStoreImageTask`: trouble with EC2 while a stream follows its task.

use std::time::{Duration, SystemTime};

use amistore_gateway::{
    proto::{
        ListStoreImageTasksRequest, WatchStoreImageTaskRequest, WatchStoreImageTaskResponse,
        watch_store_image_task_response::Kind,
    },
    simulator::{Fault, Wire},
    watch::Bounds,
};
use tokio::time::{Instant, timeout};
use tonic::{Code, Streaming};

use crate::support::{Rig, Setup, Task, all, at_most, image, reason, watch_of};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

type Stream = Streaming<WatchStoreImageTaskResponse>;

/// A task of 100 minutes, so that it makes little progress, and its refreshes are half a minute apart.
async fn slow_task() -> (Rig, Stream) {
    let rig = Rig::with_tasks([Task::running(&image(1), 6000 * SECOND)]).await;
    let quiet = WatchStoreImageTaskRequest {
        heartbeat_interval: Some(prost_types::Duration { seconds: 3600, nanos: 0 }),
        ..watch_of(&image(1))
    };
    let stream = rig.until(rig.client().watch(quiet)).await.expect("open");
    (rig, stream)
}

async fn next(rig: &Rig, stream: &mut Stream) -> WatchStoreImageTaskResponse {
    rig.until(stream.message()).await.expect("no error").expect("a message")
}

/// The next message that carries `degraded`.
async fn degraded(rig: &Rig, stream: &mut Stream) -> WatchStoreImageTaskResponse {
    loop {
        let message = next(rig, stream).await;
        if message.degraded.is_some() {
            return message;
        }
    }
}

fn time(timestamp: Option<prost_types::Timestamp>) -> SystemTime {
    SystemTime::try_from(timestamp.expect("a time")).expect("in range")
}

/// The time of the first call after this many.
async fn call_after(rig: &Rig, calls: usize) -> SystemTime {
    while rig.calls() == calls {
        rig.run_for(SECOND / 20).await;
    }
    rig.simulator.now()
}

#[tokio::test]
async fn trouble_shows_three_seconds_after_the_refresh_that_was_due() {
    for fault in [
        Fault::error(503, "RequestLimitExceeded"),
        Fault::error(500, "InternalError"),
        Fault::Wire(Wire::Reset),
        Fault::Wire(Wire::Stall(10 * MINUTE)),
        Fault::error(403, "UnauthorizedOperation"),
        Fault::error(401, "AuthFailure"),
    ] {
        let (rig, mut stream) = slow_task().await;
        next(&rig, &mut stream).await;
        rig.run_for(2 * MINUTE).await;
        rig.simulator.set_fault(Some(fault.clone()));
        let due = call_after(&rig, rig.calls()).await;
        let message = degraded(&rig, &mut stream).await;
        let shown = rig.simulator.now();
        assert_eq!(message.kind(), Kind::Heartbeat, "{fault:?}: a change of it alone");
        assert!(message.task.is_some());
        let after = shown.duration_since(due).expect("later");
        assert!(after >= 2900 * SECOND / 1000 && after < 4 * SECOND, "{fault:?}: {after:?}");
        let since = time(message.degraded.expect("degraded").since);
        let off = since.duration_since(due).unwrap_or_else(|error| error.duration());
        assert!(off < SECOND, "{fault:?}: {off:?}");
        rig.simulator.set_fault(None);
        let healed = loop {
            let message = next(&rig, &mut stream).await;
            if message.degraded.is_none() {
                break message;
            }
        };
        assert!(healed.task.is_some());
    }
}

/// Another caller's calls have emptied the gateway's own budget.
#[tokio::test]
async fn waiting_for_the_gateways_own_budget_is_not_trouble() {
    let mut setup = Setup::default();
    setup.gateway.ec2.rate.burst = 1;
    setup.gateway.ec2.rate.per_second = 0.1;
    let rig = setup.start().await;
    rig.add([Task::running(&image(1), HOUR)]);
    let mut stream = rig.until(rig.client().watch(watch_of(&image(1)))).await.expect("open");
    for _ in 0..20 {
        assert_eq!(next(&rig, &mut stream).await.degraded, None);
    }
}

/// The messages 3 to 5 s after a refresh was due that waits for the gateway's own budget. Another caller
/// has spent the budget by a call that failed 5 s before the refresh was due.
async fn after_a_failure_of_another_caller(fault: Fault) -> Vec<WatchStoreImageTaskResponse> {
    let mut setup = Setup::default();
    setup.gateway.ec2.rate.burst = 1;
    setup.gateway.ec2.rate.per_second = 0.1;
    setup.gateway.ec2.retry.max_attempts = 1;
    setup.gateway.watch.interval = Bounds { min: 30 * SECOND, max: 30 * SECOND };
    let rig = setup.start().await;
    rig.add([Task::running(&image(1), HOUR)]);
    let begun = Instant::now();
    let request = WatchStoreImageTaskRequest {
        heartbeat_interval: Some(prost_types::Duration { seconds: 1, nanos: 0 }),
        ..watch_of(&image(1))
    };
    let mut stream = rig.until(rig.client().watch(request)).await.expect("open");
    rig.run_for((25 * SECOND).saturating_sub(begun.elapsed())).await;
    rig.simulator.set_fault(Some(fault));
    rig.until(rig.client().list(at_most(0, all()))).await.expect_err("refused");
    rig.simulator.set_fault(None);
    let mut messages = Vec::new();
    while begun.elapsed() < 35 * SECOND {
        let message = next(&rig, &mut stream).await;
        let millis = begun.elapsed().as_millis();
        if (33_250..34_750).contains(&millis) {
            messages.push(message);
        }
    }
    assert!(!messages.is_empty());
    messages
}

#[tokio::test]
async fn a_failure_before_the_refresh_was_due_is_not_trouble() {
    for message in after_a_failure_of_another_caller(Fault::error(500, "InternalError")).await {
        assert_eq!(message.degraded, None);
    }
}

/// The call rate is halved by then, so that the refresh waits for longer.
#[tokio::test]
async fn a_throttled_call_before_the_refresh_was_due_is_trouble() {
    let throttled = Fault::error(503, "RequestLimitExceeded");
    for message in after_a_failure_of_another_caller(throttled).await {
        assert_eq!(message.degraded.expect("trouble").reason, "RequestLimitExceeded");
    }
}

/// There is one place for refreshes. Two fall due while the budget is spent: one waits for the budget, which
/// is not trouble, and the other finds no room.
#[tokio::test]
async fn a_refresh_that_finds_no_room_is_trouble() {
    let mut setup = Setup::default();
    setup.gateway.cache.max_refreshes = 1;
    setup.gateway.ec2.rate.burst = 1;
    setup.gateway.ec2.rate.per_second = 0.1;
    setup.gateway.watch.interval = Bounds { min: 30 * SECOND, max: 30 * SECOND };
    let rig = setup.start().await;
    rig.add([Task::running(&image(1), HOUR), Task::running(&image(2), HOUR)]);
    let begun = Instant::now();
    let mut streams = Vec::new();
    for number in 1..=2 {
        let request = WatchStoreImageTaskRequest {
            heartbeat_interval: Some(prost_types::Duration { seconds: 3600, nanos: 0 }),
            ..watch_of(&image(number))
        };
        let mut stream = rig.until(rig.client().watch(request)).await.expect("open");
        assert_eq!(next(&rig, &mut stream).await.degraded, None);
        streams.push(stream);
    }
    rig.run_for((29 * SECOND).saturating_sub(begun.elapsed())).await;
    let dry_run = ListStoreImageTasksRequest { dry_run: true, ..all() };
    rig.until(rig.client().list(dry_run)).await.expect("permitted");
    rig.run_for((38 * SECOND).saturating_sub(begun.elapsed())).await;
    let mut degraded = Vec::new();
    for stream in &mut streams {
        while let Ok(message) = rig.until(timeout(SECOND / 2, stream.message())).await {
            degraded.push(message.expect("no error").expect("a message").degraded);
        }
    }
    assert_eq!(degraded.len(), 1, "one message of one stream: {degraded:?}");
    let found = degraded[0].as_ref().expect("trouble");
    assert_eq!((found.code, &*found.reason, &*found.domain), (14, "TOO_MANY_WAITING", "amistore"));
    // The budget has a call again, whose answer tells of both tasks.
    rig.run_for(5 * SECOND).await;
    for stream in &mut streams {
        while let Ok(message) = rig.until(timeout(SECOND / 2, stream.message())).await {
            degraded.push(message.expect("no error").expect("a message").degraded);
        }
    }
    assert!(degraded.len() >= 2 && degraded[1..].iter().all(Option::is_none), "{degraded:?}");
}

#[tokio::test]
async fn a_policy_that_is_lost_for_eight_seconds_ends_no_watch() {
    let (rig, mut stream) = slow_task().await;
    next(&rig, &mut stream).await;
    rig.run_for(MINUTE).await;
    rig.simulator.set_fault(Some(Fault::error(403, "UnauthorizedOperation")));
    call_after(&rig, rig.calls()).await;
    rig.run_for(8 * SECOND).await;
    rig.simulator.set_fault(None);
    let message = degraded(&rig, &mut stream).await;
    let degraded = message.degraded.expect("degraded");
    assert_eq!((degraded.code, &*degraded.reason), (7, "UnauthorizedOperation"));
    let mut message = next(&rig, &mut stream).await;
    while message.degraded.is_some() {
        message = next(&rig, &mut stream).await;
    }
    rig.run_for(10 * MINUTE).await;
    assert!(next(&rig, &mut stream).await.task.is_some());
}

#[tokio::test]
async fn a_refusal_of_the_scope_ends_watches_after_a_minute() {
    let (rig, mut stream) = slow_task().await;
    next(&rig, &mut stream).await;
    rig.run_for(MINUTE).await;
    rig.simulator.set_fault(Some(Fault::error(403, "UnauthorizedOperation")));
    let refused = call_after(&rig, rig.calls()).await;
    let error = loop {
        match rig.until(stream.message()).await {
            Ok(message) => assert!(message.is_some(), "ended with OK"),
            Err(status) => break status,
        }
    };
    assert_eq!(
        (error.code(), &*reason(&error).1),
        (Code::PermissionDenied, "UnauthorizedOperation")
    );
    let after = rig.simulator.now().duration_since(refused).expect("later");
    assert!(after >= MINUTE && after < 2 * MINUTE, "{after:?}");
}

/// Refusals with answers between them are a replica of IAM that lags.
#[tokio::test]
async fn refusals_with_an_answer_between_them_end_no_watch() {
    let (rig, mut stream) = slow_task().await;
    next(&rig, &mut stream).await;
    for _ in 0..10 {
        rig.simulator.set_fault(Some(Fault::error(403, "UnauthorizedOperation")));
        call_after(&rig, rig.calls()).await;
        rig.simulator.set_fault(None);
        call_after(&rig, rig.calls()).await;
    }
    assert!(next(&rig, &mut stream).await.task.is_some());
}

/// The codes alternate with each refresh.
#[tokio::test]
async fn a_new_code_alone_is_told_at_most_every_ten_seconds() {
    let mut setup = Setup::default();
    setup.gateway.ec2.retry.max_attempts = 1;
    let rig = setup.start().await;
    rig.add([Task::running(&image(1), 1000 * SECOND)]);
    let quiet = WatchStoreImageTaskRequest {
        heartbeat_interval: Some(prost_types::Duration { seconds: 3600, nanos: 0 }),
        ..watch_of(&image(1))
    };
    let mut stream = rig.until(rig.client().watch(quiet)).await.expect("open");
    next(&rig, &mut stream).await;
    let faults = [Fault::error(500, "InternalError"), Fault::error(503, "Unavailable")];
    rig.simulator.script(faults.iter().cycle().take(1000).cloned());
    let mut told = Vec::new();
    while told.len() < 6 {
        let message = degraded(&rig, &mut stream).await;
        told.push((tokio::time::Instant::now(), message.degraded.expect("degraded").reason));
    }
    for pair in told.windows(2) {
        assert_ne!(pair[0].1, pair[1].1);
        let between = pair[1].0 - pair[0].0;
        assert!(between >= 9900 * SECOND / 1000, "{between:?}");
    }
}

#[tokio::test]
async fn the_end_of_a_deadline_after_hours_says_only_that() {
    let rig = Rig::with_tasks([Task::running(&image(1), 10 * HOUR)]).await;
    let mut request = tonic::Request::new(watch_of(&image(1)));
    request.metadata_mut().insert("grpc-timeout", "2H".parse().expect("ASCII"));
    let stream = rig.until(rig.client().0.watch_store_image_task(request)).await;
    let mut stream = stream.expect("open").into_inner();
    let mut messages = 0;
    let error = loop {
        match rig.until(stream.message()).await {
            Ok(message) => messages += usize::from(message.is_some()),
            Err(status) => break status,
        }
    };
    assert!(messages > 100, "{messages}");
    assert_eq!(error.code(), Code::DeadlineExceeded);
    assert_eq!(error.message(), "the caller's deadline passed");
}
