//! The streams of health and reflection: how many there may be, and how they end.

use std::time::Duration;

use tonic::{Code, Status, Streaming};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus,
    health_client::HealthClient,
};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest,
};

use crate::support::{Rig, pushback, reason};

const SECOND: Duration = Duration::from_secs(1);

/// As many streams as the process takes.
const MAX: usize = 1_000;

async fn watch_health(rig: &Rig) -> Result<Streaming<HealthCheckResponse>, Status> {
    let mut health = HealthClient::new(rig.channel());
    let watching = rig.until(health.watch(HealthCheckRequest::default())).await?;
    Ok(watching.into_inner())
}

/// The status with which a stream ends.
async fn end_of<T>(mut stream: Streaming<T>) -> Status {
    loop {
        match stream.message().await {
            Ok(Some(_)) => {}
            Ok(None) => return Status::ok(""),
            Err(status) => return status,
        }
    }
}

#[tokio::test]
async fn a_thousand_streams_of_health_and_reflection_are_open_and_no_more() {
    let rig = Rig::with_tasks([]).await;
    let mut health = HealthClient::new(rig.channel());
    let mut watches = Vec::new();
    for _ in 0..MAX {
        let watch = rig.until(health.watch(HealthCheckRequest::default())).await;
        watches.push(watch.expect("there is room").into_inner());
    }
    let refused = watch_health(&rig).await.expect_err("no room");
    assert_eq!(
        (refused.code(), reason(&refused).1.as_str()),
        (Code::Unavailable, "TOO_MANY_STREAMS")
    );
    assert!((10_000..=20_000).contains(&pushback(&refused).expect("a pushback")));
    let mut reflection = ServerReflectionClient::new(rig.channel());
    let asked = reflection.server_reflection_info(tokio_stream::pending());
    let refused = rig.until(asked).await.expect_err("no room");
    assert_eq!(reason(&refused).1, "TOO_MANY_STREAMS");
    let check = rig.until(health.check(HealthCheckRequest::default())).await;
    assert_eq!(check.expect("always answered").into_inner().status(), ServingStatus::Serving);

    watches.pop();
    rig.run_for(SECOND).await;
    watches.push(watch_health(&rig).await.expect("there is room again"));

    let mut other = HealthClient::new(rig.channel_from([127, 0, 0, 2]));
    let kept = rig.until(other.watch(HealthCheckRequest::default())).await;
    kept.expect("another caller gets the newest place of the one that holds most");
    let preempted = rig.until(end_of(watches.pop().expect("the newest"))).await;
    assert_eq!((preempted.code(), reason(&preempted).1.as_str()), (Code::Unavailable, "PREEMPTED"));
}

/// Invariant 10 (docs/invariants.md): a drain that no peer holds up
#[tokio::test]
async fn a_reflection_stream_ends_with_a_status_in_a_drain() {
    let mut rig = Rig::with_tasks([]).await;
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let requests =
        tokio_stream::StreamExt::chain(tokio_stream::once(request), tokio_stream::pending());
    let mut client = ServerReflectionClient::new(rig.channel());
    let mut stream =
        rig.until(client.server_reflection_info(requests)).await.expect("open").into_inner();
    rig.until(stream.message()).await.expect("no error").expect("an answer");
    rig.stop.cancel();
    let ended = rig.until(end_of(stream)).await;
    assert_eq!((ended.code(), reason(&ended).1.as_str()), (Code::Unavailable, "SHUTTING_DOWN"));
    assert!(pushback(&ended).is_some());
    let served = rig.served.take().expect("not yet taken");
    rig.until(served).await.expect("no panic").expect("nothing was cut");
}

/// Invariant 10 (docs/invariants.md): a drain that loses nothing
#[tokio::test]
async fn a_health_watcher_reads_not_serving_in_a_drain_and_then_a_status() {
    let mut rig = Rig::with_tasks([]).await;
    let mut watch = watch_health(&rig).await.expect("there is room");
    let first = rig.until(watch.message()).await.expect("no error").expect("a status");
    assert_eq!(first.status(), ServingStatus::Serving);
    rig.stop.cancel();
    let last = rig.until(watch.message()).await.expect("no error").expect("a status");
    assert_eq!(last.status(), ServingStatus::NotServing);
    let ended = rig.until(end_of(watch)).await;
    assert_eq!((ended.code(), reason(&ended).1.as_str()), (Code::Unavailable, "SHUTTING_DOWN"));
    let served = rig.served.take().expect("not yet taken");
    rig.until(served).await.expect("no panic").expect("nothing was cut");
}
