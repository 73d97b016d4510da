//! Deadlines, kept with DEADLINE_EXCEEDED: tonic's own answer is CANCELLED.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use tonic::{Status, metadata::MetadataMap};

use super::status::{GatewayReason, gateway_status};

/// tonic keeps the client's deadline too, with the wrong code: ours has to be first.
const AHEAD_OF_TONIC: Duration = Duration::from_millis(2);

/// The client's deadline.
pub(super) fn of(metadata: &MetadataMap) -> Option<Instant> {
    let timeout = parse(metadata.get("grpc-timeout")?.to_str().ok()?)?;
    Instant::now().checked_add(timeout.saturating_sub(AHEAD_OF_TONIC))
}

/// Runs until the client's deadline, or our own.
pub(super) async fn within<T>(
    deadline: Option<Instant>,
    limit: Duration,
    work: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    let ours = Instant::now() + limit;
    let deadline = deadline.map_or(ours, |deadline| deadline.min(ours));
    timeout_at(deadline, work).await.unwrap_or_else(|_| Err(exceeded()))
}

pub(super) fn exceeded() -> Status {
    gateway_status(
        GatewayReason::DeadlineExceeded,
        "the deadline passed before EC2 had answered; the call to EC2 goes on, so try again",
    )
}

/// At most eight digits and a unit (gRPC over HTTP2, "Timeout").
fn parse(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
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
    fn grpc_timeouts() {
        assert_eq!(parse("1H"), Some(Duration::from_secs(3600)));
        assert_eq!(parse("250m"), Some(Duration::from_millis(250)));
        assert_eq!(parse("99999999S"), Some(Duration::from_secs(99_999_999)));
        for bad in ["", "S", "1", "1x", "-1S", "123456789S", "1é"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
