//! Answers that are ready to send: a page, encoded, with the ledger that it was read from. It is good
//! for as long as that ledger is the newest, or is what a stale answer is read from.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::time::interval;
use tokio_util::task::AbortOnDropHandle;

use super::codec::{EncodedList, EncodedRequest};
use crate::cache::{ScopeCache, Validator};

/// No answer is kept for longer. moka's clock is the system's: it bounds memory and decides nothing
/// about freshness.
const MAX_AGE: Duration = Duration::from_mins(5);

/// How often what is over is given back. moka would do so only when it is used.
const RELEASE_INTERVAL: Duration = Duration::from_mins(1);

/// What an entry weighs beside its bytes, at least: the entry, and moka's own books.
const OVERHEAD: usize = 512;

/// An answer.
pub(super) struct CachedResponse {
    /// Whose. An answer does not keep a scope.
    pub(super) scope: Weak<ScopeCache>,
    /// How old its request allowed it to be.
    pub(super) max_staleness: Option<Duration>,
    /// What it was read from.
    pub(super) validator: Validator,
    /// The message.
    pub(super) list: EncodedList,
}

type Responses = moka::sync::Cache<EncodedRequest, Arc<CachedResponse>>;

/// The answers that are kept, by the bytes of their requests: the same bytes are the same question.
/// moka's admission goes by how often something is asked for, so that any number of questions that
/// are asked once do not push out those that matter.
pub(super) struct ResponseCache {
    responses: Responses,
    _give_back: AbortOnDropHandle<()>,
}

impl ResponseCache {
    /// Keeps answers of so many bytes together. To be called on a runtime.
    pub(super) fn new(max_bytes: u64) -> Self {
        let responses: Responses = moka::sync::Cache::builder()
            .max_capacity(max_bytes)
            .weigher(|request, response: &Arc<CachedResponse>| weight(request, response))
            .time_to_live(MAX_AGE)
            .build();
        let release_memory = tokio::spawn(release_memory(responses.clone()));
        Self { responses, _give_back: AbortOnDropHandle::new(release_memory) }
    }

    pub(super) fn get(&self, request: &EncodedRequest) -> Option<Arc<CachedResponse>> {
        self.responses.get(request)
    }

    pub(super) fn put(&self, request: &EncodedRequest, response: CachedResponse) {
        self.responses.insert(request.compact(), Arc::new(response));
    }
}

async fn release_memory(responses: Responses) {
    let mut rounds = interval(RELEASE_INTERVAL);
    loop {
        rounds.tick().await;
        responses.run_pending_tasks();
    }
}

fn weight(request: &EncodedRequest, response: &CachedResponse) -> u32 {
    u32::try_from(OVERHEAD + request.0.len() + response.list.0.len()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::cache::{Freshness, Snapshot};

    fn query(number: usize) -> EncodedRequest {
        EncodedRequest(number.to_string().into())
    }

    /// DESIGN §9.7, one bound of it
    #[tokio::test]
    async fn a_million_distinct_questions_do_not_push_out_what_matters_and_stay_within_their_bytes()
    {
        let most = 1 << 20;
        let responses = ResponseCache::new(most);
        let response = || CachedResponse {
            scope: Weak::new(),
            max_staleness: None,
            validator: Validator::new(&Arc::new(Snapshot::default()), Freshness::Missing),
            list: EncodedList(Bytes::from_static(&[0; 2000])),
        };
        let hot: Vec<_> = (0..100).map(query).collect();
        for query in &hot {
            responses.put(query, response());
        }
        for distinct in 0..1_000_000 {
            let query = query(1000 + distinct);
            assert!(responses.get(&query).is_none());
            responses.put(&query, response());
            // Half of all requests are for what matters, each of them once in a hundred.
            responses.get(&hot[distinct % hot.len()]);
            if distinct % 1000 == 0 {
                responses.responses.run_pending_tasks();
                assert!(
                    responses.responses.weighted_size() <= most,
                    "{}",
                    responses.responses.weighted_size()
                );
            }
        }
        responses.responses.run_pending_tasks();
        assert!(responses.responses.weighted_size() <= most);
        let running = hot.iter().filter(|query| responses.get(query).is_some()).count();
        assert!(running >= 95, "{running} of 100");
    }
}
