//! EC2's token buckets: per access key, region and action.

use std::collections::HashMap;

use tokio::time::Instant;

use super::{answer::Refusal, query::Call};

/// A token bucket.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quota {
    /// Tokens when full.
    pub burst: u32,
    /// Tokens a second.
    pub per_second: f64,
}

#[derive(Debug, Default)]
pub(super) struct Buckets(HashMap<(String, String, String), (f64, Instant)>);

impl Buckets {
    pub(super) fn take(&mut self, call: &Call, quota: Quota) -> Result<(), Refusal> {
        let now = Instant::now();
        let full = f64::from(quota.burst);
        let key = (call.access_key.clone(), call.region.clone(), call.action.clone());
        let (tokens, counted_at) = self.0.entry(key).or_insert((full, now));
        *tokens = (*tokens + (now - *counted_at).as_secs_f64() * quota.per_second).min(full);
        *counted_at = now;
        if *tokens + 1e-6 < 1.0 {
            return Err(Refusal::new(503, "RequestLimitExceeded", "Request limit exceeded."));
        }
        *tokens -= 1.0;
        Ok(())
    }
}
