//! A cache of encoded responses, keyed by the bytes of their requests.
//!
//! If a byte-identical request was answered from the current snapshot, and that snapshot is fresh
//! enough, the cached encoded response is sent. [`ScopeCache::revalidate`] decides that.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::time::interval;
use tokio_util::task::AbortOnDropHandle;

use crate::{
    cache::{ScopeCache, Validator},
    proto::{EncodedListRequest, EncodedListResponse},
};

/// Time after which a response is dropped. moka's clock is the system's, so this bounds memory and
/// decides nothing about freshness.
const MAX_AGE: Duration = Duration::from_mins(5);

/// Interval at which the memory of expired responses is released. moka by itself releases memory only
/// while it is used.
const RELEASE_INTERVAL: Duration = Duration::from_mins(1);

/// Bytes that an entry takes besides its request and response, for itself and moka's bookkeeping.
const ENTRY_OVERHEAD: usize = 512;

/// A response that can be sent again.
pub(super) struct CachedResponse {
    /// The cache that the response was read from. Weak, so that a response does not keep an idle
    /// scope alive.
    pub(super) scope: Weak<ScopeCache>,
    /// The `max_staleness` of the request.
    pub(super) max_staleness: Option<Duration>,
    /// Decides whether the response is still valid.
    pub(super) validator: Validator,
    /// The encoded message.
    pub(super) response: EncodedListResponse,
}

type Responses = moka::sync::Cache<EncodedListRequest, Arc<CachedResponse>>;

/// Cached responses, bounded by their total bytes. moka admits by frequency, so rare requests do
/// not evict the responses to frequent ones.
pub(super) struct ResponseCache {
    responses: Responses,
    _release_memory: AbortOnDropHandle<()>,
}

impl ResponseCache {
    /// Creates a cache of at most `max_bytes` bytes. Must be called on a tokio runtime.
    pub(super) fn new(max_bytes: u64) -> Self {
        let responses: Responses = moka::sync::Cache::builder()
            .max_capacity(max_bytes)
            .weigher(|request, cached: &Arc<CachedResponse>| weight(request, cached))
            .time_to_live(MAX_AGE)
            .build();
        let release_memory = tokio::spawn(release_memory(responses.clone()));
        Self { responses, _release_memory: AbortOnDropHandle::new(release_memory) }
    }

    pub(super) fn get(&self, request: &[u8]) -> Option<Arc<CachedResponse>> {
        self.responses.get(request)
    }

    pub(super) fn put(&self, request: &EncodedListRequest, cached: CachedResponse) {
        self.responses.insert(request.compact(), Arc::new(cached));
    }
}

async fn release_memory(responses: Responses) {
    let mut ticks = interval(RELEASE_INTERVAL);
    loop {
        ticks.tick().await;
        responses.run_pending_tasks();
    }
}

fn weight(request: &EncodedListRequest, cached: &CachedResponse) -> u32 {
    let bytes = ENTRY_OVERHEAD + request.0.len() + cached.response.framed().len();
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cache::{Freshness, Snapshot},
        proto::ListStoreImageTasksResponse,
    };

    fn request(number: usize) -> EncodedListRequest {
        EncodedListRequest(number.to_string().into())
    }

    fn cached_response() -> CachedResponse {
        CachedResponse {
            scope: Weak::new(),
            max_staleness: None,
            validator: Validator::new(&Arc::new(Snapshot::default()), Freshness::Missing),
            response: EncodedListResponse::new(&ListStoreImageTasksResponse {
                next_page_token: "x".repeat(2000),
                ..ListStoreImageTasksResponse::default()
            }),
        }
    }

    /// Invariant 7 (docs/invariants.md): the memory of encoded responses
    #[tokio::test]
    async fn a_million_distinct_requests_evict_no_frequent_response_and_stay_within_the_bytes() {
        let most = 1 << 20;
        let cache = ResponseCache::new(most);
        let frequent: Vec<_> = (0..100).map(request).collect();
        for request in &frequent {
            cache.put(request, cached_response());
        }
        for distinct in 0..1_000_000 {
            let request = request(1000 + distinct);
            assert!(cache.get(&request.0).is_none());
            cache.put(&request, cached_response());
            // Every second request is one of the 100 frequent ones.
            cache.get(&frequent[distinct % frequent.len()].0);
            if distinct % 1000 == 0 {
                cache.responses.run_pending_tasks();
                let weight = cache.responses.weighted_size();
                assert!(weight <= most, "{weight}");
            }
        }
        cache.responses.run_pending_tasks();
        assert!(cache.responses.weighted_size() <= most);
        let kept = frequent.iter().filter(|request| cache.get(&request.0).is_some()).count();
        assert!(kept >= 95, "{kept} of 100");
    }
}
