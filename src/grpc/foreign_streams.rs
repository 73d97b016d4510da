//! The streams of health and reflection: bounded in number, and ended in a drain.
//!
//! tonic's services bound neither. Each stream holds a task and a window of its connection, and a
//! reflection stream lasts until its client ends it.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::{Frame, SizeHint};
use tonic::{Status, body::Body};
use tower::{Layer, Service};

use super::{
    connection::{caller, lifetime},
    foreign_body::ending,
    method::Method,
    status::{refusal, status},
};
use crate::{
    api::{ApiError, GatewayReason, Lifetime},
    domain::{FairPermit, FairPermits},
};

/// Maximum number of streams of health and reflection that are open in the process. A client library
/// has at most one health watch on each connection, and people close reflection at once.
const MAX_FOREIGN_STREAMS: usize = 1_000;

/// Puts [`ForeignStreams`] around all services.
#[derive(Clone, Debug)]
pub struct ForeignStreamsLayer(FairPermits);

/// The services of the port, with the streams of health and reflection bounded.
#[derive(Clone, Debug)]
pub struct ForeignStreams<S> {
    inner: S,
    permits: FairPermits,
}

/// The response to a call.
#[derive(Debug)]
pub struct ForeignStreamsFuture<F>(State<F>);

#[derive(Debug)]
enum State<F> {
    Refused(Option<Response<Body>>),
    Called { call: F, place: Option<Place> },
}

/// The place of one stream.
#[derive(Debug)]
struct Place {
    permit: FairPermit,
    lifetime: Lifetime,
}

impl Default for ForeignStreamsLayer {
    fn default() -> Self {
        Self(FairPermits::new("streams of health and reflection", None, MAX_FOREIGN_STREAMS))
    }
}

impl<S> Layer<S> for ForeignStreamsLayer {
    type Service = ForeignStreams<S>;

    fn layer(&self, inner: S) -> ForeignStreams<S> {
        ForeignStreams { inner, permits: self.0.clone() }
    }
}

impl<S, B> Service<Request<B>> for ForeignStreams<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
    S::Future: Unpin,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = ForeignStreamsFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let mut place = None;
        if Method::of(request.uri().path()).is_foreign_stream() {
            let Some(permit) = self.permits.acquire(&caller(request.extensions())) else {
                return ForeignStreamsFuture(State::Refused(Some(refusal(too_many()))));
            };
            let lifetime = lifetime(request.extensions());
            place = Some(Place { permit, lifetime });
        }
        ForeignStreamsFuture(State::Called { call: self.inner.call(request), place })
    }
}

impl<F, E> Future for ForeignStreamsFuture<F>
where
    F: Future<Output = Result<Response<Body>, E>> + Unpin,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        match &mut self.get_mut().0 {
            State::Refused(response) => Poll::Ready(Ok(response.take().unwrap_or_default())),
            State::Called { call, place } => {
                let response = ready!(Pin::new(call).poll(cx));
                let Some(place) = place.take() else { return Poll::Ready(response) };
                Poll::Ready(response.map(|response| response.map(|body| place.hold(body))))
            }
        }
    }
}

impl Place {
    /// A body that keeps the place, and ends with its connection.
    fn hold(self, body: Body) -> Body {
        Body::new(StreamBody { open: Some(Open { body, end: Box::pin(self.end()) }) })
    }

    /// Waits until the stream has to end. Returns why.
    async fn end(mut self) -> ApiError {
        tokio::select! {
            () = self.lifetime.watch_ends() => ApiError::shutting_down(),
            () = self.permit.preempted() => ApiError::preempted(),
        }
    }
}

/// The body of a stream of health or reflection.
struct StreamBody {
    /// None once the stream has ended.
    open: Option<Open>,
}

struct Open {
    body: Body,
    /// Keeps the place of the stream, and completes when the stream has to end.
    end: Pin<Box<dyn Future<Output = ApiError> + Send>>,
}

impl hyper::body::Body for StreamBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Some(open) = &mut self.open else { return Poll::Ready(None) };
        // First what there is to say: a health watcher reads NOT_SERVING before its stream ends.
        if let Poll::Ready(frame) = Pin::new(&mut open.body).poll_frame(cx) {
            return Poll::Ready(frame);
        }
        let why = ready!(open.end.as_mut().poll(cx));
        self.open = None;
        Poll::Ready(Some(Ok(ending(&status(why)))))
    }

    fn is_end_stream(&self) -> bool {
        self.open.as_ref().is_none_or(|open| open.body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.open.as_ref().map_or_else(SizeHint::default, |open| open.body.size_hint())
    }
}

fn too_many() -> ApiError {
    ApiError::gateway(
        GatewayReason::TooManyStreams,
        format!("{MAX_FOREIGN_STREAMS} streams of health and reflection are open already"),
    )
}
