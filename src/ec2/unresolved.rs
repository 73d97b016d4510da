//! Asks for an endpoint whose host name does not resolve at most once in 30 s. Its region may be
//! misspelt, and would then be asked for without end.

use std::{
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{FutureExt as _, future::BoxFuture};
use tokio::time::Instant;
use tower::{Layer, Service};

use crate::domain::{DescribeRequest, DescribeResponse, ErrorCode, GatewayCode, UpstreamError};

/// 30 s: the time for which the failure is remembered.
const REMEMBERED_FOR: Duration = Duration::from_secs(30);

/// The layer of one scope. All services that it makes share one memory.
#[derive(Clone, Debug, Default)]
pub(super) struct UnresolvedLayer(Arc<Mutex<Memory>>);

/// What is known of the host of a scope.
#[derive(Debug, Default)]
struct Memory {
    /// Set once the host was found. From then on a failure is trouble of the network, which may end at
    /// any moment.
    was_found: bool,
    failed: Option<(Instant, UpstreamError)>,
}

impl Memory {
    fn recall(&self) -> Option<UpstreamError> {
        match &self.failed {
            Some((at, error)) if at.elapsed() < REMEMBERED_FOR => Some(error.clone()),
            _ => None,
        }
    }

    fn observe(&mut self, result: &Result<DescribeResponse, UpstreamError>) {
        self.failed = None;
        match result {
            Ok(_) => self.was_found = true,
            Err(error) => match error.code {
                ErrorCode::Ec2(_) => self.was_found = true,
                ErrorCode::Gateway(GatewayCode::HostNotFound) if !self.was_found => {
                    self.failed = Some((Instant::now(), error.clone()));
                }
                ErrorCode::Gateway(_) => {}
            },
        }
    }
}

impl<S> Layer<S> for UnresolvedLayer {
    type Service = Unresolved<S>;

    fn layer(&self, inner: S) -> Unresolved<S> {
        Unresolved { inner, memory: self.0.clone(), recalled: None }
    }
}

/// The service. While a failure is remembered, it is ready without a token of the rate budget.
#[derive(Clone, Debug)]
pub(super) struct Unresolved<S> {
    inner: S,
    memory: Arc<Mutex<Memory>>,
    /// The failure that made the service ready. The inner service may then be not ready.
    recalled: Option<UpstreamError>,
}

impl<S> Unresolved<S> {
    fn recall(&self) -> Option<UpstreamError> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner).recall()
    }
}

impl<S> Service<DescribeRequest> for Unresolved<S>
where
    S: Service<DescribeRequest, Response = DescribeResponse, Error = UpstreamError>,
    S::Future: Send + 'static,
{
    type Response = DescribeResponse;
    type Error = UpstreamError;
    type Future = BoxFuture<'static, Result<DescribeResponse, UpstreamError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), UpstreamError>> {
        self.recalled = self.recall();
        if self.recalled.is_some() {
            return Poll::Ready(Ok(()));
        }
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: DescribeRequest) -> Self::Future {
        // Another call may have failed since the service became ready.
        if let Some(error) = self.recalled.take().or_else(|| self.recall()) {
            return std::future::ready(Err(error)).boxed();
        }
        let memory = self.memory.clone();
        let call = self.inner.call(request);
        async move {
            let result = call.await;
            memory.lock().unwrap_or_else(PoisonError::into_inner).observe(&result);
            result
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tower::ServiceExt as _;

    use super::*;
    use crate::domain::{AccountName, Answer, DescribeTarget, ErrorKind, Region, Scope};
    use crate::ec2::budget::{RateBudgetLayer, RateSettings};

    type Answered = Result<DescribeResponse, UpstreamError>;

    /// Calls that end one after the other as a test says. The number of those that were made.
    async fn asked(layer: &UnresolvedLayer, calls: usize, result: &Answered) -> usize {
        let made = Arc::new(AtomicUsize::new(0));
        for _ in 0..calls {
            let (made, result) = (made.clone(), result.clone());
            let inner = tower::service_fn(move |_| {
                made.fetch_add(1, Ordering::Relaxed);
                std::future::ready(result.clone())
            });
            let target = DescribeTarget::Images(Vec::new());
            let got = layer.layer(inner).oneshot(DescribeRequest::new(target, false)).await;
            assert!(got.is_err() || got == Ok(DescribeResponse::Tasks(Answer::default())));
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        made.load(Ordering::Relaxed)
    }

    fn not_found() -> Answered {
        Err(UpstreamError::of_gateway(GatewayCode::HostNotFound, "no such host"))
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_that_was_never_found_is_asked_for_once_in_30_s() {
        let layer = UnresolvedLayer::default();
        assert_eq!(asked(&layer, 30, &not_found()).await, 1);
        assert_eq!(asked(&layer, 60, &not_found()).await, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn other_trouble_and_a_host_that_was_found_are_asked_for_each_time() {
        let layer = UnresolvedLayer::default();
        let reset = Err(UpstreamError::of_gateway(GatewayCode::ConnectionFailure, "reset"));
        assert_eq!(asked(&layer, 5, &reset).await, 5);
        let denied = UpstreamError::new(ErrorKind::Denied, "AccessDenied".into(), "denied");
        for found in [Ok(DescribeResponse::Tasks(Answer::default())), Err(denied)] {
            let layer = UnresolvedLayer::default();
            assert_eq!(asked(&layer, 1, &found).await, 1);
            assert_eq!(asked(&layer, 5, &not_found()).await, 5);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_remembered_failure_is_told_while_the_inner_service_is_not_ready() {
        let layer = UnresolvedLayer::default();
        let inner = tower::service_fn(|_| std::future::ready(not_found()));
        let region = Region::parse("us-east-1").expect("valid");
        let scope = Scope { account: AccountName::default(), region };
        let budget =
            RateBudgetLayer::new(&RateSettings { burst: 1, ..RateSettings::default() }, &scope);
        let mut held = budget.layer(inner);
        let mut service = layer.layer(budget.layer(inner));
        assert!(held.ready().await.is_ok());
        assert!(futures_util::poll!(service.ready()).is_pending());
        asked(&layer, 1, &not_found()).await;
        let target = DescribeTarget::Images(Vec::new());
        let request = DescribeRequest::new(target, false);
        let told = service.ready().now_or_never().expect("ready").expect("no error").call(request);
        assert_eq!(told.now_or_never(), Some(not_found()));
    }
}
