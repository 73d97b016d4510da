//! The edge: how a request is read, and the hot path of a List.

use std::{fs, io::Write as _, time::Duration};

use amistore_gateway::proto::ListStoreImageTasksResponse;
use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use futures_util::{StreamExt as _, future::join_all, stream};
use prost::Message as _;
use tokio::time::{Instant, sleep};
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_request::MessageRequest,
};

use crate::{
    support::{Rig, Setup, Task, all, finished, image, reason, watch_of},
    wire::{self, Answer, HEALTH, LIST, REFLECTION, WATCH},
};

const SECOND: Duration = Duration::from_secs(1);
/// How far the clock of a rig may go on while bytes are on their way. It is below the request timeout.
const SLACK: Duration = Duration::from_secs(25);
const MIB: usize = 1 << 20;
const KIB: usize = 1 << 10;
const HEALTH_WATCH: &str = "/grpc.health.v1.Health/Watch";

/// The methods whose requests are collected, with the largest message of each.
const COLLECTED: [(&str, usize); 4] =
    [(LIST, MIB), (WATCH, MIB), (HEALTH, 4 * KIB), (HEALTH_WATCH, 4 * KIB)];

/// The whole body of a List of all tasks.
fn list_body() -> Bytes {
    framed(&all())
}

fn framed(message: &impl prost::Message) -> Bytes {
    let message = message.encode_to_vec();
    [&wire::prefix(0, message.len()), message.as_slice()].concat().into()
}

/// A body whose bytes come one at a time, this long after each other.
fn slow(bytes: Bytes, pause: Duration) -> wire::Body {
    wire::pieces(stream::iter(bytes).then(move |byte| async move {
        sleep(pause).await;
        Bytes::copy_from_slice(&[byte])
    }))
}

