//! The retry policy: transient failures only, with full jitter, and with a budget for retries, so
//! that an outage does not double the calls.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use tokio::time::{Sleep, sleep};
use tower::retry::{Policy, RetryLayer, budget::Budget};

use crate::domain::{DescribeRequest, DescribeResponse, UpstreamError};

/// Settings of the retries: the number of attempts, and the pauses between them.
#[derive(Clone, Debug)]
pub struct RetrySettings {
    /// Maximum number of attempts of one call, including the first.
    pub max_attempts: u32,
    /// The upper bound of the first pause. The bound doubles with each further pause.
    pub base: Duration,
    /// The longest pause, even if EC2 asks for a longer one.
    pub longest: Duration,
    /// The seed of the jitter. None takes the system's randomness.
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

pub(super) fn layer(settings: &RetrySettings) -> RetryLayer<Transient> {
    let rng = match settings.seed {
        Some(seed) => fastrand::Rng::with_seed(seed),
        None => fastrand::Rng::new(),
    };
    let budget = Arc::new(RetryBudget::default());
    RetryLayer::new(Transient { settings: settings.clone(), attempt: 1, rng, budget })
}

/// The retries that a scope may still make: ten at first and at most. Five successful calls earn
/// one more.
///
/// tower's `TpsBudget` does not fit: its deposits expire within a minute, and a scope may make only
/// a few calls a minute.
#[derive(Debug)]
struct RetryBudget(AtomicU32);

const CAPACITY: u32 = 50;
const RETRY_COST: u32 = 5;
const SUCCESS_DEPOSIT: u32 = 1;

impl Default for RetryBudget {
    fn default() -> Self {
        Self(AtomicU32::new(CAPACITY))
    }
}

impl Budget for RetryBudget {
    fn deposit(&self) {
        // Never fails: `after_deposit` always has a value.
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, after_deposit);
    }

    fn withdraw(&self) -> bool {
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, after_withdrawal).is_ok()
    }
}

fn after_deposit(balance: u32) -> Option<u32> {
    Some((balance + SUCCESS_DEPOSIT).min(CAPACITY))
}

fn after_withdrawal(balance: u32) -> Option<u32> {
    balance.checked_sub(RETRY_COST)
}

/// The policy. Each call has a clone; all clones share the scope's retry budget.
#[derive(Clone, Debug)]
pub(super) struct Transient {
    settings: RetrySettings,
    attempt: u32,
    rng: fastrand::Rng,
    budget: Arc<RetryBudget>,
}

impl Transient {
    /// The pause before the next attempt, at least the one that EC2 asked for.
    ///
    /// Full jitter draws it between zero and the bound, so that callers spread out (AWS
    /// Architecture Blog, "Exponential Backoff And Jitter").
    fn pause(&mut self, retry_after: Option<Duration>) -> Duration {
        let bound = self.settings.base * 2_u32.saturating_pow(self.attempt - 1);
        let jittered = bound.min(self.settings.longest).mul_f64(self.rng.f64());
        jittered.max(retry_after.unwrap_or_default()).min(self.settings.longest)
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
            self.budget.deposit();
            return None;
        };
        if !error.kind.is_transient()
            || self.attempt >= self.settings.max_attempts
            || !self.budget.withdraw()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_retries_are_in_store_and_five_successes_earn_one_more() {
        let budget = RetryBudget::default();
        for _ in 0..10 {
            assert!(budget.withdraw());
        }
        assert!(!budget.withdraw());
        for _ in 0..4 {
            budget.deposit();
            assert!(!budget.withdraw());
        }
        budget.deposit();
        assert!(budget.withdraw());
    }

    #[test]
    fn the_budget_never_exceeds_ten_retries() {
        let budget = RetryBudget::default();
        for _ in 0..100 {
            budget.deposit();
        }
        for _ in 0..10 {
            assert!(budget.withdraw());
        }
        assert!(!budget.withdraw());
    }
}
