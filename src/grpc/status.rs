//! The one table from failures to gRPC statuses. docs/errors.md is made from it.

use std::{collections::HashMap, fmt::Write as _, time::Duration};

use tonic::{Code, Status, metadata::MetadataMap};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt as _};

use super::cache_status;
use crate::{
    cache::CacheError,
    domain::{ErrorKind, Scope, UpstreamError},
    watch::{Ended, WatchError},
};

/// `ErrorInfo.domain` of what EC2 said.
const EC2: &str = "ec2.amazonaws.com";
/// `ErrorInfo.domain` of what the gateway says itself.
const OURS: &str = "amistore";

/// The trailer that gRPC clients obey by themselves (gRFC A6, "Pushback").
const PUSHBACK: &str = "grpc-retry-pushback-ms";

/// What the gateway refuses by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GatewayReason {
    InvalidArgument,
    NoTask,
    TaskGone,
    TooManyWaiting,
    TooManyTasks,
    TooManyScopes,
    TooManyWatches,
    RequestLost,
    ShuttingDown,
    DeadlineExceeded,
}

impl GatewayReason {
    const ALL: [Self; 10] = [
        Self::InvalidArgument,
        Self::NoTask,
        Self::TaskGone,
        Self::TooManyWaiting,
        Self::TooManyTasks,
        Self::TooManyScopes,
        Self::TooManyWatches,
        Self::RequestLost,
        Self::ShuttingDown,
        Self::DeadlineExceeded,
    ];

    /// Reason, gRPC code, when to try again, and what it means.
    fn spec(self) -> (&'static str, Code, Option<Duration>, &'static str) {
        let second = Some(Duration::from_secs(1));
        match self {
            Self::InvalidArgument => (
                "INVALID_ARGUMENT",
                Code::InvalidArgument,
                None,
                "a field is out of bounds; `BadRequest` names it, and EC2 was not asked",
            ),
            Self::NoTask => (
                "NO_TASK",
                Code::NotFound,
                None,
                "Watch: the image has no such task, and `wait_for_task` is false",
            ),
            Self::TaskGone => (
                "TASK_GONE",
                Code::NotFound,
                None,
                "Watch: EC2 has not listed the unfinished task for five minutes, or it is older than 31 days",
            ),
            Self::TooManyWaiting => (
                "TOO_MANY_WAITING",
                Code::ResourceExhausted,
                second,
                "too many requests of the account and region wait for EC2",
            ),
            Self::TooManyTasks => (
                "TOO_MANY_TASKS",
                Code::ResourceExhausted,
                Some(Duration::from_mins(1)),
                "the account and region has more tasks than are kept, and the request reaches below them",
            ),
            Self::TooManyScopes => (
                "TOO_MANY_SCOPES",
                Code::ResourceExhausted,
                Some(Duration::from_mins(1)),
                "too many accounts and regions are in use",
            ),
            Self::TooManyWatches => (
                "TOO_MANY_WATCHES",
                Code::ResourceExhausted,
                Some(Duration::from_secs(10)),
                "too many watches are open",
            ),
            Self::RequestLost => (
                "REQUEST_LOST",
                Code::Unavailable,
                second,
                "the gateway lost the request by a fault of its own",
            ),
            Self::ShuttingDown => (
                "SHUTTING_DOWN",
                Code::Unavailable,
                second,
                "Watch: the gateway shuts down; another replica, or the next one, goes on",
            ),
            Self::DeadlineExceeded => (
                "DEADLINE_EXCEEDED",
                Code::DeadlineExceeded,
                None,
                "the client's deadline passed, or the gateway's own request timeout",
            ),
        }
    }
}

