//! The rate budget: one token bucket per scope, smaller than EC2's, since other tools of the
//! account spend EC2's tokens too.
//!
//! EC2 grants `DescribeStoreImageTasks` a bucket of 50 tokens and 0.5 a second per account and
//! region (AWS, "Request throttling for the Amazon EC2 API", uncategorized actions). If EC2
//! throttles a call within this budget, another tool has spent the tokens. The rate is then halved,
//! and it grows back with each call that succeeds.
//!
//! The crate governor does not fit. Its quota is fixed for the life of a limiter, and it waits on
//! its own timer (futures-timer), which tokio's paused clock does not move.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::{FutureExt as _, future::BoxFuture};
use tokio::time::{Instant, Sleep, sleep};
use tower::{Layer, Service};

use crate::domain::{DescribeRequest, ErrorKind, Scope, UpstreamError};

/// Settings of the rate at which a scope may make attempts.
#[derive(Clone, Copy, Debug)]
pub struct RateSettings {
    /// The attempts in a burst, at least 1.
    pub burst: u32,
    /// The attempts a second in the long run.
    pub per_second: f64,
    /// Whether the bucket is full at the start. Otherwise it is half full, so that a process that
    /// restarts in a loop, or a rolling update, does not spend all that EC2 grants.
    pub starts_full: bool,
}

impl RateSettings {
    /// The attempts with which a scope begins: half of a burst, at least one.
    fn initial(&self) -> f64 {
        let burst = f64::from(self.burst);
        if self.starts_full { burst } else { (burst / 2.0).max(1.0) }
    }

    /// The share of one of several replicas, which ask EC2 for the same accounts.
    #[must_use]
    pub fn shared_by(self, replicas: u32) -> Self {
        let replicas = replicas.max(1);
        Self {
            burst: (self.burst / replicas).max(1),
            per_second: self.per_second / f64::from(replicas),
            starts_full: self.starts_full,
        }
    }
}

impl Default for RateSettings {
    fn default() -> Self {
        Self { burst: 40, per_second: 0.4, starts_full: false }
    }
}

/// The lowest rate after throttling, as a share of the configured rate.
const MIN_SHARE: f64 = 1.0 / 16.0;
/// The share of the configured rate that each successful call restores.
const RECOVERY_SHARE: f64 = 1.0 / 20.0;

/// A scope's tokens and the rate at which they refill.
#[derive(Debug)]
struct Bucket {
    scope: Scope,
    settings: RateSettings,
    tokens: f64,
    per_second: f64,
    refilled_at: Instant,
}

impl Bucket {
    fn new(settings: RateSettings, scope: Scope) -> Self {
        Self {
            scope,
            settings,
            tokens: settings.initial(),
            per_second: settings.per_second,
            refilled_at: Instant::now(),
        }
    }

    /// Takes a token, or returns how long it takes until there is one.
    fn take(&mut self) -> Result<(), Duration> {
        self.refill();
        // A computed wait may end slightly early, since the clock counts whole nanoseconds.
        if self.tokens + 1e-6 >= 1.0 {
            self.tokens -= 1.0;
            Ok(())
        } else {
            Err(Duration::from_secs_f64((1.0 - self.tokens) / self.per_second))
        }
    }

    fn give_back(&mut self) {
        self.tokens = (self.tokens + 1.0).min(f64::from(self.settings.burst));
    }

    fn refill(&mut self) {
        let now = Instant::now();
        let earned = (now - self.refilled_at).as_secs_f64() * self.per_second;
        self.tokens = (self.tokens + earned).min(f64::from(self.settings.burst));
        self.refilled_at = now;
    }

    /// Empties the bucket, since EC2's is empty, and halves the rate.
    fn throttled(&mut self) {
        self.refill();
        self.tokens = self.tokens.min(0.0);
        let begins = !self.is_slowed();
        let lowest = self.settings.per_second * MIN_SHARE;
        self.per_second = (self.per_second / 2.0).max(lowest);
        if begins {
            let (scope, rate) = (&self.scope, self.per_second);
            tracing::warn!(%scope, rate, "EC2 throttles; the call rate is halved");
        }
    }

