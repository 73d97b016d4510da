//! Errors: every row of the error table, as a gRPC client sees it.

use std::{collections::BTreeSet, fs, path::Path, time::Duration};

use amistore_gateway::{
    api::errors_markdown,
    domain::{Caller, ErrorKind},
    ec2::{KNOWN_CODES, kind_of_code},
    simulator::{Fault, Wire},
};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::support::{Rig, Setup, all, finished, pushback, reason};

/// EC2's known codes, each with its expected kind.
const CODES: &str = include_str!("ec2-error-codes.tsv");

fn rows() -> impl Iterator<Item = (&'static str, &'static str)> {
    CODES.lines().skip(1).map(|line| {
        let mut columns = line.split('\t');
        (columns.next().expect("a code"), columns.next().expect("a kind"))
    })
}

fn grpc_code(kind: &str) -> Code {
    match kind {
        "invalid request" => Code::InvalidArgument,
        "not found" => Code::NotFound,
        "denied" => Code::PermissionDenied,
        "credentials" => Code::Unauthenticated,
        "account state" => Code::FailedPrecondition,
        "throttled" => Code::ResourceExhausted,
        "unsupported" => Code::Unimplemented,
        "unavailable" => Code::Unavailable,
        other => panic!("{other}"),
    }
}

/// Starts a gateway whose every EC2 call fails, and returns the status of a List.
async fn status_of_fault(fault: Fault) -> (Rig, Status) {
    let mut setup = Setup::default();
    setup.gateway.ec2.retry.max_attempts = 1;
    let rig = setup.start().await;
    rig.add(finished(3));
    rig.simulator.set_fault(Some(fault));
    let status = rig.until(rig.client().list(all())).await.expect_err("an error");
    (rig, status)
}

/// Asserts that a status has every detail that the contract promises for a failed call to EC2.
/// `request_id` is EC2's, if EC2 reported the error.
fn assert_call_error(status: &Status, code: Code, ec2: &str, request_id: Option<&str>) {
    assert_eq!(status.code(), code, "{ec2}: {status:?}");
    let domain = if request_id.is_some() { "ec2.amazonaws.com" } else { "amistore" };
    assert_eq!(reason(status), (domain.to_owned(), ec2.to_owned()));
    let info = status.get_details_error_info().expect("an ErrorInfo");
    assert_eq!(info.metadata.get("requestId").map(String::as_str), request_id, "{ec2}");
    assert_eq!(info.metadata.get("account").map(String::as_str), Some("default"));
    assert_eq!(info.metadata.get("region").map(String::as_str), Some("us-east-1"));
    let retry = status.get_details_retry_info().and_then(|info| info.retry_delay);
    let retryable = matches!(code, Code::ResourceExhausted | Code::Unavailable);
    assert_eq!(retry.is_some(), retryable, "{ec2}");
    assert_eq!(
        retry.map(|delay| u64::try_from(delay.as_millis()).expect("small")),
        pushback(status),
        "{ec2}"
    );
    assert!(status.message().starts_with(ec2), "{}", status.message());
}

#[test]
fn every_listed_code_has_the_listed_kind() {
    for (code, kind) in rows().filter(|(code, _)| *code != "DryRunOperation") {
        assert_eq!(kind_of_code(code).map(ErrorKind::as_str), Some(kind), "{code}");
    }
}

#[tokio::test]
async fn every_listed_code_reaches_the_client_with_its_cause() {
    for (ec2, kind) in rows().filter(|(code, _)| *code != "DryRunOperation") {
        let (rig, status) = status_of_fault(Fault::error(400, ec2)).await;
        let journal = rig.simulator.journal();
        let entry = journal.entries().last().expect("a call");
        assert_call_error(&status, grpc_code(kind), ec2, Some(&entry.request_id));
        assert_eq!(rig.calls(), 1, "{ec2}");
    }
}

