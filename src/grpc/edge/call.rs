//! The steps of one call through the edge.

use std::{
    future::poll_fn,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, request::Parts};
use http_body_util::Full;
use hyper::body;
use tokio::time::timeout;
use tonic::{Status, body::Body};
use tower::{BoxError, Service};

use super::{
    admission::{Refusal, admit},
    collect::Collector,
};
use crate::{
    api::{ApiError, GatewayReason},
    grpc::{
        deadline::{self, Deadline},
        foreign_body::ForeignBody,
        foreign_status,
        hits::Hits,
        method::Method,
        reflection::{RequestBody, Requests},
        status::status,
    },
    proto::framing::only_message,
};

type Answer<E> = Result<Response<Body>, E>;
type Rest<E> = Pin<Box<dyn Future<Output = Answer<E>> + Send>>;

/// The response of the edge.
pub struct EdgeFuture<S: Service<Request<Body>>, B> {
    /// The call, until it is polled.
    new: Option<Call<S, B>>,
    /// The rest of a call that is no hit, or whose body was not there at once.
    rest: Option<Rest<S::Error>>,
}

impl<S: Service<Request<Body>>, B> EdgeFuture<S, B> {
    pub(super) fn new(call: Call<S, B>) -> Self {
        Self { new: Some(call), rest: None }
    }
}

/// Nothing is pinned in place.
impl<S: Service<Request<Body>>, B> Unpin for EdgeFuture<S, B> {}

impl<S, B> Future for EdgeFuture<S, B>
where
    S: Service<Request<Body>, Response = Response<Body>> + Send + 'static,
    S::Future: Send,
    S::Error: Send,
    B: body::Body<Data = Bytes> + Unpin + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Output = Answer<S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let future = self.get_mut();
        // A call that panicked is not polled again, so it does not matter in what state it is.
        let Ok(poll) = catch_unwind(AssertUnwindSafe(|| future.poll_call(cx))) else {
            tracing::error!("a handler panicked; its caller gets INTERNAL");
            return Poll::Ready(Ok(bug().into_http()));
        };
        poll
    }
}

impl<S, B> EdgeFuture<S, B>
where
    S: Service<Request<Body>, Response = Response<Body>> + Send + 'static,
    S::Future: Send,
    S::Error: Send,
    B: body::Body<Data = Bytes> + Unpin + Send + 'static,
    B::Error: Into<BoxError>,
{
    fn poll_call(&mut self, cx: &mut Context<'_>) -> Poll<Answer<S::Error>> {
        if let Some(call) = self.new.take() {
            match call.begin(cx) {
                Ok(response) => return Poll::Ready(Ok(response)),
                Err(rest) => self.rest = Some(rest),
            }
        }
        match &mut self.rest {
            Some(rest) => rest.as_mut().poll(cx),
            None => Poll::Pending,
        }
    }
}

/// One call of a client's.
pub(super) struct Call<S, B> {
    pub(super) hits: Arc<Hits>,
    pub(super) request_timeout: Duration,
    /// The body of the request, until it is collected.
    pub(super) body: B,
    pub(super) target: Target<S>,
}

/// The service that is called, and all that it gets but the body.
pub(super) struct Target<S> {
    pub(super) service: S,
    pub(super) head: Parts,
    pub(super) method: Method,
    /// Known once the headers are admitted.
    pub(super) deadline: Option<Deadline>,
}