/// The answer to a raw request, and the time until it was there.
async fn timed(
    rig: &Rig,
    path: &str,
    headers: &[(&'static str, &str)],
    body: wire::Body,
) -> (Answer, Duration) {
    let start = Instant::now();
    let answer = wire::send(rig, wire::request(path, headers, body)).await;
    (answer, start.elapsed())
}

fn reason_of(answer: &Answer) -> String {
    reason(&answer.status()).1
}

#[tokio::test]
async fn a_body_that_is_late_is_deadline_exceeded_and_never_cancelled() {
    let rig = Rig::with_tasks(finished(3)).await;
    rig.until(rig.client().list(all())).await.expect("now cached");
    let deadline = [("grpc-timeout", "1S")];
    for (path, _) in COLLECTED {
        let late = || stream::once(async { sleep(2 * SECOND).await }).map(|()| list_body());
        for body in [
            wire::endless(""),
            wire::endless(vec![0, 0, 0]),
            wire::endless(vec![0, 0, 0, 0, 9, 1]),
            // The whole message, without the end of the body.
            wire::endless(list_body()),
            wire::pieces(late()),
            slow(vec![0, 0, 0, 0, 9, 1].into(), Duration::from_millis(300)),
        ] {
            let (answer, took) = timed(&rig, path, &deadline, body).await;
            assert_eq!(answer.status().code(), Code::DeadlineExceeded, "{path}: {answer:?}");
            assert_eq!(reason_of(&answer), "DEADLINE_EXCEEDED", "{path}");
            assert!((SECOND * 9 / 10..SLACK).contains(&took), "{path}: {took:?}");
        }
        let (answer, _) = timed(&rig, path, &[("grpc-timeout", "1n")], wire::endless("")).await;
        assert_eq!(reason_of(&answer), "DEADLINE_EXCEEDED", "{path}");
    }
}

#[tokio::test]
async fn a_body_that_comes_byte_by_byte_within_the_request_timeout_is_served() {
    let rig = Rig::with_tasks(finished(3)).await;
    for _ in 0..2 {
        let body = slow(list_body(), 5 * SECOND);
        let (answer, _) = timed(&rig, LIST, &[("grpc-timeout", "1M")], body).await;
        assert_eq!(answer.status().code(), Code::Ok, "{answer:?}");
    }
}

#[tokio::test]
async fn a_body_that_takes_longer_than_the_request_timeout_is_unavailable() {
    let rig = Rig::with_tasks(finished(3)).await;
    let timeout = Setup::default().gateway.grpc.request_timeout;
    for (path, _) in COLLECTED {
        for headers in [&[][..], &[("grpc-timeout", "1H")]] {
            let long = [&wire::prefix(0, 100)[..], &[0; 100]].concat();
            for body in [wire::endless(""), slow(long.into(), SECOND)] {
                let (answer, took) = timed(&rig, path, headers, body).await;
                assert_eq!(answer.status().code(), Code::Unavailable, "{path}: {answer:?}");
                assert_eq!(reason_of(&answer), "REQUEST_TIMED_OUT", "{path}");
                assert!((timeout..timeout + SLACK).contains(&took), "{path}: {took:?}");
            }
        }
    }
    assert_eq!(rig.calls(), 0);
}

#[tokio::test]
async fn a_message_over_the_limit_is_refused_before_it_arrives() {
    let rig = Rig::with_tasks([]).await;
    let reflection = (REFLECTION, 4 * KIB);
    for (path, limit) in COLLECTED.into_iter().chain([reflection]) {
        for announced in [limit + 1, 4 * MIB, u32::MAX as usize] {
            let begin = wire::prefix(0, announced);
            let one_by_one = begin.map(|byte| Bytes::copy_from_slice(&[byte]));
            let split = wire::pieces(stream::iter(one_by_one).chain(stream::pending()));
            for body in [wire::endless(begin.to_vec()), split] {
                let (answer, took) = timed(&rig, path, &[], body).await;
                assert_eq!(answer.status().code(), Code::InvalidArgument, "{path}: {answer:?}");
                assert_eq!(reason_of(&answer), "REQUEST_TOO_LARGE", "{path} {announced}");
                assert!(took < SLACK, "{path}: {took:?}");
            }
        }
    }
}

#[tokio::test]
async fn more_bytes_than_the_limit_are_refused_whatever_the_prefix_says() {
    let rig = Rig::with_tasks([]).await;
    for (path, limit) in COLLECTED {
        let mut bytes = wire::prefix(0, 1).to_vec();
        bytes.resize(5 + limit + 1, 0);
        let (answer, took) = timed(&rig, path, &[], wire::endless(bytes)).await;
        assert_eq!(reason_of(&answer), "REQUEST_TOO_LARGE", "{path}: {answer:?}");
        assert!(took < SLACK, "{path}: {took:?}");
    }
}

#[tokio::test]
async fn a_body_in_pieces_of_any_size_is_the_same_request() {
    let rig = warm().await;
    let images: Vec<_> = (0..30).map(image).collect();
    let body = framed(&crate::support::of_images(images));
    let whole = wire::send(&rig, wire::request(LIST, &[], wire::bytes(body.clone()))).await;
    assert_eq!(whole.status().code(), Code::Ok);
    for piece in [1, 2, 3, 5, 6, 100, body.len() - 1] {
        let pieces: Vec<_> = body.chunks(piece).map(Bytes::copy_from_slice).collect();
        let pieces = stream::iter(pieces).then(|piece| async {
            tokio::task::yield_now().await;
            piece
        });
        let answer = wire::send(&rig, wire::request(LIST, &[], wire::pieces(pieces))).await;
        assert_eq!(answer.data, whole.data, "{piece} bytes at a time");
    }
}

#[tokio::test]
async fn the_trailers_of_a_request_are_ignored() {
    let rig = Rig::with_tasks(finished(3)).await;
    let mut trailers = http::HeaderMap::new();
    trailers.insert("grpc-timeout", "1n".parse().expect("valid"));
    for path in [LIST, HEALTH] {
        let message = if path == LIST { list_body() } else { wire::prefix(0, 0).to_vec().into() };
        let body = wire::with_trailers(message, trailers.clone());
        let answer = wire::send(&rig, wire::request(path, &[], body)).await;
        assert_eq!(answer.status().code(), Code::Ok, "{path}: {answer:?}");
    }
}

#[tokio::test]
async fn a_method_that_does_not_exist_is_refused_without_its_body() {
    let rig = Rig::with_tasks([]).await;
    for path in ["/amistore.v1.StoreImageTaskService/No", "/no.such.Service/No", "/"] {
        let (answer, took) = timed(&rig, path, &[], wire::endless(vec![0; 3])).await;
        assert_eq!(reason_of(&answer), "UNKNOWN_METHOD", "{path}");
        assert!(took < SLACK, "{path}: {took:?}");
    }
}

/// The headers of an answer, without the time at which it was sent.
fn headers(answer: &Answer) -> http::HeaderMap {
    let mut headers = answer.headers.clone();
    headers.remove("date");
    headers
}

#[tokio::test]
async fn a_hit_is_byte_for_byte_the_answer_that_tonic_sends() {
    let rig = warm().await;
    let list = all().encode_to_vec();
    let first = wire::send(&rig, wire::request(LIST, &[], wire::framed(0, &list))).await;
    // From here on the clock stands still, so that all answers have the same age.
    let hit = wire::exchange(rig.address, wire::request(LIST, &[], wire::framed(0, &list))).await;
    // tonic unpacks compressed requests, so that these come to the handler.
    let packed = wire::framed(1, &gzip(&list));
    for body in [packed, wire::framed(0, &list)] {
        let request = wire::request(LIST, &[("grpc-encoding", "gzip")], body);
        let slow = wire::exchange(rig.address, request).await;
        assert_eq!((hit.http, headers(&hit)), (slow.http, headers(&slow)));
        assert_eq!((&hit.data, &hit.trailers), (&slow.data, &slow.trailers));
    }
    let status = hit.headers["cache-status"].to_str().expect("ASCII");
    assert!(status.starts_with("amistore-gateway; hit; ttl="), "{status}");
    assert_eq!(first.headers["cache-status"], "amistore-gateway; fwd=miss");
    assert_eq!((&first.data, &first.trailers), (&hit.data, &hit.trailers));
    let answer = ListStoreImageTasksResponse::decode(&hit.data[5..]).expect("a response");
    assert_eq!(answer.tasks.len(), 30);
    assert_eq!(rig.calls(), 1);
}

#[tokio::test]
async fn a_hit_takes_any_client_that_sends_its_message_plain() {
    let rig = warm().await;
    rig.until(rig.client().list(all())).await.expect("now cached");
    for headers in [
        &[("grpc-accept-encoding", "identity,deflate,gzip")][..],
        &[("grpc-encoding", "identity")],
        &[("grpc-timeout", "10S"), ("user-agent", "a client")],
        &[("content-type", "application/grpc+proto")],
    ] {
        let request = wire::request(LIST, headers, wire::message(&all()));
        let answer = wire::exchange(rig.address, request).await;
        let status = answer.headers["cache-status"].to_str().expect("ASCII");
        assert!(status.starts_with("amistore-gateway; hit; ttl="), "{status}");
        assert_eq!(answer.headers["content-type"], "application/grpc");
        assert_eq!(answer.trailers["grpc-status"], "0");
    }
    let other = [("grpc-encoding", "deflate")];
    let answer = wire::send(&rig, wire::request(LIST, &other, wire::message(&all()))).await;
    assert_eq!(reason_of(&answer), "UNSUPPORTED_ENCODING");
}

/// A gateway whose answers stay fresh throughout a test, in front of an account of 30 tasks.
async fn warm() -> Rig {
    let mut setup = Setup::default();
    setup.gateway.cache.ttl = Duration::from_secs(3600);
    let rig = setup.start().await;
    rig.add(finished(30));
    rig
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).expect("in memory");
    encoder.finish().expect("in memory")
}

fn symbol(name: &str) -> ServerReflectionRequest {
    let symbol = MessageRequest::FileContainingSymbol(name.to_owned());
    ServerReflectionRequest { host: String::new(), message_request: Some(symbol) }
}

#[tokio::test]
async fn reflection_answers_message_after_message_and_says_which_it_cannot_read() {
    let rig = Rig::with_tasks([]).await;
    let good = framed(&symbol("grpc.health.v1.Health"));
    let garbage = Bytes::from([&wire::prefix(0, 9)[..], &[0xff; 9]].concat());
    let large = framed(&symbol(&"x".repeat(5 * KIB)));
    let cut_off = Bytes::from_static(&[0, 0, 0]);
    for (last, expected) in [
        (Bytes::new(), None),
        (garbage, Some("REQUEST_UNREADABLE")),
        (cut_off, Some("REQUEST_UNREADABLE")),
        (large, Some("REQUEST_TOO_LARGE")),
    ] {
        let bytes = [good.clone(), good.clone(), last].concat();
        for piece in [3, bytes.len()] {
            let pieces: Vec<_> = bytes.chunks(piece).map(Bytes::copy_from_slice).collect();
            let body = wire::pieces(stream::iter(pieces));
            let answer = wire::send(&rig, wire::request(REFLECTION, &[], body)).await;
            match expected {
                None => assert_eq!(answer.status().code(), Code::Ok, "{answer:?}"),
                Some(expected) => assert_eq!(reason_of(&answer), expected),
            }
            assert!(answer.data.len() > 1_000, "the two good messages have answers");
        }
    }
}

#[tokio::test]
async fn the_streams_of_health_and_reflection_end_at_the_callers_deadline() {
    let rig = Rig::with_tasks([]).await;
    let deadline = [("grpc-timeout", "3S")];
    let health = framed(&HealthCheckRequest::default());
    let reflection = framed(&symbol("grpc.health.v1.Health"));
    for (path, body) in [
        (HEALTH_WATCH, wire::bytes(health)),
        (REFLECTION, wire::endless("")),
        (REFLECTION, wire::endless(reflection)),
    ] {
        let (answer, took) = timed(&rig, path, &deadline, body).await;
        assert_eq!(answer.status().code(), Code::DeadlineExceeded, "{path}: {answer:?}");
        assert_eq!(reason_of(&answer), "DEADLINE_EXCEEDED");
        assert!((2 * SECOND..3 * SECOND + SLACK).contains(&took), "{took:?}");
    }
}

/// Memory of this process that is in use, in bytes.
fn resident() -> usize {
    let status = fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a size");
    let kib = line.split_whitespace().nth(1).expect("a number");
    kib.parse::<usize>().expect("a number") << 10
}

/// Invariant 7 (docs/invariants.md): unfinished requests
#[tokio::test]
async fn two_hundred_reflection_messages_of_4_mib_are_refused_at_once() {
    let rig = Rig::with_tasks([Task::running(&image(1), SECOND)]).await;
    let before = resident();
    let requests = (0..200).map(|_| {
        let mut begin = wire::prefix(0, 4 * MIB).to_vec();
        begin.resize(16 * KIB, 0);
        wire::exchange(rig.address, wire::request(REFLECTION, &[], wire::endless(begin)))
    });
    let answers = rig.until(join_all(requests)).await;
    for answer in answers {
        assert_eq!(reason_of(&answer), "REQUEST_TOO_LARGE");
    }
    let more = resident().saturating_sub(before);
    assert!(more < 200 * MIB, "{more} bytes more");
    let answer = wire::send(&rig, wire::request(WATCH, &[], framed_watch())).await;
    assert_eq!(answer.status().code(), Code::Ok);
}

fn framed_watch() -> wire::Body {
    wire::message(&watch_of(&image(1)))
}
