//! EC2's quota: a token bucket per access key, region and action.

use std::collections::HashMap;

use tokio::time::Instant;

use super::{query::Call, refusal::Refusal};

/// The size and refill rate of a token bucket.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quota {
    /// The number of tokens in a full bucket.
    pub burst: u32,
    /// The tokens that refill a second.
    pub per_second: f64,
}

/// All token buckets, by access key, region and action.
#[derive(Debug, Default)]
pub(super) struct Buckets(HashMap<(String, String, String), Bucket>);

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    refilled_at: Instant,
}

impl Buckets {
    /// Takes a token for the call. Fails if the call's bucket is empty.
    pub(super) fn take(&mut self, call: &Call, quota: Quota) -> Result<(), Refusal> {
        let now = Instant::now();
        let full = f64::from(quota.burst);
        let key = (call.access_key.clone(), call.region.clone(), call.action.clone());
        let bucket = self.0.entry(key).or_insert(Bucket { tokens: full, refilled_at: now });
        let refill = (now - bucket.refilled_at).as_secs_f64() * quota.per_second;
        bucket.tokens = (bucket.tokens + refill).min(full);
        bucket.refilled_at = now;
        if bucket.tokens + 1e-6 < 1.0 {
            return Err(Refusal::new(503, "RequestLimitExceeded", "Request limit exceeded."));
        }
        bucket.tokens -= 1.0;
        Ok(())
    }
}