#[tokio::test]
async fn an_unknown_code_is_classed_by_the_http_status() {
    let (rig, status) = status_of_fault(Fault::error(400, "InvalidFuture.Invention")).await;
    let id = rig.simulator.journal().entries().last().map(|entry| entry.request_id.clone());
    assert_call_error(&status, Code::FailedPrecondition, "InvalidFuture.Invention", id.as_deref());
    let (rig, status) = status_of_fault(Fault::error(500, "FutureTrouble")).await;
    let id = rig.simulator.journal().entries().last().map(|entry| entry.request_id.clone());
    assert_call_error(&status, Code::Unavailable, "FutureTrouble", id.as_deref());
    let (rig, status) = status_of_fault(Fault::error(408, "FutureSlowness")).await;
    let id = rig.simulator.journal().entries().last().map(|entry| entry.request_id.clone());
    assert_call_error(&status, Code::Unavailable, "FutureSlowness", id.as_deref());
    for code in ["InternalFailure", "NotImplemented"] {
        let (rig, status) = status_of_fault(Fault::error(501, code)).await;
        let id = rig.simulator.journal().entries().last().map(|entry| entry.request_id.clone());
        assert_call_error(&status, Code::Unimplemented, code, id.as_deref());
    }
}

#[tokio::test]
async fn a_response_without_ec2s_form_is_classed_by_how_it_fails() {
    let hour = Duration::from_secs(3600);
    for (wire, code, ec2) in [
        (Wire::Reset, Code::Unavailable, "ConnectionFailure"),
        (Wire::Truncated, Code::Unavailable, "ConnectionFailure"),
        (Wire::Stall(hour), Code::Unavailable, "RequestTimeout"),
        (Wire::Html(502), Code::Unavailable, "ServiceUnavailable"),
        (Wire::Html(404), Code::Unavailable, "UnknownError"),
        (Wire::Html(429), Code::ResourceExhausted, "RequestThrottled"),
        (Wire::MalformedXml, Code::Unavailable, "MalformedAnswer"),
    ] {
        let (_rig, status) = status_of_fault(Fault::Wire(wire)).await;
        assert_call_error(&status, code, ec2, None);
    }
}

#[tokio::test]
async fn an_endpoint_that_refuses_connections_is_unavailable() {
    use amistore_gateway::ec2::{Ec2, Settings};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    drop(listener);
    let make_upstream =
        Ec2::at_endpoint(&format!("http://{address}"), Settings::default()).make_upstream();
    let scope = amistore_gateway::domain::Scope {
        account: amistore_gateway::domain::AccountName::default(),
        region: amistore_gateway::domain::Region::parse("us-east-1").expect("valid"),
    };
    let cache = amistore_gateway::cache::Cache::new(
        amistore_gateway::cache::Settings::default(),
        make_upstream,
    );
    let cache = cache.scope(&scope);
    let error = cache
        .dry_run(tokio::time::Instant::now(), &Caller::local())
        .await
        .expect_err("the port is closed");
    let amistore_gateway::cache::CacheError::Upstream(error) = error else { panic!("{error:?}") };
    assert_eq!((error.kind, &*error.code), (ErrorKind::Unavailable, "ConnectionFailure"));
}

#[tokio::test]
async fn an_error_message_contains_no_secret() {
    let (_rig, status) = status_of_fault(Fault::Error {
        status: 403,
        code: "SignatureDoesNotMatch".to_owned(),
        message: "The Canonical String should have been x-amz-security-token:SECRET".to_owned(),
    })
    .await;
    assert!(!format!("{status:?}").contains("SECRET"), "{status:?}");
    assert!(status.message().contains("credentials"), "{}", status.message());
}

#[tokio::test]
async fn a_long_message_is_cut_to_fit_a_header() {
    let message = "é".repeat(20_000);
    let fault = Fault::Error { status: 403, code: "UnauthorizedOperation".to_owned(), message };
    let (_rig, status) = status_of_fault(fault).await;
    assert_eq!(status.code(), Code::PermissionDenied);
    assert!(status.message().len() < 2_100, "{}", status.message().len());
}

#[test]
fn the_document_is_the_table() {
    let codes = |kind: ErrorKind| {
        let here = KNOWN_CODES
            .iter()
            .filter(|(known, _)| *known == kind)
            .flat_map(|(_, codes)| codes.iter().copied());
        let listed = rows().map(|(code, _)| code).filter(|code| kind_of_code(code) == Some(kind));
        here.chain(listed).collect::<BTreeSet<_>>().into_iter().collect()
    };
    let expected = errors_markdown(codes);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/errors.md");
    if std::env::var_os("AMISTORE_BLESS").is_some() {
        fs::write(&path, &expected).expect("written");
    }
    let document = fs::read_to_string(&path).expect("docs/errors.md");
    assert!(
        document == expected,
        "docs/errors.md differs from the error table; its first lines say how to generate it"
    );
}