/// gRPC code of a kind of upstream failure.
pub(super) fn code_of(kind: ErrorKind) -> Code {
    match kind {
        ErrorKind::InvalidRequest => Code::InvalidArgument,
        ErrorKind::NotFound => Code::NotFound,
        ErrorKind::Denied => Code::PermissionDenied,
        ErrorKind::Credentials => Code::Unauthenticated,
        ErrorKind::AccountState | ErrorKind::UnknownRefusal => Code::FailedPrecondition,
        ErrorKind::Throttled => Code::ResourceExhausted,
        ErrorKind::Unsupported => Code::Unimplemented,
        ErrorKind::Unavailable => Code::Unavailable,
        ErrorKind::MalformedAnswer => Code::Internal,
    }
}

/// When to try again where EC2 did not say. None: not at all.
fn retry_delay(kind: ErrorKind) -> Option<Duration> {
    match kind {
        ErrorKind::Throttled => Some(Duration::from_secs(5)),
        ErrorKind::Unavailable | ErrorKind::MalformedAnswer => Some(Duration::from_secs(2)),
        ErrorKind::InvalidRequest
        | ErrorKind::NotFound
        | ErrorKind::Denied
        | ErrorKind::Credentials
        | ErrorKind::AccountState
        | ErrorKind::Unsupported
        | ErrorKind::UnknownRefusal => None,
    }
}

/// The status of a failure upstream.
pub(super) fn status_of_upstream(error: &UpstreamError, scope: &Scope) -> Status {
    let mut metadata = HashMap::from([
        ("account".to_owned(), scope.account.to_string()),
        ("region".to_owned(), scope.region.to_string()),
    ]);
    if let Some(request_id) = &error.request_id {
        metadata.insert("request_id".to_owned(), request_id.to_string());
    }
    let details = ErrorDetails::with_error_info(&*error.code, EC2, metadata);
    let delay = retry_delay(error.kind).map(|delay| error.retry_after.unwrap_or(delay));
    let message = format!("{}: {}", error.code, error.message);
    build(code_of(error.kind), message, details, delay)
}

/// The status of a refusal of our own.
pub(super) fn gateway_status(own: GatewayReason, message: impl Into<String>) -> Status {
    let (reason, code, delay, _) = own.spec();
    let details = ErrorDetails::with_error_info(reason, OURS, HashMap::new());
    // Thousands of watches end in one moment, and should not come back in one.
    let delay = match own {
        GatewayReason::ShuttingDown => {
            delay.map(|delay| delay.mul_f64(0.5 + 2.0 * fastrand::f64()))
        }
        _ => delay,
    };
    build(code, message.into(), details, delay)
}

/// INVALID_ARGUMENT, with every field that is wrong.
pub(super) fn status_of_violations(violations: Vec<FieldViolation>) -> Status {
    let said: Vec<_> =
        violations.iter().map(|wrong| format!("{}: {}", wrong.field, wrong.description)).collect();
    let (reason, code, ..) = GatewayReason::InvalidArgument.spec();
    let mut details = ErrorDetails::with_error_info(reason, OURS, HashMap::new());
    details.set_bad_request(violations);
    build(code, said.join("; "), details, None)
}

/// The status of a failure in the cache.
pub(super) fn status_of_cache(error: &CacheError, scope: &Scope) -> Status {
    match error {
        CacheError::Upstream(upstream) => status_of_upstream(upstream, scope),
        CacheError::Remembered { error, left } => {
            let mut status = status_of_upstream(error, scope);
            cache_status::add_refusal(status.metadata_mut(), *left);
            status
        }
        CacheError::TooManyWaiting => {
            gateway_status(GatewayReason::TooManyWaiting, error.to_string())
        }
        CacheError::TooManyTasks => gateway_status(GatewayReason::TooManyTasks, error.to_string()),
        CacheError::TooManyScopes => {
            gateway_status(GatewayReason::TooManyScopes, error.to_string())
        }
        CacheError::RefresherLost => gateway_status(GatewayReason::RequestLost, error.to_string()),
    }
}

