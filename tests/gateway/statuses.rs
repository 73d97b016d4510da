//! Every status that leaves the port, held to docs/errors.md: code, `ErrorInfo`, delay and size.

use std::{
    collections::{BTreeSet, HashMap},
    fs,
    io::Write as _,
    path::Path,
    sync::Arc,
    time::Duration,
};

use amistore_gateway::{
    domain::{DefaultRegion, DescribeRequest, DescribeResponse, ErrorKind, UpstreamError},
    ec2::Ec2,
    proto::{
        FILE_DESCRIPTOR_SET, ListStoreImageTasksRequest, ListStoreImageTasksResponse,
        WatchStoreImageTaskRequest, WatchStoreImageTasksRequest,
    },
    simulator::{Fault, Wire},
};
use flate2::{Compress, Compression, FlushCompress, write::GzEncoder};
use futures_util::future::join_all;
use prost::Message as _;
use tokio::net::TcpListener;
use tonic::{Code, Status};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_request::MessageRequest,
};
use tonic_types::StatusExt as _;
use tower::util::BoxCloneSyncService;

use crate::{
    support::{
        REGION, Rig, Setup, Task, all, fields, finished, image, of_images, pushback, reason,
        watch_of,
    },
    wire::{self, HEALTH, LIST, REFLECTION, WATCH, header_bytes},
};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
const MIB: usize = 1 << 20;

/// 3 KiB: the size that all trailers of a status together must stay below.
const MAX_STATUS_BYTES: usize = 3 << 10;

/// What docs/errors.md says of a reason.
#[derive(Clone, Debug, PartialEq)]
struct Row {
    domain: &'static str,
    reason: String,
    code: String,
    /// The shortest and the longest delay before the next try, in seconds.
    delay: Option<(u64, u64)>,
}

/// The rows of docs/errors.md for reasons of the gateway.
fn documented_rows() -> Vec<Row> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/errors.md");
    let document = fs::read_to_string(path).expect("docs/errors.md");
    let (_, tables) = document.split_once("`ErrorInfo.domain` is `amistore`").expect("a part");
    let (tables, _) = tables.split_once("## Codes that refuse").expect("a part");
    let mut rows = Vec::new();
    for line in tables.lines() {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [reason, _, code, delay] = cells[..] else { continue };
        let Some(reason) = reason.strip_prefix('`') else { continue };
        rows.push(Row {
            domain: "amistore",
            reason: reason.trim_end_matches('`').to_owned(),
            code: code.to_owned(),
            delay: parse_delay(delay),
        });
    }
    rows
}

/// Reads `2 to 4 s`, or `no`.
fn parse_delay(text: &str) -> Option<(u64, u64)> {
    if text == "no" {
        return None;
    }
    let (shortest, longest) = text.strip_suffix(" s").expect("seconds").split_once(" to ")?;
    Some((shortest.parse().expect("a number"), longest.parse().expect("a number")))
}

