//! The rate budget: a token bucket per scope, below EC2's own, since other tools draw on that too.
//!
//! EC2 grants `DescribeStoreImageTasks` a bucket of 50 tokens and 0.5 a second per account and
//! region (AWS, "Request throttling for the Amazon EC2 API", uncategorized actions). When EC2
//! throttles all the same, somebody else is busy: the rate is halved, and grows back step by step.
//!
//! governor would be the library for a fixed rate; it has no rate that changes, and no clock that
//! a test can pause.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::{FutureExt as _, future::BoxFuture};
use tokio::time::{Instant, Sleep, sleep};
use tower::{Layer, Service};

use crate::domain::{DescribeRequest, ErrorKind, UpstreamError};

/// How many calls a scope may make.
#[derive(Clone, Copy, Debug)]
pub struct RateSettings {
    /// Calls in a burst, at least 1.
    pub burst: u32,
    /// Calls a second in the long run.
    pub per_second: f64,
}

impl Default for RateSettings {
    fn default() -> Self {
        Self { burst: 40, per_second: 0.4 }
    }
}

/// After throttling the rate is never below this share of the configured one.
const LEAST_SHARE: f64 = 1.0 / 16.0;
/// Each call that succeeds gives back this share of the configured rate.
const RECOVERY_SHARE: f64 = 1.0 / 20.0;

#[derive(Debug)]
struct Bucket {
    settings: RateSettings,
    tokens: f64,
    per_second: f64,
    counted_at: Instant,
}

impl Bucket {
    fn new(settings: RateSettings) -> Self {
        Self {
            settings,
            tokens: f64::from(settings.burst),
            per_second: settings.per_second,
            counted_at: Instant::now(),
        }
    }

    /// Takes a token, or says how long it takes until there is one.
    fn take(&mut self) -> Result<(), Duration> {
        self.refill();
        // The clock counts whole nanoseconds: a wait that was computed may end a hair too early.
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
        let earned = (now - self.counted_at).as_secs_f64() * self.per_second;
        self.tokens = (self.tokens + earned).min(f64::from(self.settings.burst));
        self.counted_at = now;
    }

    /// EC2's bucket is empty, whatever ours has.
    fn throttled(&mut self) {
        self.refill();
        self.tokens = self.tokens.min(0.0);
        let least = self.settings.per_second * LEAST_SHARE;
        self.per_second = (self.per_second / 2.0).max(least);
    }

    fn succeeded(&mut self) {
        self.refill();
        let more = self.per_second + self.settings.per_second * RECOVERY_SHARE;
        self.per_second = more.min(self.settings.per_second);
    }
}

/// Puts one bucket around the services that it makes.
#[derive(Clone, Debug)]
pub(super) struct RateBudgetLayer(Arc<Mutex<Bucket>>);

impl RateBudgetLayer {
    pub(super) fn new(settings: &RateSettings) -> Self {
        Self(Arc::new(Mutex::new(Bucket::new(*settings))))
    }
}

impl<S> Layer<S> for RateBudgetLayer {
    type Service = RateBudget<S>;

    fn layer(&self, inner: S) -> RateBudget<S> {
        RateBudget { inner, bucket: self.0.clone(), state: State::Idle }
    }
}

/// Is ready when it holds a token; each call spends one.
#[derive(Debug)]
pub(super) struct RateBudget<S> {
    inner: S,
    bucket: Arc<Mutex<Bucket>>,
    state: State,
}

#[derive(Debug)]
enum State {
    Idle,
    Waiting(Pin<Box<Sleep>>),
    Admitted,
}

// === impl RateBudget ===

impl<S> RateBudget<S> {
    fn bucket(&self) -> MutexGuard<'_, Bucket> {
        self.bucket.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A clone waits for a token of its own.
impl<S: Clone> Clone for RateBudget<S> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), bucket: self.bucket.clone(), state: State::Idle }
    }
}

/// A token that was not spent goes back.
impl<S> Drop for RateBudget<S> {
    fn drop(&mut self) {
        if matches!(self.state, State::Admitted) {
            self.bucket().give_back();
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
                    let taken = self.bucket().take();
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
        self.inner
            .call(request)
            .inspect(move |answer| {
                let mut bucket = bucket.lock().unwrap_or_else(PoisonError::into_inner);
                match answer {
                    Ok(_) => bucket.succeeded(),
                    Err(error) if error.kind == ErrorKind::Throttled => bucket.throttled(),
                    Err(_) => {}
                }
            })
            .boxed()
    }
}

#[cfg(test)]
mod tests {
    use tower::ServiceExt as _;

    use super::*;
    use crate::domain::{Answer, DescribeResponse, DescribeTarget};

    fn ask() -> DescribeRequest {
        DescribeRequest { target: DescribeTarget::Images(Vec::new()), dry_run: false }
    }

    fn service(
        answer: Result<DescribeResponse, UpstreamError>,
    ) -> impl Service<DescribeRequest, Error = UpstreamError, Future: Send> + Clone {
        let settings = RateSettings { burst: 3, per_second: 0.5 };
        let inner = tower::service_fn(move |_| std::future::ready(answer.clone()));
        RateBudgetLayer::new(&settings).layer(inner)
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
