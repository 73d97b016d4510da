//! The value of `cache-status` (RFC 9211): how a response came about.

use std::time::Duration;

use crate::cache::{ForwardReason, Outcome, StaleReason};

/// The value for a dry run, which the cache never answers.
pub const BYPASS: &str = "amistore-gateway; fwd=bypass";

/// The value for an outcome of the cache. `ttl` is the seconds until the response is older than the
/// TTL, negative if it is older already.
#[must_use]
pub fn cache_status(outcome: &Outcome, ttl: i64) -> String {
    let hit = hit(ttl);
    match outcome {
        Outcome::Hit => hit,
        Outcome::StaleWhileRevalidate => format!("{hit}; detail=stale-while-revalidate"),
        Outcome::StaleIfError(reason) => {
            format!("{hit}; detail=\"stale-if-error: {}\"", stale_reason(reason))
        }
        Outcome::Fetched { why, collapsed } => {
            let collapsed = if *collapsed { "; collapsed" } else { "" };
            format!("amistore-gateway; fwd={}{collapsed}", forward_reason(*why))
        }
    }
}

/// The value for a refusal that the cache remembers for `left`, rounded up to whole seconds.
#[must_use]
pub fn remembered_refusal(left: Duration) -> String {
    let seconds = Duration::from_secs(1);
    let rounded_up = left.as_nanos().div_ceil(seconds.as_nanos());
    format!("{}; detail=remembered-refusal", hit(i64::try_from(rounded_up).unwrap_or(i64::MAX)))
}

fn hit(ttl: i64) -> String {
    format!("amistore-gateway; hit; ttl={ttl}")
}

fn forward_reason(reason: ForwardReason) -> &'static str {
    match reason {
        ForwardReason::Miss => "miss",
        ForwardReason::Stale => "stale",
        ForwardReason::Request => "request",
    }
}

fn stale_reason(reason: &StaleReason) -> String {
    match reason {
        StaleReason::BudgetSpent => "call budget spent".to_owned(),
        StaleReason::Slow => "EC2 is slow".to_owned(),
        // EC2's codes have letters, digits and dots; other characters could end the quoted string.
        StaleReason::Failed(error) => {
            let mut code = error.code.to_string();
            code.retain(|character| character.is_ascii_alphanumeric() || character == '.');
            code
        }
    }
}