fn name(code: Code) -> String {
    let words = format!("{code:?}");
    let mut name = String::new();
    for letter in words.chars() {
        if letter.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    name
}

/// Asserts that a status is the one that its row promises, and returns its reason.
fn assert_documented(rows: &[Row], status: &Status) -> String {
    let (domain, reason) = reason(status);
    let row = rows.iter().find(|row| row.domain == domain && row.reason == reason);
    let row = row.unwrap_or_else(|| panic!("{domain} {reason} is not documented: {status:?}"));
    assert_eq!(name(status.code()), row.code, "{status:?}");
    let retryable = matches!(status.code(), Code::Unavailable | Code::ResourceExhausted);
    assert_eq!(row.delay.is_some(), retryable, "{status:?}");
    assert_delay(status, row.delay);
    assert!(!status.message().is_empty(), "{status:?}");
    reason
}

/// Asserts that pushback and `RetryInfo` are the same delay, within these seconds.
fn assert_delay(status: &Status, bounds: Option<(u64, u64)>) {
    let info = status.get_details_retry_info().and_then(|info| info.retry_delay);
    assert_eq!(info, pushback(status).map(Duration::from_millis), "{status:?}");
    assert_eq!(info.is_some(), bounds.is_some(), "{status:?}");
    if let (Some(delay), Some((shortest, longest))) = (info, bounds) {
        let bounds = Duration::from_secs(shortest)..=Duration::from_secs(longest);
        assert!(bounds.contains(&delay), "{delay:?} is not in {bounds:?}");
    }
}

/// The size of a status on the wire.
fn status_bytes(status: &Status) -> usize {
    let mut headers = http::HeaderMap::new();
    status.add_header(&mut headers).expect("valid headers");
    header_bytes(&headers)
}

/// The status of a raw request to an empty account.
async fn raw(path: &str, headers: &[(&'static str, &str)], body: wire::Body) -> Status {
    let rig = Rig::with_tasks([]).await;
    let answer = wire::send(&rig, wire::request(path, headers, body)).await;
    assert!(answer.status_bytes() < MAX_STATUS_BYTES, "{answer:?}");
    answer.status()
}

/// The status of one List, on a gateway whose every call to EC2 fails so.
async fn after_fault(fault: Fault) -> Status {
    let mut setup = Setup::default();
    setup.gateway.ec2.retry.max_attempts = 1;
    let rig = setup.start().await;
    rig.simulator.set_fault(Some(fault));
    rig.until(rig.client().list(all())).await.expect_err("EC2 fails")
}

/// The status of one List, on a gateway whose calls to EC2 end so.
async fn after_call(call: fn() -> Result<DescribeResponse, UpstreamError>) -> Status {
    let upstream = tower::service_fn(move |_: DescribeRequest| async move { call() });
    let setup = Setup::default();
    let rig = setup.start_with(Some(Arc::new(move |_| BoxCloneSyncService::new(upstream)))).await;
    rig.until(rig.client().list(all())).await.expect_err("the call fails")
}

/// The error of a refused List of several that are made at once.
async fn one_refused(setup: Setup, requests: Vec<ListStoreImageTasksRequest>) -> Status {
    let rig = setup.start().await;
    rig.add(finished(3));
    let client = rig.client();
    let answers = join_all(requests.into_iter().map(|request| client.list(request)));
    let refused = rig.until(answers).await.into_iter().find_map(Result::err);
    refused.expect("a refusal")
}

async fn too_many_waiting() -> Status {
    let mut setup = Setup::default();
    setup.gateway.cache.max_waiting = 1;
    setup.simulator.latency = SECOND;
    one_refused(setup, vec![all(); 3]).await
}

async fn too_many_requests() -> Status {
    let mut setup = Setup::default();
    setup.gateway.grpc.max_requests = 1;
    setup.simulator.latency = SECOND;
    one_refused(setup, vec![all(); 3]).await
}

async fn preempted_watch() -> Status {
    let mut setup = Setup::default();
    setup.gateway.watch.max_watches = 2;
    let rig = setup.start().await;
    rig.add([Task::running(&image(1), HOUR)]);
    let greedy = rig.client();
    let _oldest = rig.until(greedy.watch(watch_of(&image(1)))).await.expect("room");
    let newest = tokio::spawn(async move { greedy.watch_to_end(watch_of(&image(1))).await });
    rig.run_for(SECOND).await;
    let modest = rig.client_from([127, 0, 0, 2]);
    rig.until(modest.watch(watch_of(&image(1)))).await.expect("room");
    rig.until(newest).await.expect("no panic").1.expect_err("preempted")
}

async fn too_many_tasks() -> Status {
    let mut setup = Setup::default();
    setup.gateway.cache.max_tasks = 300;
    let rig = setup.start().await;
    rig.add(finished(1_000));
    let client = rig.client();
    let mut page = ListStoreImageTasksRequest { page_size: 300, ..all() };
    loop {
        match rig.until(client.list(page.clone())).await {
            Ok(answer) => page.page_token = answer.into_inner().next_page_token,
            Err(status) => return status,
        }
        assert!(!page.page_token.is_empty(), "refused before the last page");
    }
}

async fn too_many_watches() -> Status {
    let mut setup = Setup::default();
    setup.gateway.watch.max_watches = 0;
    let rig = setup.start().await;
    rig.until(rig.client().watch(watch_of(&image(1)))).await.expect_err("no room")
}

/// One connection gets a quarter of the bound, which is less than a stream takes.
async fn too_many_bytes() -> Status {
    let mut setup = Setup::default();
    setup.gateway.connections.max_inbound_bytes = 1_000;
    let rig = setup.start().await;
    rig.until(rig.client().list(all())).await.expect_err("no room")
}

async fn too_many_foreign_streams() -> Status {
    let rig = Rig::with_tasks([]).await;
    let mut health = HealthClient::new(rig.channel());
    let mut open = Vec::new();
    loop {
        match rig.until(health.watch(HealthCheckRequest::default())).await {
            Ok(stream) => open.push(stream),
            Err(refused) => return refused,
        }
    }
}

async fn no_task() -> Status {
    let rig = Rig::with_tasks([]).await;
    rig.simulator.add_image(REGION, &image(1));
    rig.until(rig.client().watch(watch_of(&image(1)))).await.expect_err("no task")
}

/// Ends a watch of a running task by this event.
async fn end_of_watch(event: impl FnOnce(&Rig)) -> Status {
    let rig = Rig::with_tasks([Task::running(&image(1), 5 * HOUR)]).await;
    let mut stream = rig.until(rig.client().watch(watch_of(&image(1)))).await.expect("open");
    event(&rig);
    loop {
        match rig.until(stream.message()).await {
            Ok(message) => assert!(message.is_some(), "ended with OK"),
            Err(status) => return status,
        }
    }
}

async fn request_timed_out() -> Status {
    let mut setup = Setup::default();
    setup.simulator.latency = HOUR;
    setup.gateway.ec2.attempt_timeout = HOUR;
    let rig = setup.start().await;
    rig.until(rig.client().list(all())).await.expect_err("the request timeout passes")
}

async fn region_unknown() -> Status {
    let mut setup = Setup::default();
    let (_search, searched) = DefaultRegion::searched();
    setup.gateway.default_region = searched;
    let rig = setup.start().await;
    rig.until(rig.client().list(all())).await.expect_err("the region is searched for")
}

/// The status of a List if the host of the endpoint has no address (RFC 6761, "invalid.").
async fn host_not_found() -> Status {
    let setup = Setup::default();
    let ec2 = Ec2::at_endpoint("http://ec2.us-east-1.invalid", setup.gateway.ec2.clone());
    let rig = setup.start_with(Some(ec2.make_upstream())).await;
    let status = rig.until(rig.client().list(all())).await.expect_err("no such host");
    assert!(status.message().contains("is the region us-east-1 right?"), "{status:?}");
    assert!(status.message().contains("ec2.us-east-1.invalid"), "{status:?}");
    status
}

async fn unknown_symbol() -> Status {
    let symbol = MessageRequest::FileContainingSymbol("no.such.Symbol".to_owned());
    let request = ServerReflectionRequest { host: String::new(), message_request: Some(symbol) };
    raw(REFLECTION, &[], wire::message(&request)).await
}

async fn panicking_handler() -> Status {
    let setup = Setup::default();
    let rig = setup.start_with(Some(Arc::new(|_| panic!("a bug")))).await;
    rig.until(rig.client().list(all())).await.expect_err("a bug")
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).expect("in memory");
    encoder.finish().expect("in memory")
}

/// A gzip stream of under 1 MiB that unpacks to 1 GiB of zeros. Each piece of 16 MiB ends at a byte
/// boundary and refers only to zeros before it, so the second one is repeated.
fn gzip_bomb() -> Vec<u8> {
    let zeros = vec![0; 16 * MIB];
    let mut compress = Compress::new(Compression::best(), false);
    // A gzip header (RFC 1952) without optional parts.
    let mut bomb = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    for _ in 0..2 {
        let mut piece = Vec::with_capacity(MIB);
        compress.compress_vec(&zeros, &mut piece, FlushCompress::Sync).expect("in memory");
        let copies = if bomb.len() == 10 { 1 } else { 63 };
        bomb.extend(piece.repeat(copies));
    }
    bomb
}

#[tokio::test]
async fn every_status_of_the_gateway_is_as_documented() {
    let rows = documented_rows();
    let list = all().encode_to_vec();
    let unpacked = gzip(&vec![0; MIB + 1]);
    let gzipped = [("grpc-encoding", "gzip")];
    let health = HealthCheckRequest { service: "no.such.Service".to_owned() };
    let huge_header = "x".repeat(17 << 10);
    let bad_list = || ListStoreImageTasksRequest { page_size: -1, ..all() };
    let mut expected = vec![
        ("INVALID_ARGUMENT", raw(LIST, &[], wire::message(&bad_list())).await),
        ("INVALID_ARGUMENT", raw(WATCH, &[], wire::message(&watch_of("x"))).await),
        ("REQUEST_TOO_LARGE", raw(LIST, &[], wire::framed(0, &vec![0; MIB + 1])).await),
        ("REQUEST_TOO_LARGE", raw(WATCH, &[], wire::framed(0, &vec![0; MIB + 1])).await),
        ("REQUEST_TOO_LARGE", raw(LIST, &gzipped, wire::framed(1, &unpacked)).await),
        ("REQUEST_TOO_LARGE", raw(WATCH, &gzipped, wire::framed(1, &gzip_bomb())).await),
        ("REQUEST_TOO_LARGE", raw(HEALTH, &[], wire::framed(0, &[0; 4097])).await),
        ("REQUEST_TOO_LARGE", raw(REFLECTION, &[], wire::framed(0, &[0; 4097])).await),
        ("REQUEST_UNREADABLE", raw(LIST, &[], wire::bytes("")).await),
        ("REQUEST_UNREADABLE", raw(LIST, &[], wire::bytes(vec![0, 0])).await),
        ("REQUEST_UNREADABLE", raw(LIST, &[], wire::bytes(vec![0, 0, 0, 0, 9, 1])).await),
        ("REQUEST_UNREADABLE", raw(LIST, &[], wire::framed(0, &[0xff; 9])).await),
        ("REQUEST_UNREADABLE", raw(WATCH, &[], wire::framed(0, &[0xff; 9])).await),
        ("REQUEST_UNREADABLE", raw(LIST, &[], wire::framed(7, &list)).await),
        ("REQUEST_UNREADABLE", raw(LIST, &[], wire::framed(1, &gzip(&list))).await),
        ("REQUEST_UNREADABLE", raw(LIST, &gzipped, wire::framed(1, b"no gzip")).await),
        ("REQUEST_UNREADABLE", raw(LIST, &gzipped, wire::framed(1, &unpacked[..20])).await),
        ("REQUEST_UNREADABLE", raw(HEALTH, &[], wire::framed(0, &[0xff; 9])).await),
        ("REQUEST_UNREADABLE", raw(REFLECTION, &[], wire::framed(0, &[0xff; 9])).await),
        ("REQUEST_UNREADABLE", raw(REFLECTION, &[], wire::bytes(vec![0, 0])).await),
        ("HEADERS_TOO_LARGE", raw(LIST, &[("x", &huge_header)], wire::framed(0, &list)).await),
        (
            "UNKNOWN_METHOD",
            raw("/amistore.v1.StoreImageTaskService/No", &[], wire::bytes("")).await,
        ),
        ("UNKNOWN_METHOD", raw("/no.such.Service/List", &[], wire::bytes("")).await),
        ("UNKNOWN_METHOD", raw("/grpc.health.v1.Health/No", &[], wire::bytes("")).await),
        ("UNKNOWN_METHOD", raw("/", &[], wire::bytes("")).await),
        ("UNKNOWN_NAME", raw(HEALTH, &[], wire::message(&health)).await),
        ("UNKNOWN_NAME", unknown_symbol().await),
        ("NO_TASK", no_task().await),
        ("TASK_GONE", end_of_watch(|rig| rig.simulator.forget_tasks(REGION, &image(1))).await),
        ("SHUTTING_DOWN", end_of_watch(|rig| rig.stop.cancel()).await),
        ("TOO_MANY_TASKS", too_many_tasks().await),
        ("TOO_MANY_WAITING", too_many_waiting().await),
        ("TOO_MANY_BYTES", too_many_bytes().await),
        ("TOO_MANY_WATCHES", too_many_watches().await),
        ("TOO_MANY_REQUESTS", too_many_requests().await),
        ("PREEMPTED", preempted_watch().await),
        ("TOO_MANY_STREAMS", too_many_foreign_streams().await),
        ("REQUEST_LOST", after_call(|| panic!("a bug")).await),
        ("REQUEST_TIMED_OUT", request_timed_out().await),
        ("REQUEST_TIMED_OUT", raw(LIST, &[], wire::endless("")).await),
        ("INTERNAL", panicking_handler().await),
        ("UnexpectedDryRun", after_call(|| Ok(DescribeResponse::Permitted)).await),
        ("ConnectionFailure", after_fault(Fault::Wire(Wire::Reset)).await),
        ("ConnectionFailure", after_fault(Fault::Wire(Wire::Truncated)).await),
        ("RequestTimeout", after_fault(Fault::Wire(Wire::Stall(HOUR))).await),
        ("ServiceUnavailable", after_fault(Fault::Wire(Wire::Html(502))).await),
        ("UnknownError", after_fault(Fault::Wire(Wire::Html(404))).await),
        ("UnknownError", after_fault(Fault::Wire(Wire::Html(403))).await),
        ("RequestThrottled", after_fault(Fault::Wire(Wire::Html(429))).await),
        ("MalformedAnswer", after_fault(Fault::Wire(Wire::MalformedXml)).await),
        ("HostNotFound", host_not_found().await),
        ("REGION_UNKNOWN", region_unknown().await),
    ];
    for encoding in ["deflate", "snappy", "zstd"] {
        let status = raw(LIST, &[("grpc-encoding", encoding)], wire::framed(1, &list)).await;
        expected.push(("UNSUPPORTED_ENCODING", status));
    }
    for timeout in ["", "S", "1", "1x", "-1S", "123456789S", "1 S", "é"] {
        let status = raw(LIST, &[("grpc-timeout", timeout)], wire::framed(0, &list)).await;
        expected.push(("INVALID_TIMEOUT", status));
    }
    for (timeout, body) in
        [("1n", wire::framed(0, &list)), ("0S", wire::framed(0, &list)), ("1S", wire::endless(""))]
    {
        let status = raw(LIST, &[("grpc-timeout", timeout)], body).await;
        expected.push(("DEADLINE_EXCEEDED", status));
    }
    for content_type in ["text/plain", "application/json", "application/grpc-web+proto", ""] {
        let status = raw(LIST, &[("content-type", content_type)], wire::framed(0, &list)).await;
        expected.push(("UNSUPPORTED_CONTENT_TYPE", status));
    }
    let mut seen = BTreeSet::new();
    for (reason, status) in expected {
        assert_eq!(assert_documented(&rows, &status), reason, "{status:?}");
        assert!(status_bytes(&status) < MAX_STATUS_BYTES, "{status:?}");
        seen.insert(reason.to_owned());
    }
    // The causes of these are in the process's environment, which no test may change: the tests of
    // src/ec2/error.rs class them.
    for code in [
        "CredentialsTimedOut",
        "CredentialsFailure",
        "CredentialsRenewed",
        "NoCredentials",
        "RequestNotSent",
    ] {
        assert!(seen.insert(code.to_owned()), "{code}");
    }
    let documented: BTreeSet<String> = rows.into_iter().map(|row| row.reason).collect();
    assert_eq!(seen, documented, "each row is seen here");
}

#[tokio::test]
async fn another_content_type_has_http_status_415() {
    let rig = Rig::with_tasks([]).await;
    let html = wire::request(LIST, &[("content-type", "text/html")], wire::bytes("<p>"));
    assert_eq!(wire::send(&rig, html).await.http, 415);
    for content_type in ["application/grpc", "application/grpc+proto", "application/grpc; a=b"] {
        let list = wire::message(&all());
        let list = wire::request(LIST, &[("content-type", content_type)], list);
        let answer = wire::send(&rig, list).await;
        assert_eq!((answer.http, answer.status().code()), (http::StatusCode::OK, Code::Ok));
    }
}

#[tokio::test]
async fn headers_are_refused_with_details_over_16_kib_and_by_http_2_over_64_kib() {
    let rig = Rig::with_tasks([]).await;
    for (kib, http, reason) in [
        (15, 200, None),
        (17, 200, Some("HEADERS_TOO_LARGE")),
        (63, 200, Some("HEADERS_TOO_LARGE")),
        (65, 431, None),
    ] {
        let header = "x".repeat(kib << 10);
        let list = wire::request(LIST, &[("x", &header)], wire::message(&all()));
        let answer = wire::send(&rig, list).await;
        assert_eq!(answer.http, http, "{kib} KiB");
        if let Some(reason) = reason {
            assert_eq!(crate::support::reason(&answer.status()).1, reason, "{kib} KiB");
        }
    }
}

#[tokio::test]
async fn path_and_authority_count_as_headers() {
    let rig = Rig::with_tasks([]).await;
    let long = "x".repeat(17 << 10);
    let short = "x".repeat(15 << 10);
    for (authority, query, expected) in [
        ("gateway", &*short, None),
        ("gateway", &*long, Some("HEADERS_TOO_LARGE")),
        (&*long, "x", Some("HEADERS_TOO_LARGE")),
    ] {
        let mut list = wire::request(LIST, &[], wire::message(&all()));
        let uri = format!("http://{authority}{LIST}?{query}");
        *list.uri_mut() = uri.parse().expect("a valid URI");
        let status = wire::send(&rig, list).await.status();
        match expected {
            Some(reason) => assert_eq!(crate::support::reason(&status).1, reason),
            None => assert_eq!(status.code(), Code::Ok, "{status:?}"),
        }
    }
}

#[tokio::test]
async fn of_many_bad_image_ids_the_first_are_named_and_the_others_counted() {
    let rig = Rig::with_tasks([]).await;
    let quotes = "\"".repeat(64);
    let foreign = "é漢😀".repeat(20);
    for (bad, count) in [("\"x\"", 20), (&quotes, 20), (&foreign, 20), ("x", 2), ("%", 1_000)] {
        let request = of_images(vec![bad; count]);
        let answer = wire::send(&rig, wire::request(LIST, &[], wire::message(&request))).await;
        assert!(answer.status_bytes() < MAX_STATUS_BYTES, "{}", answer.status_bytes());
        let status = answer.status();
        let named = fields(&status);
        let expected: Vec<_> =
            (0..named.len()).map(|index| format!("image_ids[{index}]")).collect();
        assert_eq!(named, expected);
        assert!(status.message().starts_with("image_ids[0]: "), "{}", status.message());
        let counted = format!("; and {} more", count - named.len());
        let cut = status.message().ends_with('…') && named.len() == 1;
        let whole = status.message().ends_with(&counted) || named.len() == count;
        assert!(whole || cut, "{} of {count}: {}", named.len(), status.message());
    }
    assert_eq!(rig.calls(), 0);
}

#[tokio::test]
async fn the_message_of_a_failed_connection_has_its_host_and_causes() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    drop(listener);
    let mut setup = Setup::default();
    setup.gateway.ec2.retry.max_attempts = 1;
    let settings = setup.gateway.ec2.clone();
    let upstream = Ec2::at_endpoint(&format!("http://{address}"), settings).make_upstream();
    let rig = setup.start_with(Some(upstream)).await;
    let status = rig.until(rig.client().list(all())).await.expect_err("the port is closed");
    assert_eq!(reason(&status), ("amistore".to_owned(), "ConnectionFailure".to_owned()));
    let message = status.message();
    assert!(message.starts_with("ConnectionFailure: EC2 cannot be reached"), "{message}");
    assert!(message.contains(&address.to_string()), "{message}");
    assert!(message.contains("Connection refused"), "{message}");
}

#[tokio::test]
async fn a_delay_that_ec2_asks_for_is_drawn_from_and_never_over_a_minute() {
    fn throttled(retry_after: Duration) -> Result<DescribeResponse, UpstreamError> {
        Err(UpstreamError {
            kind: ErrorKind::Throttled,
            code: "RequestLimitExceeded".into(),
            message: "Request limit exceeded.".into(),
            cause: None,
            request_id: None,
            retry_after: Some(retry_after),
        })
    }
    let short = after_call(|| throttled(7 * SECOND)).await;
    assert_eq!(short.code(), Code::ResourceExhausted);
    assert_delay(&short, Some((7, 14)));
    assert_delay(&after_call(|| throttled(40 * SECOND)).await, Some((40, 60)));
    for absurd in [|| throttled(Duration::MAX), || throttled(HOUR)] {
        assert_delay(&after_call(absurd).await, Some((45, 60)));
    }
}

#[tokio::test]
async fn an_expired_deadline_is_deadline_exceeded_and_never_cancelled() {
    let rig = Rig::with_tasks([Task::running(&image(1), HOUR)]).await;
    rig.until(rig.client().list(all())).await.expect("now cached");
    let timeout = [("grpc-timeout", "1n")];
    let watch = wire::message(&watch_of(&image(1)));
    for (path, body) in [(LIST, wire::message(&all())), (WATCH, watch)] {
        let status = wire::send(&rig, wire::request(path, &timeout, body)).await.status();
        assert_eq!(reason(&status).1, "DEADLINE_EXCEEDED");
    }
    let late = WatchStoreImageTaskRequest {
        wait_for_task: Some(prost_types::Duration { seconds: 600, nanos: 0 }),
        ..watch_of(&image(2))
    };
    rig.simulator.add_image(REGION, &image(2));
    for timeout in ["1n", "20S"] {
        let request = wire::request(WATCH, &[("grpc-timeout", timeout)], wire::message(&late));
        let status = wire::send(&rig, request).await.status();
        assert_eq!(reason(&status).1, "DEADLINE_EXCEEDED");
        assert_eq!(status.message(), "the caller's deadline passed");
    }
}

#[tokio::test]
async fn a_compressed_request_is_accepted_and_no_answer_is_compressed() {
    let rig = Rig::with_tasks(finished(30)).await;
    let list = gzip(&all().encode_to_vec());
    let headers = [("grpc-encoding", "gzip"), ("grpc-accept-encoding", "gzip,deflate,identity")];
    for _ in 0..2 {
        let answer = wire::send(&rig, wire::request(LIST, &headers, wire::framed(1, &list))).await;
        assert_eq!(answer.status().code(), Code::Ok);
        assert_eq!(answer.headers.get("grpc-encoding"), None);
        assert_eq!(answer.data[0], 0, "the compression flag");
        let tasks = ListStoreImageTasksResponse::decode(&answer.data[5..]).expect("a response");
        assert_eq!(tasks.tasks.len(), 30);
    }
    let watch = gzip(&watch_of(&image(1)).encode_to_vec());
    let answer = wire::send(&rig, wire::request(WATCH, &headers, wire::framed(1, &watch))).await;
    assert_eq!((answer.status().code(), answer.data[0]), (Code::Ok, 0));
    let health = gzip(&HealthCheckRequest::default().encode_to_vec());
    let answer = wire::send(&rig, wire::request(HEALTH, &headers, wire::framed(1, &health))).await;
    assert_eq!(answer.status().code(), Code::Ok);
}

#[tokio::test]
async fn the_size_limit_counts_unpacked_bytes_and_a_bomb_is_refused_early() {
    let bomb = gzip_bomb();
    assert!(bomb.len() < MIB, "{}", bomb.len());
    let headers = [("grpc-encoding", "gzip")];
    let rig = Rig::with_tasks([]).await;
    let before = peak_memory();
    let request = wire::request(LIST, &headers, wire::framed(1, &bomb));
    let status = wire::send(&rig, request).await.status();
    assert_eq!(
        (status.code(), reason(&status).1.as_str()),
        (Code::InvalidArgument, "REQUEST_TOO_LARGE")
    );
    // Other tests run in the process, but none of them takes this much.
    assert!(peak_memory() - before < 256 * MIB, "{} bytes more", peak_memory() - before);
    // The largest message, which is a field that no version of the contract has.
    let mut largest = vec![0x82, 0x7d, 0xfb, 0xff, 0x3f];
    largest.resize(MIB, 0);
    for (flag, message) in [(0, largest.clone()), (1, gzip(&largest))] {
        let request = wire::request(LIST, &headers, wire::framed(flag, &message));
        assert_eq!(wire::send(&rig, request).await.status().code(), Code::Ok);
    }
}

/// The most memory that this process has had, in bytes.
fn peak_memory() -> usize {
    let status = fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("a peak");
    let kib = line.split_whitespace().nth(1).expect("a number");
    kib.parse::<usize>().expect("a number") << 10
}

#[tokio::test]
async fn the_watch_of_many_tasks_is_not_implemented_yet() {
    let rig = Rig::with_tasks([]).await;
    let request = WatchStoreImageTasksRequest { until_done: true, ..Default::default() };
    let status = rig.until(rig.client().0.watch_store_image_tasks(request)).await;
    let status = status.expect_err("not implemented");
    assert_eq!(status.code(), Code::Unimplemented);
    assert_eq!(reason(&status), ("amistore".to_owned(), "UNKNOWN_METHOD".to_owned()));
}

/// A client's author learns one number for a field.
#[test]
fn a_field_that_several_messages_share_has_the_same_number_in_all() {
    let descriptors =
        prost_types::FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).expect("a descriptor set");
    let contract = descriptors.file.iter().find(|file| file.package() == "amistore.v1");
    let mut numbers = HashMap::new();
    for message in &contract.expect("the contract").message_type {
        for field in &message.field {
            let number = *numbers.entry(field.name()).or_insert(field.number());
            assert_eq!(field.number(), number, "{}.{}", message.name(), field.name());
        }
    }
    assert!(numbers.len() > 40, "{}", numbers.len());
}
