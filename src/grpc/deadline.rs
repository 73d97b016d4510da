//! Two limits of a call's time: the caller's deadline, and the gateway's own request timeout.
//!
//! The edge reads the deadline from `grpc-timeout` and ends a call with `DEADLINE_EXCEEDED`; tonic by
//! itself answers `CANCELLED`. A handler finds the deadline among the request's extensions.

use std::time::Duration;

use http::{HeaderMap, HeaderValue};
use tokio::time::{Instant, timeout, timeout_at};
use tonic::Status;

use super::status::status;
use crate::api::{ApiError, GatewayReason};

/// 2 ms: the time by which the gateway's deadline precedes the caller's. A status that is sent at the
/// deadline itself comes too late to be read.
const AHEAD_OF_CALLER: Duration = Duration::from_millis(2);

/// 250 ms: the time that is kept to encode and send an answer.
const TO_SEND_AN_ANSWER: Duration = Duration::from_millis(250);

/// 8: the most digits of a `grpc-timeout` (gRPC over HTTP2, "Timeout").
const MAX_DIGITS: usize = 8;

/// The time at which the caller stops waiting.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadline(pub(super) Instant);

impl Deadline {
    /// Whether the caller no longer waits, so that not even a hit reaches it.
    pub(super) fn has_passed(self) -> bool {
        self.0 <= Instant::now()
    }
}

/// The caller's deadline, if the request has one.
///
/// # Errors
/// `INVALID_TIMEOUT` if it cannot be read. To take it as none would make a call last that its caller
/// has given up.
pub(super) fn deadline(headers: &HeaderMap) -> Result<Option<Deadline>, ApiError> {
    let Some(value) = headers.get("grpc-timeout") else { return Ok(None) };
    let Some(timeout) = parse(value) else { return Err(invalid_timeout(value)) };
    let end = Instant::now().checked_add(timeout.saturating_sub(AHEAD_OF_CALLER));
    Ok(end.map(Deadline))
}

/// The time by which an answer must be there, if a part of it is of use: 250 ms before the caller's
/// deadline and the gateway's own request timeout.
pub(super) fn answer_by(deadline: Option<Deadline>, limit: Duration) -> Instant {
    let now = Instant::now();
    let mut end = now.checked_add(limit).unwrap_or(now);
    if let Some(Deadline(deadline)) = deadline {
        end = end.min(deadline);
    }
    end.checked_sub(TO_SEND_AN_ANSWER).unwrap_or(now).max(now)
}

/// The status of a call whose deadline has passed.
pub(super) fn exceeded() -> Status {
    status(expired())
}

/// The error of a call whose deadline has passed.
pub(super) fn expired() -> ApiError {
    ApiError::gateway(GatewayReason::DeadlineExceeded, "the caller's deadline passed")
}

/// Runs `work` until the caller's deadline.
///
/// # Errors
/// `DEADLINE_EXCEEDED` if the deadline passed first.
pub(super) async fn before<T>(
    deadline: Option<Deadline>,
    work: impl Future<Output = T>,
) -> Result<T, ApiError> {
    match deadline {
        None => Ok(work.await),
        Some(Deadline(end)) => timeout_at(end, work).await.map_err(|_| expired()),
    }
}

/// Runs `work` until the gateway's own request timeout has passed.
pub(super) async fn within<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    match timeout(limit, work).await {
        Ok(result) => result,
        Err(_) => Err(status(timed_out(format!(
            "no answer of EC2 within the gateway's request timeout of {limit:?}; call again"
        )))),
    }
}

/// The error of a call whose request did not arrive within the gateway's request timeout.
pub(super) fn not_arrived(limit: Duration) -> ApiError {
    timed_out(format!(
        "the whole request must arrive within the gateway's request timeout of {limit:?}; call again"
    ))
}

fn timed_out(message: String) -> ApiError {
    ApiError::gateway(GatewayReason::RequestTimedOut, message)
}

fn invalid_timeout(value: &HeaderValue) -> ApiError {
    ApiError::gateway(
        GatewayReason::InvalidTimeout,
        format!("grpc-timeout must be 1 to 8 digits and one of H, M, S, m, u and n, got {value:?}"),
    )
}

/// Parses a `grpc-timeout`: digits and a unit.
fn parse(value: &HeaderValue) -> Option<Duration> {
    let text = value.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let only_digits = digits.bytes().all(|byte| byte.is_ascii_digit());
    if digits.is_empty() || digits.len() > MAX_DIGITS || !only_digits {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Option<Duration> {
        super::parse(&text.parse().expect("a header"))
    }

    #[test]
    fn a_grpc_timeout_is_digits_and_a_unit() {
        assert_eq!(parse("1H"), Some(Duration::from_secs(3600)));
        assert_eq!(parse("250m"), Some(Duration::from_millis(250)));
        assert_eq!(parse("99999999S"), Some(Duration::from_secs(99_999_999)));
        assert_eq!(parse("0n"), Some(Duration::ZERO));
        for bad in ["", "S", "1", "1x", "-1S", "+1S", "123456789S", "1é", " 1S", "1 S"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
