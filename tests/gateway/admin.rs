//! The admin listener: what it answers, and that no peer holds it up.

use std::time::Duration;

use amistore_gateway::domain::{DefaultRegion, Region};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::support::{REGION, Rig, Setup, all};

const SECOND: Duration = Duration::from_secs(1);

/// Connections that the admin listener has open at once.
const MAX_CONNECTIONS: usize = 8;

async fn connect(rig: &Rig) -> TcpStream {
    TcpStream::connect(rig.admin).await.expect("connected")
}

/// Sends a text on a connection. Returns all that comes until the gateway closes it.
async fn exchange(mut stream: TcpStream, text: &str) -> String {
    stream.write_all(text.as_bytes()).await.expect("sent");
    let mut answer = Vec::new();
    // The gateway may close while the text is still on its way, which resets the connection.
    while stream.read_buf(&mut answer).await.is_ok_and(|count| count > 0) {}
    String::from_utf8(answer).expect("UTF-8")
}

fn request(method: &str, path: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
}

/// The status and the body of an answer.
async fn ask(rig: &Rig, method: &str, path: &str) -> (u16, String) {
    let answer = rig.until(async { exchange(connect(rig).await, &request(method, path)).await });
    let answer = answer.await;
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    (head.split(' ').nth(1).expect("a status").parse().expect("a number"), body.to_owned())
}

async fn get(rig: &Rig, path: &str) -> (u16, String) {
    ask(rig, "GET", path).await
}

/// What gRPC's health service says.
async fn health(rig: &Rig) -> ServingStatus {
    let mut client = HealthClient::new(rig.channel());
    let answer = rig.until(client.check(HealthCheckRequest::default())).await;
    answer.expect("answered").into_inner().status()
}

#[tokio::test]
async fn ready_says_what_health_says_while_the_region_is_searched_and_after() {
    let mut setup = Setup::default();
    let (search, searched) = DefaultRegion::searched();
    setup.gateway.default_region = searched;
    let rig = setup.start().await;
    let searching = "not ready: the default region is searched for\n".to_owned();
    assert_eq!(get(&rig, "/readyz").await, (503, searching));
    assert_eq!(health(&rig).await, ServingStatus::NotServing);
    assert_eq!(get(&rig, "/livez").await, (200, "ok\n".to_owned()));

    search.end(Some(Region::parse(REGION).expect("valid")));
    rig.run_for(SECOND).await;
    assert_eq!(get(&rig, "/readyz").await, (200, "ready\n".to_owned()));
    assert_eq!(health(&rig).await, ServingStatus::Serving);
    assert_eq!(get(&rig, "/livez").await, (200, "ok\n".to_owned()));
}

#[tokio::test]
async fn ready_says_nothing_about_ec2() {
    let rig = Rig::with_tasks([]).await;
    rig.simulator.set_fault(Some(amistore_gateway::simulator::Fault::error(401, "AuthFailure")));
    rig.until(rig.client().list(all())).await.expect_err("refused");
    assert_eq!(get(&rig, "/readyz").await.0, 200);
}

#[tokio::test]
async fn from_the_beginning_of_a_drain_to_its_end_the_gateway_is_alive_and_not_ready() {
    let mut setup = Setup::default();
    setup.simulator.latency = 10 * SECOND;
    setup.gateway.ec2.attempt_timeout = 20 * SECOND;
    let mut rig = setup.start().await;
    let client = rig.client();
    let slow = tokio::spawn(async move { client.list(all()).await });
    rig.run_for(SECOND).await;
    assert_eq!(get(&rig, "/readyz").await.0, 200);
    rig.stop.cancel();
    for _ in 0..8 {
        let draining = "not ready: the gateway shuts down\n".to_owned();
        assert_eq!(get(&rig, "/readyz").await, (503, draining));
        assert_eq!(get(&rig, "/livez").await.0, 200);
        assert!(!slow.is_finished());
        rig.run_for(SECOND).await;
    }
    rig.until(slow).await.expect("not cancelled").expect("answered");
    let served = rig.served.take().expect("not yet taken");
    rig.until(served).await.expect("no panic").expect("drained");
    let closed = rig.until(TcpStream::connect(rig.admin)).await;
    assert!(closed.is_err(), "the admin listener is closed at the end");
}

