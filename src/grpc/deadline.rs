//! Deadlines. An expired deadline ends a call with `DEADLINE_EXCEEDED`; tonic by itself answers
//! `CANCELLED`.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use tonic::{Status, metadata::MetadataMap};

use super::status::status;
use crate::api::{ApiError, GatewayReason};

/// Time by which the service's deadline precedes tonic's. tonic would end an expired call with
/// `CANCELLED`.
const AHEAD_OF_TONIC: Duration = Duration::from_millis(2);

/// Maximum number of digits of a `grpc-timeout` (gRPC over HTTP2, "Timeout").
const MOST_DIGITS: usize = 8;

/// The client's deadline. None if the request has no valid `grpc-timeout`.
pub(super) fn client_deadline(metadata: &MetadataMap) -> Option<Instant> {
    let timeout = parse(metadata.get("grpc-timeout")?.to_str().ok()?)?;
    Instant::now().checked_add(timeout.saturating_sub(AHEAD_OF_TONIC))
}

/// Runs `work` until the client's deadline, or until `limit` has passed.
pub(super) async fn within<T>(
    deadline: Option<Instant>,
    limit: Duration,
    work: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    let limit = Instant::now() + limit;
    let end = match deadline {
        Some(deadline) => deadline.min(limit),
        None => limit,
    };
    match timeout_at(end, work).await {
        Ok(result) => result,
        Err(_) => Err(exceeded()),
    }
}

pub(super) fn exceeded() -> Status {
    status(ApiError::gateway(
        GatewayReason::DeadlineExceeded,
        "the deadline passed before EC2 had answered; the call to EC2 goes on, so try again",
    ))
}

/// Parses a `grpc-timeout`: digits and a unit.
fn parse(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > MOST_DIGITS || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
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

    #[test]
    fn a_grpc_timeout_is_digits_and_a_unit() {
        assert_eq!(parse("1H"), Some(Duration::from_secs(3600)));
        assert_eq!(parse("250m"), Some(Duration::from_millis(250)));
        assert_eq!(parse("99999999S"), Some(Duration::from_secs(99_999_999)));
        for bad in ["", "S", "1", "1x", "-1S", "123456789S", "1é"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
