//! Logs when EC2 can no longer be asked for a scope, and when it can again: one line each, however
//! many calls fail between.

use std::{
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use futures_util::{FutureExt as _, future::BoxFuture};
use tokio::time::Instant;
use tower::{Layer, Service};

use super::sign::sign_of;
use crate::domain::{
    AttemptEnd, DescribeRequest, DescribeResponse, DescribeTarget, ErrorCode, Scope, UpstreamError,
};

/// The layer of one scope. All services that it makes share one record of trouble.
#[derive(Clone, Debug)]
pub(super) struct TroubleLogLayer(Arc<Record>);

impl TroubleLogLayer {
    pub(super) fn new(scope: &Scope) -> Self {
        Self(Arc::new(Record { scope: scope.clone(), trouble: Mutex::new(None) }))
    }
}

impl<S> Layer<S> for TroubleLogLayer {
    type Service = TroubleLog<S>;

    fn layer(&self, inner: S) -> TroubleLog<S> {
        TroubleLog { inner, record: self.0.clone() }
    }
}

/// The service. It passes each call on and logs if its result changes the scope's trouble.
#[derive(Clone, Debug)]
pub(super) struct TroubleLog<S> {
    inner: S,
    record: Arc<Record>,
}

/// A scope and its trouble, which is None while EC2 answers.
#[derive(Debug)]
struct Record {
    scope: Scope,
    trouble: Mutex<Option<Trouble>>,
}

#[derive(Debug)]
struct Trouble {
    since: Instant,
    code: ErrorCode,
}

impl Record {
    fn observe(&self, target: &DescribeTarget, result: &Result<DescribeResponse, UpstreamError>) {
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        match sign_of(target, result) {
            AttemptEnd::Failed(error) => self.failed(&mut trouble, error),
            AttemptEnd::Answered => self.answered(&mut trouble),
            AttemptEnd::Unclear => {}
        }
    }

    fn failed(&self, trouble: &mut Option<Trouble>, error: &UpstreamError) {
        let UpstreamError { kind, code, .. } = error;
        let (scope, cause) = (&self.scope, cause_chain(error));
        match trouble {
            None => {
                tracing::warn!(%scope, %kind, %code, cause, "EC2 cannot be asked");
                *trouble = Some(Trouble { since: Instant::now(), code: code.clone() });
            }
            Some(trouble) if trouble.code != *code => {
                tracing::debug!(%scope, %kind, %code, cause, "EC2 still cannot be asked");
                trouble.code = code.clone();
            }
            Some(_) => {}
        }
    }

    fn answered(&self, trouble: &mut Option<Trouble>) {
        if let Some(Trouble { since, .. }) = trouble.take() {
            let lasted = since.elapsed();
            tracing::info!(scope = %self.scope, lasted_seconds = lasted.as_secs_f64(), "EC2 answers again");
        }
    }
}

/// The message of the error and all its causes.
fn cause_chain(error: &UpstreamError) -> String {
    match &error.cause {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

impl<S> Service<DescribeRequest> for TroubleLog<S>
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
        let record = self.record.clone();
        let target = request.target.clone();
        let call = self.inner.call(request);
        async move {
            let result = call.await;
            record.observe(&target, &result);
            result
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::advance;
    use tower::ServiceExt as _;

    use super::*;
    use crate::{
        domain::log_capture::LogCapture,
        domain::{AccountName, Answer, DescribeTarget, ErrorKind, ImageId, Region},
    };

    fn scope() -> Scope {
        Scope {
            account: AccountName::default(),
            region: Region::parse("us-east-1").expect("valid"),
        }
    }

    fn request() -> DescribeRequest {
        let image = ImageId::parse("ami-01234567").expect("valid");
        DescribeRequest::new(DescribeTarget::Images(vec![image]), false)
    }

    fn answer() -> Result<DescribeResponse, UpstreamError> {
        Ok(DescribeResponse::Tasks(Answer::default()))
    }

    fn error(kind: ErrorKind, code: &str) -> Result<DescribeResponse, UpstreamError> {
        Err(UpstreamError {
            kind,
            code: code.into(),
            message: format!("simulated {code}").into(),
            cause: Some("example.com: connection refused".into()),
            request_id: None,
            retry_after: None,
        })
    }

    /// Makes calls with these results, a second apart, and returns the lines that they log.
    async fn log_of(
        results: impl IntoIterator<Item = Result<DescribeResponse, UpstreamError>>,
    ) -> Vec<String> {
        let log = LogCapture::start();
        let layer = TroubleLogLayer::new(&scope());
        for result in results {
            let service = layer.layer(tower::service_fn(|_| std::future::ready(result.clone())));
            let returned = service.oneshot(request()).await;
            assert_eq!(returned, result, "the layer changes no result");
            advance(Duration::from_secs(1)).await;
        }
        log.lines()
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_trouble_is_one_line_and_its_end_another() {
        let mut results = vec![answer()];
        results.extend(std::iter::repeat_n(error(ErrorKind::Denied, "UnauthorizedOperation"), 50));
        results.extend([answer(), answer()]);
        assert_eq!(
            log_of(results).await,
            [
                "WARN EC2 cannot be asked scope=default/us-east-1 kind=denied \
                 code=UnauthorizedOperation cause=\"simulated UnauthorizedOperation: example.com: connection refused\"",
                "INFO EC2 answers again scope=default/us-east-1 lasted_seconds=50.0",
            ]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_code_is_a_debug_line() {
        let unavailable = error(ErrorKind::Unavailable, "ConnectionFailure");
        let throttled = error(ErrorKind::Throttled, "RequestLimitExceeded");
        let lines = log_of([unavailable, throttled.clone(), throttled, answer()]).await;
        let levels: Vec<_> = lines.iter().filter_map(|line| line.split(' ').next()).collect();
        assert_eq!(levels, ["WARN", "DEBUG", "INFO"], "{lines:#?}");
        assert!(lines[1].contains("code=RequestLimitExceeded"), "{lines:#?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_of_one_image_or_request_is_no_trouble() {
        let lines = log_of([
            error(ErrorKind::NotFound, "InvalidAMIID.NotFound"),
            error(ErrorKind::InvalidRequest, "InvalidAMIID.Malformed"),
            error(ErrorKind::InvalidRequest, "InvalidNextToken"),
            error(ErrorKind::UnknownRefusal, "UnknownError"),
            error(ErrorKind::Credentials, "AuthFailure"),
        ])
        .await;
        assert_eq!(lines, [""; 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_of_one_image_ends_trouble_and_an_unknown_refusal_does_not() {
        let lines = log_of([
            error(ErrorKind::Unavailable, "ServiceUnavailable"),
            error(ErrorKind::UnknownRefusal, "UnknownError"),
            error(ErrorKind::Unavailable, "ServiceUnavailable"),
            error(ErrorKind::NotFound, "InvalidAMIID.NotFound"),
        ])
        .await;
        assert_eq!(lines.len(), 2, "{lines:#?}");
        assert!(lines[1].starts_with("INFO EC2 answers again"), "{lines:#?}");
        assert!(lines[1].ends_with("lasted_seconds=3.0"), "{lines:#?}");
    }
}
