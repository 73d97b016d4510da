//! `cache-status` (RFC 9211): how an answer came about.

use std::time::Duration;

use http::{HeaderMap, HeaderValue, header::CACHE_STATUS};
use tonic::metadata::MetadataMap;

use crate::cache::{ForwardReason, Outcome, StaleReason};

/// So many values of hits are made in advance, one for each second that a TTL has left.
const MOST_HITS: u64 = 300;

/// Says how answers came about, by the TTL of requests that name none.
pub(super) struct CacheStatus {
    ttl: Duration,
    /// What a hit says that has so many seconds left. Nearly every answer is one of them.
    hits: Vec<HeaderValue>,
}

impl CacheStatus {
    pub(super) fn new(ttl: Duration) -> Self {
        let hits = (0..=ttl.as_secs().min(MOST_HITS)).map(|left| value(&hit(seconds(left))));
        Self { ttl, hits: hits.collect() }
    }

    /// The metadata of an answer that is so old.
    pub(super) fn of(&self, outcome: &Outcome, age: Duration) -> MetadataMap {
        let left = seconds(self.ttl.as_secs()) - seconds(age.as_secs());
        let made = usize::try_from(left).ok().and_then(|left| self.hits.get(left));
        metadata(match (outcome, made) {
            (Outcome::Hit, Some(made)) => made.clone(),
            _ => value(&said(outcome, left)),
        })
    }
}

/// The metadata of a dry run, which never comes from the cache.
pub(super) fn bypass() -> MetadataMap {
    metadata(HeaderValue::from_static("amistore-gateway; fwd=bypass"))
}

/// Says that EC2 was not asked again for a refusal, which is remembered for so long yet: whole seconds,
/// the last one included.
pub(super) fn add_refusal(metadata: &mut MetadataMap, left: Duration) {
    let begun = u64::from(left.subsec_nanos() > 0);
    let hit = hit(seconds(left.as_secs().saturating_add(begun)));
    metadata.as_mut().insert(CACHE_STATUS, value(&format!("{hit}; detail=remembered-refusal")));
}

fn metadata(value: HeaderValue) -> MetadataMap {
    let mut headers = HeaderMap::with_capacity(2);
    headers.insert(CACHE_STATUS, value);
    MetadataMap::from_headers(headers)
}

fn hit(left: i64) -> String {
    format!("hit; ttl={left}")
}

fn said(outcome: &Outcome, left: i64) -> String {
    let hit = hit(left);
    match outcome {
        Outcome::Hit => hit,
        Outcome::StaleWhileRevalidate => format!("{hit}; detail=stale-while-revalidate"),
        Outcome::StaleIfError(StaleReason::BudgetSpent) => {
            format!("{hit}; detail=\"stale-if-error: call budget spent\"")
        }
        Outcome::StaleIfError(StaleReason::Slow) => {
            format!("{hit}; detail=\"stale-if-error: EC2 is slow\"")
        }
        // EC2's codes have letters and dots; anything else would break the quoted string.
        Outcome::StaleIfError(StaleReason::Failed(error)) => {
            let code: String =
                error.code.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '.').collect();
            format!("{hit}; detail=\"stale-if-error: {code}\"")
        }
        Outcome::Fetched { why, collapsed } => {
            let why = match why {
                ForwardReason::Miss => "miss",
                ForwardReason::Stale => "stale",
                ForwardReason::Request => "request",
            };
            let collapsed = if *collapsed { "; collapsed" } else { "" };
            format!("fwd={why}{collapsed}")
        }
    }
}

fn value(said: &str) -> HeaderValue {
    // All that is said is ASCII.
    HeaderValue::from_str(&format!("amistore-gateway; {said}"))
        .unwrap_or_else(|_| HeaderValue::from_static("amistore-gateway"))
}

fn seconds(whole: u64) -> i64 {
    i64::try_from(whole).unwrap_or(i64::MAX)
}