impl<S, B> Call<S, B>
where
    S: Service<Request<Body>, Response = Response<Body>> + Send + 'static,
    S::Future: Send,
    S::Error: Send,
    B: body::Body<Data = Bytes> + Unpin + Send + 'static,
    B::Error: Into<BoxError>,
{
    /// Answers the call, if that can be done at once. Otherwise returns what remains to be done.
    fn begin(mut self, cx: &mut Context<'_>) -> Result<Response<Body>, Rest<S::Error>> {
        match admit(&self.target.head) {
            Ok(deadline) => self.target.deadline = deadline,
            Err(refusal) => return Ok(refusal.response()),
        }
        let Some(max_message) = self.target.method.max_message() else {
            return Err(Box::pin(self.hand_on()));
        };
        let mut collector = Collector::new(max_message);
        match collector.poll(&mut self.body, cx) {
            Poll::Ready(Ok(request)) => match self.hit(&request) {
                Some(hit) => Ok(hit),
                None => Err(Box::pin(self.serve(request))),
            },
            Poll::Ready(Err(refusal)) => Ok(refusal.response()),
            Poll::Pending => Err(Box::pin(self.wait(collector))),
        }
    }

    /// Waits for the rest of the body, and answers the call.
    async fn wait(mut self, collector: Collector) -> Answer<S::Error> {
        detach(&mut self.target.head);
        let request = match self.collect(collector).await {
            Ok(request) => request,
            Err(refusal) => return Ok(refusal.response()),
        };
        match self.hit(&request) {
            Some(hit) => Ok(hit),
            None => self.serve(request).await,
        }
    }

    async fn collect(&mut self, mut collector: Collector) -> Result<Bytes, Refusal> {
        let body = &mut self.body;
        let arrives =
            deadline::before(self.target.deadline, poll_fn(|cx| collector.poll(body, cx)));
        let limit = self.request_timeout;
        match timeout(limit, arrives).await {
            Ok(arrived) => arrived?,
            Err(_) => Err(deadline::not_arrived(limit).into()),
        }
    }

    fn hit(&self, request: &[u8]) -> Option<Response<Body>> {
        if self.target.method != Method::List || is_encoded(&self.target.head.headers) {
            return None;
        }
        self.hits.response(only_message(request)?)
    }

    async fn serve(self, request: Bytes) -> Answer<S::Error> {
        let Self { target, .. } = self;
        let (method, deadline) = (target.method, target.deadline);
        // The call may wait for EC2. A part of a buffer that HTTP/2 has read would keep the whole.
        let request = Bytes::copy_from_slice(&request);
        let response = target.call(Body::new(Full::new(request))).await?;
        match method {
            Method::HealthCheck | Method::HealthWatch => {
                Ok(response.map(|body| foreign(body, deadline, None)))
            }
            _ => Ok(response),
        }
    }

    /// Calls the service with a body that is not collected.
    async fn hand_on(self) -> Answer<S::Error> {
        let Self { target, body, .. } = self;
        if target.method != Method::Reflection {
            // There is no service to read a body.
            return target.call(Body::empty()).await;
        }
        let deadline = target.deadline;
        let requests = Arc::new(Requests::default());
        let body = Body::new(RequestBody::new(body, requests.clone()));
        let response = target.call(body).await?;
        Ok(response.map(|body| foreign(body, deadline, Some(requests))))
    }
}

fn foreign(body: Body, deadline: Option<Deadline>, requests: Option<Arc<Requests>>) -> Body {
    Body::new(ForeignBody::new(body, deadline, requests))
}

impl<S> Target<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
{
    async fn call(mut self, body: Body) -> Answer<S::Error> {
        let mut request = Request::from_parts(self.head, body);
        if let Some(deadline) = self.deadline {
            request.extensions_mut().insert(deadline);
        }
        let answer = deadline::before(self.deadline, self.service.call(request)).await;
        let mut response = match answer {
            Ok(answer) => answer?,
            Err(expired) => status(expired).into_http(),
        };
        foreign_status::complete(response.headers_mut());
        Ok(response)
    }
}

/// Copies the head of a request, whose texts are parts of the buffer in which HTTP/2 read them. They would
/// keep the whole, with up to 16 KiB of other frames.
fn detach(head: &mut Parts) {
    let mut headers = HeaderMap::with_capacity(head.headers.len());
    for (name, value) in &head.headers {
        // A copy of what is valid is valid.
        let copy = HeaderValue::from_bytes(value.as_bytes());
        let name = HeaderName::from_bytes(name.as_str().as_bytes());
        if let (Ok(name), Ok(copy)) = (name, copy) {
            headers.append(name, copy);
        }
    }
    head.headers = headers;
    if let Ok(uri) = head.uri.to_string().parse() {
        head.uri = uri;
    }
}

/// Whether the messages of a request may be compressed. tonic decodes those, or refuses them.
fn is_encoded(headers: &HeaderMap) -> bool {
    headers.get("grpc-encoding").is_some_and(|encoding| encoding != "identity")
}

fn bug() -> Status {
    let message = "the gateway has a bug, which its log describes";
    status(ApiError::gateway(GatewayReason::Internal, message))
}