    /// Restores [`RECOVERY_SHARE`] of the configured rate.
    fn succeeded(&mut self) {
        self.refill();
        if !self.is_slowed() {
            return;
        }
        let restored = self.per_second + self.settings.per_second * RECOVERY_SHARE;
        self.per_second = restored.min(self.settings.per_second);
        if !self.is_slowed() {
            let (scope, rate) = (&self.scope, self.per_second);
            tracing::info!(%scope, rate, "the call rate is back to normal");
        }
    }

    /// Returns whether the rate is lower than the configured one.
    fn is_slowed(&self) -> bool {
        self.per_second < self.settings.per_second
    }
}

/// Locks a bucket. A bucket stays valid if a holder of its lock panics, so poisoning is ignored.
fn lock(bucket: &Mutex<Bucket>) -> MutexGuard<'_, Bucket> {
    bucket.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The layer. All services that it makes share one bucket.
#[derive(Clone, Debug)]
pub(super) struct RateBudgetLayer(Arc<Mutex<Bucket>>);

impl RateBudgetLayer {
    pub(super) fn new(settings: &RateSettings, scope: &Scope) -> Self {
        Self(Arc::new(Mutex::new(Bucket::new(*settings, scope.clone()))))
    }
}

impl<S> Layer<S> for RateBudgetLayer {
    type Service = RateBudget<S>;

    fn layer(&self, inner: S) -> RateBudget<S> {
        RateBudget { inner, bucket: self.0.clone(), state: State::Idle }
    }
}

/// The service. It is ready when it holds a token, and each call spends one.
#[derive(Debug)]
pub(super) struct RateBudget<S> {
    inner: S,
    bucket: Arc<Mutex<Bucket>>,
    state: State,
}

#[derive(Debug)]
enum State {
    /// The service neither holds a token nor waits for one.
    Idle,
    /// The service waits until the bucket has a token.
    Waiting(Pin<Box<Sleep>>),
    /// The service holds a token.
    Admitted,
}

// === impl RateBudget ===

/// A clone begins without a token.
impl<S: Clone> Clone for RateBudget<S> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), bucket: self.bucket.clone(), state: State::Idle }
    }
}

/// Returns a token that was not spent.
impl<S> Drop for RateBudget<S> {
    fn drop(&mut self) {
        if matches!(self.state, State::Admitted) {
            lock(&self.bucket).give_back();
        }
    }
}

