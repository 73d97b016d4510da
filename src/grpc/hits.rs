//! The hot path of a List: a response that was cached is sent again, framed as it was, without
//! tonic. Nothing is decoded, validated, encoded or copied.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, header::CONTENT_TYPE};
use hyper::body::{self, Frame};
use tonic::{Status, body::Body, metadata::GRPC_CONTENT_TYPE};

use super::{
    metadata::CacheStatusHeaders,
    response_cache::{CachedResponse, ResponseCache},
};
use crate::cache::Outcome;

/// Cached responses, and the headers with which they are sent.
pub(super) struct Hits {
    pub(super) responses: ResponseCache,
    pub(super) headers: CacheStatusHeaders,
}

impl Hits {
    /// Creates a cache of at most `max_answer_bytes` bytes. Must be called on a tokio runtime.
    pub(super) fn new(ttl: Duration, max_answer_bytes: u64) -> Self {
        Self {
            responses: ResponseCache::new(max_answer_bytes),
            headers: CacheStatusHeaders::new(ttl),
        }
    }

    /// The cached response to a byte-identical request, if it is fresh enough.
    pub(super) fn response(&self, request: &[u8]) -> Option<Response<Body>> {
        let cached = self.responses.get(request)?;
        let age = age(&cached)?;
        let mut headers = self.headers.metadata(&Outcome::Hit, age).into_headers();
        headers.insert(CONTENT_TYPE, GRPC_CONTENT_TYPE);
        let message = Some(cached.response.framed().clone());
        let mut response = Response::new(Body::new(ReadyBody { message, ended: false }));
        *response.headers_mut() = headers;
        Some(response)
    }
}

/// The age of a cached response, if it is still valid.
fn age(cached: &CachedResponse) -> Option<Duration> {
    let scope = cached.scope.upgrade()?;
    scope.revalidate(&cached.validator, cached.max_staleness)
}

/// A body with one message that is there already, and the trailers of success.
struct ReadyBody {
    message: Option<Bytes>,
    ended: bool,
}

impl body::Body for ReadyBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(message) = self.message.take() {
            return Poll::Ready(Some(Ok(Frame::data(message))));
        }
        if self.ended {
            return Poll::Ready(None);
        }
        self.ended = true;
        Poll::Ready(Some(Ok(Frame::trailers(success()))))
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }
}

fn success() -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert(Status::GRPC_STATUS, HeaderValue::from_static("0"));
    trailers
}
