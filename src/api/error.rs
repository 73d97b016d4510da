//! The error table: maps every failure to a status code, a reason and details. docs/errors.md is
//! generated from it.

use std::time::Duration;

use super::{GatewayReason, StatusCode, Violations, remembered_refusal, retry_delay};
use crate::{
    cache::CacheError,
    domain::{ErrorCode, ErrorKind, Scope, UpstreamError},
};

/// `ErrorInfo.domain` of an error that EC2 reported.
const EC2_DOMAIN: &str = "ec2.amazonaws.com";
/// `ErrorInfo.domain` of an error that the gateway itself reports.
pub(super) const GATEWAY_DOMAIN: &str = "amistore";

/// A failed call, independent of the protocol. Each front end renders it in its own protocol.
#[derive(Clone, Debug)]
pub struct ApiError {
    /// The status code.
    pub code: StatusCode,
    /// The message for people.
    pub message: String,
    /// `ErrorInfo.domain`: the party that reported the error.
    pub domain: &'static str,
    /// `ErrorInfo.reason`: EC2's error code or a [`GatewayReason`].
    pub reason: String,
    /// `ErrorInfo.metadata`: account, region and EC2's request ID, under keys in lowerCamelCase.
    pub metadata: Vec<(&'static str, String)>,
    /// `BadRequest.field_violations`: the invalid fields.
    pub violations: Violations,
    /// Delay before a retry, drawn for this answer. None if the caller must not retry the unchanged
    /// call.
    pub retry_delay: Option<Duration>,
    /// The value of `cache-status` if EC2's refusal came from the cache.
    pub cache_status: Option<String>,
}

impl ApiError {
    /// A refusal of the gateway itself.
    #[must_use]
    pub fn gateway(reason: GatewayReason, message: impl Into<String>) -> Self {
        let spec = reason.spec();
        Self {
            code: spec.code,
            message: message.into(),
            domain: GATEWAY_DOMAIN,
            reason: reason.name().to_owned(),
            metadata: Vec::new(),
            violations: Violations::default(),
            retry_delay: spec.retry_delay.map(retry_delay::draw),
            cache_status: None,
        }
    }

    /// The error of a request whose message has this number of bytes, and more than a limit.
    #[must_use]
    pub fn too_large(limit: usize, found: usize) -> Self {
        let message =
            format!("the message of the request must have at most {limit} bytes, got {found}");
        Self::gateway(GatewayReason::RequestTooLarge, message)
    }

    /// The error that ends a watch when the gateway drains.
    #[must_use]
    pub fn shutting_down() -> Self {
        Self::gateway(GatewayReason::ShuttingDown, "the gateway shuts down; call again")
    }

    /// A unary call for which there is no room.
    #[must_use]
    pub fn too_many_requests() -> Self {
        let message = "too many calls that need EC2 are in progress; try another replica, or again";
        Self::gateway(GatewayReason::TooManyRequests, message)
    }

    /// A unary call that gave its place to another caller.
    #[must_use]
    pub fn preempted() -> Self {
        let message = "too many calls are in progress, most of them from this caller, and another caller needed the place; try again later";
        Self::gateway(GatewayReason::Preempted, message)
    }

    /// A request with invalid fields.
    #[must_use]
    pub fn invalid(violations: Violations) -> Self {
        let message = violations.to_string();
        Self { violations, ..Self::gateway(GatewayReason::InvalidArgument, message) }
    }

    /// The same error with at most `count` violations in full. The message says how many more there
    /// are.
    #[must_use]
    pub fn keep_violations(&self, count: usize) -> Self {
        let violations = self.violations.keep(count);
        Self { message: violations.to_string(), violations, ..self.clone() }
    }

    /// A failed call to EC2.
    #[must_use]
    pub fn upstream(error: &UpstreamError, scope: &Scope) -> Self {
        let mut metadata =
            vec![("account", scope.account.to_string()), ("region", scope.region.to_string())];
        if let Some(request_id) = &error.request_id {
            metadata.push(("requestId", request_id.to_string()));
        }
        let mut message = format!("{}: {}", error.code, error.message);
        if let Some(cause) = &error.cause {
            message.push_str(": ");
            message.push_str(cause);
        }
        Self {
            code: status_code(error.kind),
            message,
            domain: domain(&error.code),
            reason: error.code.to_string(),
            metadata,
            violations: Violations::default(),
            retry_delay: delay_after(error).map(retry_delay::draw),
            cache_status: None,
        }
    }

    /// A failed read of the cache.
    #[must_use]
    pub fn cache(error: &CacheError, scope: &Scope) -> Self {
        let reason = match error {
            CacheError::Upstream(upstream) => return Self::upstream(upstream, scope),
            CacheError::Remembered { error, left } => {
                let cache_status = Some(remembered_refusal(*left));
                return Self { cache_status, ..Self::upstream(error, scope) };
            }
            CacheError::TooManyWaiting => GatewayReason::TooManyWaiting,
            CacheError::Preempted => GatewayReason::Preempted,
            CacheError::TooManyTasks => GatewayReason::TooManyTasks,
            CacheError::RefresherLost => GatewayReason::RequestLost,
        };
        Self::gateway(reason, error.to_string())
    }
}

/// The party that gave the code of a failed call.
fn domain(code: &ErrorCode) -> &'static str {
    match code {
        ErrorCode::Ec2(_) => EC2_DOMAIN,
        ErrorCode::Gateway(_) => GATEWAY_DOMAIN,
    }
}

/// EC2's own delay, if it names one.
fn delay_after(error: &UpstreamError) -> Option<Duration> {
    let delay = table_delay(error.kind)?;
    Some(error.retry_after.unwrap_or(delay))
}

/// The status code of a kind of EC2 failure.
pub(super) fn status_code(kind: ErrorKind) -> StatusCode {
    match kind {
        ErrorKind::InvalidRequest => StatusCode::InvalidArgument,
        ErrorKind::NotFound => StatusCode::NotFound,
        ErrorKind::Denied => StatusCode::PermissionDenied,
        ErrorKind::Credentials => StatusCode::Unauthenticated,
        ErrorKind::AccountState | ErrorKind::UnknownRefusal => StatusCode::FailedPrecondition,
        ErrorKind::Throttled => StatusCode::ResourceExhausted,
        ErrorKind::Unsupported => StatusCode::Unimplemented,
        ErrorKind::Unavailable | ErrorKind::MalformedAnswer => StatusCode::Unavailable,
    }
}

/// Delay before a retry if EC2 names none. None if the caller must not retry the unchanged call.
pub(super) fn table_delay(kind: ErrorKind) -> Option<Duration> {
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