/// The status of a watch that did not begin.
pub(super) fn status_of_watch(error: &WatchError, scope: &Scope) -> Status {
    match error {
        WatchError::Cache(error) => status_of_cache(error, scope),
        WatchError::NoTask(..) => gateway_status(GatewayReason::NoTask, error.to_string()),
        WatchError::TooManyWatches => {
            gateway_status(GatewayReason::TooManyWatches, error.to_string())
        }
    }
}

/// The status of a watch that ended.
pub(super) fn status_of_end(ended: &Ended, scope: &Scope) -> Status {
    match ended {
        Ended::Refused(error) => status_of_cache(error, scope),
        Ended::Gone => {
            gateway_status(GatewayReason::TaskGone, "EC2 does not list this task any more")
        }
    }
}

fn build(
    code: Code,
    message: String,
    mut details: ErrorDetails,
    delay: Option<Duration>,
) -> Status {
    let mut metadata = MetadataMap::new();
    if let Some(delay) = delay {
        details.set_retry_info(Some(delay));
        let millis = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        metadata.insert(PUSHBACK, millis.into());
    }
    Status::with_error_details_and_metadata(code, message, details, metadata)
}

/// docs/errors.md, with the codes of each kind as `codes` has them.
#[must_use]
pub fn errors_markdown(codes: impl Fn(ErrorKind) -> Vec<&'static str>) -> String {
    let mut text = String::from(
        "# Errors\n\n\
        Made from the tables in `src/grpc/status.rs` and `src/ec2/codes.rs`; the test `errors::the_document_is_the_table` holds it equal to them \
        (`AMISTORE_BLESS=1 cargo test the_document_is_the_table` writes it anew).\n\n\
        Every status carries exactly one `google.rpc.ErrorInfo`. What can be tried again also carries `google.rpc.RetryInfo` and the \
        `grpc-retry-pushback-ms` trailer; the delay is EC2's own where EC2 named one.\n\n\
        ## What EC2 says\n\n\
        `ErrorInfo.domain` is `ec2.amazonaws.com`, `reason` is the code, `metadata` has `account`, `region` and, where EC2 answered, `request_id`.\n\n\
        | kind | codes | gRPC | retry after |\n|---|---|---|---|\n",
    );
    for kind in ErrorKind::ALL {
        let codes: Vec<_> = codes(kind).into_iter().map(|code| format!("`{code}`")).collect();
        let codes = match kind {
            ErrorKind::UnknownRefusal => {
                "any other code with a 4xx status; `UnknownError` where there is none".to_owned()
            }
            ErrorKind::Unavailable => format!(
                "{}; any other code with a 5xx status; `ConnectionFailure`, `CredentialsTimedOut`",
                codes.join(", ")
            ),
            ErrorKind::Credentials => format!("{}, `NoCredentials`", codes.join(", ")),
            ErrorKind::MalformedAnswer => "`MalformedAnswer`".to_owned(),
            _ => codes.join(", "),
        };
        spec(&mut text, kind.as_str(), &codes, code_of(kind), retry_delay(kind));
    }
    text.push_str(
        "\n`DryRunOperation` is not an error: it is how EC2 says that a dry run is permitted.\n\n\
        ## What the gateway says itself\n\n`ErrorInfo.domain` is `amistore`.\n\n\
        | reason | meaning | gRPC | retry after |\n|---|---|---|---|\n",
    );
    for own in GatewayReason::ALL {
        let (reason, code, delay, meaning) = own.spec();
        spec(&mut text, &format!("`{reason}`"), meaning, code, delay);
    }
    text
}

fn spec(text: &mut String, first: &str, second: &str, code: Code, delay: Option<Duration>) {
    let delay =
        delay.map_or("no".to_owned(), |delay| humantime::format_duration(delay).to_string());
    // Writing to a String does not fail.
    let _ = writeln!(text, "| {first} | {second} | {} | {delay} |", code_name(code));
}

/// The code as gRPC's documents write it.
fn code_name(code: Code) -> String {
    let mut name = String::new();
    for (index, letter) in format!("{code:?}").char_indices() {
        if index > 0 && letter.is_uppercase() {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    name
}