#[tokio::test]
async fn only_the_documented_pages_exist() {
    let rig = Rig::with_tasks([]).await;
    assert_eq!(get(&rig, "/").await.0, 404);
    assert_eq!(get(&rig, "/readyz/").await.0, 404);
    assert_eq!(ask(&rig, "POST", "/readyz").await.0, 405);
    assert_eq!(ask(&rig, "HEAD", "/readyz").await, (200, String::new()));
}

#[tokio::test]
async fn silent_connections_hold_up_no_check_and_are_closed() {
    let rig = Rig::with_tasks([]).await;
    let mut silent = Vec::new();
    for _ in 0..2 * MAX_CONNECTIONS {
        silent.push(rig.until(connect(&rig)).await);
    }
    assert_eq!(get(&rig, "/readyz").await.0, 200);
    let (oldest, newest) = (silent.remove(0), silent.pop().expect("many"));
    let mut byte = [0];
    let began = tokio::time::Instant::now();
    let mut oldest = oldest;
    assert!(matches!(rig.until(oldest.read(&mut byte)).await, Ok(0) | Err(_)));
    assert!(began.elapsed() < SECOND, "a connection over the bound takes the oldest one's place");
    let mut newest = newest;
    assert!(matches!(rig.until(newest.read(&mut byte)).await, Ok(0) | Err(_)));
    let closed = began.elapsed();
    assert!((4 * SECOND..6 * SECOND).contains(&closed), "{closed:?}");
}

#[tokio::test]
async fn a_connection_lasts_half_a_minute_at_most() {
    let rig = Rig::with_tasks([]).await;
    let mut stream = rig.until(connect(&rig)).await;
    let keep_alive = b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let began = tokio::time::Instant::now();
    let mut answer = [0; 1024];
    for _ in 0..60 {
        let sent = stream.write_all(keep_alive).await;
        if sent.is_err() || matches!(rig.until(stream.read(&mut answer)).await, Ok(0) | Err(_)) {
            break;
        }
        rig.run_for(SECOND).await;
    }
    let closed = began.elapsed();
    assert!((29 * SECOND..32 * SECOND).contains(&closed), "{closed:?}");
}

#[tokio::test]
async fn a_slow_head_a_large_one_and_a_large_body_end_the_connection() {
    let rig = Rig::with_tasks([]).await;
    let slow = rig.until(exchange_slowly(&rig)).await;
    assert!(slow < 8 * SECOND, "{slow:?}");
    let large =
        format!("GET /livez HTTP/1.1\r\nhost: localhost\r\nx: {}\r\n\r\n", "x".repeat(64 << 10));
    let answer = rig.until(async { exchange(connect(&rig).await, &large).await }).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431 "), "{answer}");
    let body = format!(
        "POST /livez HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n",
        1_u64 << 40
    );
    let began = tokio::time::Instant::now();
    let answer = rig.until(async { exchange(connect(&rig).await, &body).await }).await;
    assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
    assert!(began.elapsed() < SECOND, "the body is not waited for: {:?}", began.elapsed());
    assert_eq!(get(&rig, "/readyz").await.0, 200);
}

/// Sends a head at a byte a second. Returns the time after which the gateway closes the connection.
async fn exchange_slowly(rig: &Rig) -> Duration {
    let mut stream = connect(rig).await;
    let began = tokio::time::Instant::now();
    for byte in request("GET", "/readyz").bytes() {
        if stream.write_all(&[byte]).await.is_err() {
            break;
        }
        let mut answer = [0; 1];
        let closed = tokio::time::timeout(SECOND, stream.read(&mut answer)).await;
        if closed.is_ok() {
            break;
        }
    }
    began.elapsed()
}
