//! The edge: a tower layer around all services of the port. It refuses what is no gRPC request, ends
//! a call at its caller's deadline, and gives each status its place in the error table.
//!
//! Handlers make their statuses from the table. Others do not: tonic refuses what it cannot read or
//! route, before any handler runs, and health and reflection know no table. Only a layer outside all
//! of them sees every status, so the gaps are filled in here ([`foreign_status`]). Two facts keep
//! that cheap:
//!
//! - A status without a message has its `grpc-status` among the response's *headers*. So a response
//!   that carries messages, such as a cached List, costs one look into its headers.
//! - Messages of the contract's own service end with a status from a handler, which has its details.
//!   So only bodies of health and reflection are wrapped to see their trailers.
//!
//! A panic in a handler is caught here, too. It is a bug, so it is logged at `error` and answered with
//! `INTERNAL`; without the layer the caller would see a reset stream, and call again.

use std::{
    future::{Ready, ready},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::{Context, Poll},
};

use http::{HeaderMap, Request, Response, StatusCode, header::CONTENT_TYPE};
use tokio::time::{Sleep, sleep_until};
use tonic::{Status, body::Body};
use tower::{Layer, Service};

use super::{
    deadline::{self, Deadline},
    foreign_status,
    status::status,
};
use crate::api::{ApiError, GatewayReason};

/// 16 KiB: the largest headers of a request, as HTTP/2 counts them. That is twice what gRPC libraries
/// themselves accept by default.
const MAX_HEADER_BYTES: usize = 16 << 10;

/// Bytes that HTTP/2 counts for a header beside its name and value (RFC 9113, section 10.5.1).
const HEADER_OVERHEAD: usize = 32;

/// Prefix of the paths of health and reflection.
const FOREIGN_SERVICES: &str = "/grpc.";

/// Puts [`Edge`] around all services.
#[derive(Clone, Copy, Debug)]
pub struct EdgeLayer;

/// The services of the port, with the edge around them.
#[derive(Clone, Debug)]
pub struct Edge<S> {
    inner: S,
}

/// The response of the edge.
#[derive(Debug)]
pub struct EdgeFuture<F> {
    state: State<F>,
}

#[derive(Debug)]
enum State<F> {
    /// The request was refused before any service saw it.
    Refused(Ready<Response<Body>>),
    Called {
        call: F,
        deadline: Option<Deadline>,
        /// Made when a call with a deadline has to wait, so that a hit needs no timer.
        timer: Option<Pin<Box<Sleep>>>,
        /// Whether the service is health or reflection.
        foreign: bool,
    },
}

impl<S> Layer<S> for EdgeLayer {
    type Service = Edge<S>;

    fn layer(&self, inner: S) -> Edge<S> {
        Edge { inner }
    }
}

impl<S, B> Service<Request<B>> for Edge<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
    S::Future: Unpin,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = EdgeFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let deadline = match admit(request.headers()) {
            Ok(deadline) => deadline,
            Err(refusal) => {
                return EdgeFuture { state: State::Refused(ready(refusal.response())) };
            }
        };
        if let Some(deadline) = deadline {
            request.extensions_mut().insert(deadline);
        }
        let foreign = request.uri().path().starts_with(FOREIGN_SERVICES);
        let call = self.inner.call(request);
        EdgeFuture { state: State::Called { call, deadline, timer: None, foreign } }
    }
}

impl<F, E> Future for EdgeFuture<F>
where
    F: Future<Output = Result<Response<Body>, E>> + Unpin,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        match &mut self.get_mut().state {
            State::Refused(response) => Pin::new(response).poll(cx).map(Ok),
            State::Called { call, deadline, timer, foreign } => {
                if let Poll::Ready(response) = poll_call(call, cx) {
                    return Poll::Ready(response.map(|response| complete(response, *foreign)));
                }
                let Some(Deadline(end)) = *deadline else { return Poll::Pending };
                let timer = timer.get_or_insert_with(|| Box::pin(sleep_until(end)));
                timer.as_mut().poll(cx).map(|()| Ok(deadline::exceeded().into_http()))
            }
        }
    }
}