impl<S> Service<DescribeRequest> for RateBudget<S>
where
    S: Service<DescribeRequest, Error = UpstreamError>,
    S::Future: Send + 'static,
    S::Response: Send + 'static,
{
    type Response = S::Response;
    type Error = UpstreamError;
    type Future = BoxFuture<'static, Result<S::Response, UpstreamError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), UpstreamError>> {
        loop {
            match &mut self.state {
                State::Admitted => return self.inner.poll_ready(cx),
                State::Waiting(waiting) => {
                    ready!(waiting.as_mut().poll(cx));
                    self.state = State::Idle;
                }
                State::Idle => {
                    let taken = lock(&self.bucket).take();
                    self.state = match taken {
                        Ok(()) => State::Admitted,
                        Err(wait) => State::Waiting(Box::pin(sleep(wait))),
                    };
                }
            }
        }
    }

    fn call(&mut self, request: DescribeRequest) -> Self::Future {
        self.state = State::Idle;
        let bucket = self.bucket.clone();
        let call = self.inner.call(request);
        async move {
            let result = call.await;
            match &result {
                Ok(_) => lock(&bucket).succeeded(),
                Err(error) if error.kind == ErrorKind::Throttled => lock(&bucket).throttled(),
                Err(_) => {}
            }
            result
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use tower::ServiceExt as _;

    use super::*;
    use crate::{
        domain::log_capture::LogCapture,
        domain::{AccountName, Answer, DescribeResponse, DescribeTarget, Region},
    };

    fn ask() -> DescribeRequest {
        DescribeRequest::new(DescribeTarget::Images(Vec::new()), false)
    }

    fn layer() -> RateBudgetLayer {
        let region = Region::parse("us-east-1").expect("valid");
        let scope = Scope { account: AccountName::default(), region };
        let settings = RateSettings { burst: 3, per_second: 0.5, starts_full: true };
        RateBudgetLayer::new(&settings, &scope)
    }

    fn service(
        answer: Result<DescribeResponse, UpstreamError>,
    ) -> impl Service<DescribeRequest, Error = UpstreamError, Future: Send> + Clone {
        layer().layer(tower::service_fn(move |_| std::future::ready(answer.clone())))
    }

    fn throttled() -> UpstreamError {
        UpstreamError {
            kind: ErrorKind::Throttled,
            code: "RequestLimitExceeded".into(),
            message: "too many".into(),
            cause: None,
            request_id: None,
            retry_after: None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_and_then_the_rate() {
        let service = service(Ok(DescribeResponse::Tasks(Answer::default())));
        let start = Instant::now();
        let mut at = Vec::new();
        for _ in 0..6 {
            assert!(service.clone().oneshot(ask()).await.is_ok());
            at.push(start.elapsed().as_secs_f64().round());
        }
        assert_eq!(at, [0.0, 0.0, 0.0, 2.0, 4.0, 6.0]);
    }

    #[test]
    fn a_start_has_half_of_the_burst_and_at_least_one_call() {
        for (burst, initial) in [(1, 1.0), (2, 1.0), (3, 1.5), (40, 20.0), (50, 25.0)] {
            let settings = RateSettings { burst, ..RateSettings::default() };
            assert_eq!(settings.initial().to_bits(), f64::to_bits(initial), "{burst}");
        }
    }

    #[test]
    fn replicas_share_the_rate_and_the_burst() {
        let shared = RateSettings::default().shared_by(4);
        assert_eq!((shared.burst, shared.per_second.to_bits()), (10, f64::to_bits(0.1)));
        assert_eq!(RateSettings::default().shared_by(100).burst, 1);
        assert_eq!(RateSettings::default().shared_by(0).burst, 40);
    }

    #[tokio::test(start_paused = true)]
    async fn throttling_empties_the_bucket_and_halves_the_rate() {
        let service = service(Err(throttled()));
        let start = Instant::now();
        let mut at = Vec::new();
        for _ in 0..4 {
            assert!(service.clone().oneshot(ask()).await.is_err());
            at.push(start.elapsed().as_secs_f64().round());
        }
        assert_eq!(at, [0.0, 4.0, 12.0, 28.0]);
    }

    #[tokio::test(start_paused = true)]
    async fn throttling_is_one_line_and_the_return_to_the_rate_another() {
        let log = LogCapture::start();
        let layer = layer();
        let answer = Ok(DescribeResponse::Tasks(Answer::default()));
        for (calls, result) in [(2, answer.clone()), (3, Err(throttled())), (30, answer)] {
            for _ in 0..calls {
                let inner = tower::service_fn(|_| std::future::ready(result.clone()));
                assert_eq!(layer.layer(inner).oneshot(ask()).await, result);
            }
        }
        assert_eq!(
            log.lines(),
            [
                "WARN EC2 throttles; the call rate is halved scope=default/us-east-1 rate=0.25",
                "INFO the call rate is back to normal scope=default/us-east-1 rate=0.5",
            ]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_that_is_not_spent_goes_back() {
        let service = service(Ok(DescribeResponse::Tasks(Answer::default())));
        for _ in 0..10 {
            let mut unused = service.clone();
            assert!(unused.ready().await.is_ok());
        }
        let start = Instant::now();
        for _ in 0..3 {
            assert!(service.clone().oneshot(ask()).await.is_ok());
        }
        assert_eq!(start.elapsed(), Duration::ZERO);
    }
}
