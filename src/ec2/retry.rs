//! Tries again what is transient: with full jitter, and with a budget of its own, so that an
//! outage does not double the calls.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use tokio::time::{Sleep, sleep};
use tower::retry::{Policy, RetryLayer};

use crate::domain::{DescribeRequest, DescribeResponse, UpstreamError};

/// How often, and how far apart, is tried again.
#[derive(Clone, Debug)]
pub struct RetrySettings {
    /// Most attempts of one call, the first included.
    pub max_attempts: u32,
    /// The first pause is between zero and this; each next one may be twice as long.
    pub base: Duration,
    /// No pause is longer, also where EC2 asks for it.
    pub longest: Duration,
    /// For the jitter; None takes the system's randomness.
    pub seed: Option<u64>,
}

impl Default for RetrySettings {
    fn default() -> Self {
        Self {
            max_attempts: 3,
            base: Duration::from_millis(500),
            longest: Duration::from_secs(10),
            seed: None,
        }
    }
}

/// Ten retries are in store; one is earned back by five calls that succeed.
const CAPACITY: u32 = 50;
const RETRY_COSTS: u32 = 5;
const SUCCESS_EARNS: u32 = 1;

pub(super) fn layer(settings: &RetrySettings) -> RetryLayer<Transient> {
    RetryLayer::new(Transient {
        settings: settings.clone(),
        attempt: 1,
        rng: settings.seed.map_or_else(fastrand::Rng::new, fastrand::Rng::with_seed),
        store: Arc::new(AtomicU32::new(CAPACITY)),
    })
}

/// The policy. A clone for each call; the store is shared by all calls of a scope.
#[derive(Clone, Debug)]
pub(super) struct Transient {
    settings: RetrySettings,
    attempt: u32,
    rng: fastrand::Rng,
    store: Arc<AtomicU32>,
}

impl Transient {
    fn withdraw(&self) -> bool {
        let take = |stored: u32| stored.checked_sub(RETRY_COSTS);
        self.store.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }

    fn deposit(&self) {
        let earn = |stored: u32| Some((stored + SUCCESS_EARNS).min(CAPACITY));
        let _ = self.store.fetch_update(Ordering::Relaxed, Ordering::Relaxed, earn);
    }

    /// Full jitter: anything between nothing and the bound, so that callers spread out
    /// (AWS Architecture Blog, "Exponential Backoff And Jitter").
    fn pause(&mut self, asked: Option<Duration>) -> Duration {
        let bound = self.settings.base * 2_u32.saturating_pow(self.attempt - 1);
        let jittered = bound.min(self.settings.longest).mul_f64(self.rng.f64());
        jittered.max(asked.unwrap_or_default()).min(self.settings.longest)
    }
}

impl Policy<DescribeRequest, DescribeResponse, UpstreamError> for Transient {
    type Future = Sleep;

    fn retry(
        &mut self,
        _: &mut DescribeRequest,
        result: &mut Result<DescribeResponse, UpstreamError>,
    ) -> Option<Sleep> {
        let Err(error) = result else {
            self.deposit();
            return None;
        };
        if !error.kind.is_transient()
            || self.attempt >= self.settings.max_attempts
            || !self.withdraw()
        {
            return None;
        }
        let pause = self.pause(error.retry_after);
        self.attempt += 1;
        Some(sleep(pause))
    }

    fn clone_request(&mut self, request: &DescribeRequest) -> Option<DescribeRequest> {
        Some(request.clone())
    }
}
