//! Records when each attempt starts, and how it ends.

use std::task::{Context, Poll};

use futures_util::{FutureExt as _, future::BoxFuture};
use tower::{Layer, Service};

use super::sign::sign_of;
use crate::domain::{AttemptEnd, AttemptTime, DescribeRequest, DescribeResponse, UpstreamError};

/// The layer. It stands below the retries and the rate budget, so that it sees single attempts without
/// their waits.
#[derive(Clone, Copy, Debug)]
pub(super) struct AttemptsLayer;

impl<S> Layer<S> for AttemptsLayer {
    type Service = RecordAttempts<S>;

    fn layer(&self, inner: S) -> RecordAttempts<S> {
        RecordAttempts { inner }
    }
}

/// The service.
#[derive(Clone, Debug)]
pub(super) struct RecordAttempts<S> {
    inner: S,
}

impl<S> Service<DescribeRequest> for RecordAttempts<S>
where
    S: Service<DescribeRequest, Response = DescribeResponse, Error = UpstreamError>,
    S::Future: Send + 'static,
{
    type Response = DescribeResponse;
    type Error = UpstreamError;
    type Future = BoxFuture<'static, Result<DescribeResponse, UpstreamError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), UpstreamError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: DescribeRequest) -> Self::Future {
        let target = request.target.clone();
        let running = Running(request.attempt.clone());
        running.0.start();
        let call = self.inner.call(request);
        async move {
            let result = call.await;
            running.0.end(sign_of(&target, &result));
            result
        }
        .boxed()
    }
}

/// Ends the attempt when it is dropped, so that an attempt that was given up does not count as
/// unanswered.
struct Running(AttemptTime);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.end(AttemptEnd::Unclear);
    }
}
