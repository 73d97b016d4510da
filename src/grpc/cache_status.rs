//! `cache-status` (RFC 9211): how an answer came about.

use std::time::Duration;

use tonic::metadata::{Ascii, MetadataValue};

use crate::cache::{Forward, Found, Outcome, StaleReason};

/// The name of the metadata key.
pub(super) const CACHE_STATUS: &str = "cache-status";

/// A dry run never comes from the cache.
pub(super) fn bypass() -> MetadataValue<Ascii> {
    MetadataValue::from_static("amistore-gateway; fwd=bypass")
}

/// The value for an answer, by the TTL of requests that name none.
pub(super) fn of(found: &Found, ttl: Duration) -> Option<MetadataValue<Ascii>> {
    let left = || {
        let (ttl, age) = (seconds(ttl), seconds(found.age()));
        format!("hit; ttl={}", ttl - age)
    };
    let said = match &found.outcome {
        Outcome::Hit => left(),
        Outcome::StaleWhileRevalidate => format!("{}; detail=stale-while-revalidate", left()),
        Outcome::StaleIfError(StaleReason::BudgetSpent) => {
            format!("{}; detail=\"stale-if-error: call budget spent\"", left())
        }
        // EC2's codes have letters and dots; anything else would break the quoted string.
        Outcome::StaleIfError(StaleReason::Failed(error)) => {
            let code: String =
                error.code.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '.').collect();
            format!("{}; detail=\"stale-if-error: {code}\"", left())
        }
        Outcome::Fetched { why, collapsed } => {
            let why = match why {
                Forward::Miss => "miss",
                Forward::Stale => "stale",
                Forward::Request => "request",
            };
            let collapsed = if *collapsed { "; collapsed" } else { "" };
            format!("fwd={why}{collapsed}")
        }
    };
    format!("amistore-gateway; {said}").parse().ok()
}

fn seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}
