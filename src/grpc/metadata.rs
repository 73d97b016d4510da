//! Initial metadata of a List: the `cache-status` header.

use std::time::Duration;

use http::{HeaderMap, HeaderValue, header::CACHE_STATUS};
use tonic::metadata::{MetadataMap, MetadataValue};

use crate::{
    api::{self, BYPASS},
    cache::Outcome,
};

/// Longest TTL, in seconds, for which the headers of all hits are made in advance.
const MOST_PREPARED: u64 = 300;

/// Makes `cache-status` headers. Their `ttl` counts down the configured TTL, even if the request
/// sets `max_staleness`.
pub(super) struct CacheStatusHeaders {
    ttl: i64,
    /// The headers of hits, indexed by the seconds left of the TTL. Nearly every response is a hit,
    /// so its header is not formatted each time.
    hits: Vec<HeaderValue>,
}

impl CacheStatusHeaders {
    pub(super) fn new(ttl: Duration) -> Self {
        let mut hits = Vec::new();
        for left in 0..=ttl.as_secs().min(MOST_PREPARED) {
            hits.push(header(&api::cache_status(&Outcome::Hit, signed(left))));
        }
        Self { ttl: signed(ttl.as_secs()), hits }
    }

    /// The metadata of a response of this age.
    pub(super) fn metadata(&self, outcome: &Outcome, age: Duration) -> MetadataMap {
        let left = self.ttl - signed(age.as_secs());
        if *outcome == Outcome::Hit
            && let Some(prepared) = self.prepared_hit(left)
        {
            return with_cache_status(prepared.clone());
        }
        with_cache_status(header(&api::cache_status(outcome, left)))
    }

    fn prepared_hit(&self, left: i64) -> Option<&HeaderValue> {
        self.hits.get(usize::try_from(left).ok()?)
    }
}

/// The metadata of a dry run that is permitted.
pub(super) fn dry_run_permitted() -> MetadataMap {
    let mut metadata = with_cache_status(HeaderValue::from_static(BYPASS));
    metadata.insert("x-ec2-code", MetadataValue::from_static("DryRunOperation"));
    metadata
}

fn with_cache_status(value: HeaderValue) -> MetadataMap {
    let mut headers = HeaderMap::with_capacity(2);
    headers.insert(CACHE_STATUS, value);
    MetadataMap::from_headers(headers)
}

/// Makes a header. The text is ASCII, so the fallback is never used.
fn header(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static("amistore-gateway"))
}

fn signed(seconds: u64) -> i64 {
    i64::try_from(seconds).unwrap_or(i64::MAX)
}