/// Polls the call of a service. A panic ends it with `INTERNAL`.
fn poll_call<F, E>(call: &mut F, cx: &mut Context<'_>) -> Poll<Result<Response<Body>, E>>
where
    F: Future<Output = Result<Response<Body>, E>> + Unpin,
{
    // A call that panicked is not polled again, so it does not matter in what state it is.
    let Ok(poll) = catch_unwind(AssertUnwindSafe(|| Pin::new(call).poll(cx))) else {
        tracing::error!("a handler panicked; its caller gets INTERNAL");
        return Poll::Ready(Ok(bug().into_http()));
    };
    poll
}

fn bug() -> Status {
    let message = "the gateway has a bug, which its log describes";
    status(ApiError::gateway(GatewayReason::Internal, message))
}

/// The response, with details in its status.
fn complete(mut response: Response<Body>, foreign: bool) -> Response<Body> {
    foreign_status::complete(response.headers_mut());
    if foreign { response.map(foreign_status::complete_trailers) } else { response }
}

/// A request that no service gets to see.
struct Refusal {
    http: StatusCode,
    error: ApiError,
}

impl Refusal {
    fn response(self) -> Response<Body> {
        let mut response = status(self.error).into_http();
        *response.status_mut() = self.http;
        response
    }
}

impl From<ApiError> for Refusal {
    fn from(error: ApiError) -> Self {
        Self { http: StatusCode::OK, error }
    }
}

/// The deadline of a request whose headers are those of a gRPC request.
fn admit(headers: &HeaderMap) -> Result<Option<Deadline>, Refusal> {
    check_content_type(headers)?;
    check_size(headers)?;
    let deadline = deadline::deadline(headers)?;
    if deadline.is_some_and(Deadline::has_passed) {
        return Err(deadline::expired().into());
    }
    Ok(deadline)
}

/// HTTP status 415 is what gRPC asks for (gRPC over HTTP2, "Content-Type"). A browser reads it, too.
fn check_content_type(headers: &HeaderMap) -> Result<(), Refusal> {
    let content_type = headers.get(CONTENT_TYPE);
    if content_type.is_some_and(|value| is_grpc(value.as_bytes())) {
        return Ok(());
    }
    let error = ApiError::gateway(
        GatewayReason::UnsupportedContentType,
        format!("content-type must be application/grpc, got {content_type:?}"),
    );
    Err(Refusal { http: StatusCode::UNSUPPORTED_MEDIA_TYPE, error })
}

/// Whether a content type is `application/grpc` or `application/grpc+proto`, with any parameters.
fn is_grpc(content_type: &[u8]) -> bool {
    let Some(rest) = content_type.strip_prefix(b"application/grpc") else { return false };
    let parameters = rest.strip_prefix(b"+proto").unwrap_or(rest);
    matches!(parameters.first(), None | Some(b';' | b' '))
}

fn check_size(headers: &HeaderMap) -> Result<(), ApiError> {
    let mut bytes = 0;
    for (name, value) in headers {
        bytes += name.as_str().len() + value.len() + HEADER_OVERHEAD;
    }
    if bytes <= MAX_HEADER_BYTES {
        return Ok(());
    }
    Err(ApiError::gateway(
        GatewayReason::HeadersTooLarge,
        format!("the headers must have at most {MAX_HEADER_BYTES} bytes, got {bytes}"),
    ))
}

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        io::{self, Write},
        sync::{Arc, Mutex},
    };

    use tower::ServiceExt as _;

    use super::*;

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("no panic").write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    type Call = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    #[tokio::test]
    async fn a_panic_in_a_handler_is_internal_and_logged_at_error() {
        let log = Log::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).finish();
        let _capture = tracing::subscriber::set_default(subscriber);
        let service = tower::service_fn(|_: Request<()>| -> Call {
            Box::pin(async { panic!("a bug of this test's") })
        });
        let request = Request::builder().header(CONTENT_TYPE, "application/grpc");
        let request = request.body(()).expect("valid");
        let Ok(response) = EdgeLayer.layer(service).oneshot(request).await;
        let status = Status::from_header_map(response.headers()).expect("a status");
        assert_eq!(status.code(), tonic::Code::Internal);
        let log = String::from_utf8(log.0.lock().expect("no panic").clone()).expect("UTF-8");
        assert!(log.contains("ERROR") && log.contains("panicked"), "{log}");
    }

    #[test]
    fn a_grpc_content_type_has_protobuf_and_any_parameters() {
        for good in ["application/grpc", "application/grpc+proto", "application/grpc;charset=utf-8"]
        {
            assert!(is_grpc(good.as_bytes()), "{good}");
        }
        for bad in ["", "text/plain", "application/grpc-web", "application/grpc+json"] {
            assert!(!is_grpc(bad.as_bytes()), "{bad}");
        }
    }
}
