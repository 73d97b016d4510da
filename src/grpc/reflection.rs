//! The requests of a reflection stream, which come one after the other.
//!
//! tonic-reflection reads a message when it has answered the one before, and tonic refuses one that is
//! too large as soon as its prefix is there. But a message that it cannot read ends the stream with
//! OK. So the edge follows the messages of both directions: a stream that ends with OK before each
//! request has its response was ended by a request that could not be read.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

use super::method::MAX_FOREIGN_MESSAGE_BYTES;
use crate::{
    api::{ApiError, GatewayReason},
    proto::framing::Messages,
};

/// What was read of the requests of one stream.
#[derive(Debug, Default)]
pub(super) struct Requests {
    count: AtomicUsize,
    longest: AtomicUsize,
}

impl Requests {
    /// The error of a stream that ended with OK after so many responses, if it has one.
    pub(super) fn error(&self, responses: usize) -> Option<ApiError> {
        let limit = MAX_FOREIGN_MESSAGE_BYTES;
        let longest = self.longest.load(Relaxed);
        if longest > limit {
            return Some(ApiError::too_large(limit, longest));
        }
        if responses >= self.count.load(Relaxed) {
            return None;
        }
        let message = format!(
            "a message of the request must be a ServerReflectionRequest of at most {limit} bytes"
        );
        Some(ApiError::gateway(GatewayReason::RequestUnreadable, message))
    }
}

/// The body of a reflection request.
#[derive(Debug)]
pub(super) struct RequestBody<B> {
    body: B,
    messages: Messages,
    requests: Arc<Requests>,
}

impl<B> RequestBody<B> {
    pub(super) fn new(body: B, requests: Arc<Requests>) -> Self {
        Self { body, messages: Messages::default(), requests }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for RequestBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let Self { body, messages, requests } = self.get_mut();
        let frame = ready!(Pin::new(body).poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            let longest = messages.read(data);
            requests.longest.fetch_max(longest, Relaxed);
            requests.count.store(messages.count(), Relaxed);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
