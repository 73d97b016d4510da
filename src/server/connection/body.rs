//! The bodies of a call, with their bytes counted.
//!
//! What is received is held until the call is answered. What is sent is held until it has been written
//! to the connection: [`SentData`] notes that itself, wherever HTTP/2 keeps it meanwhile.

use std::{
    io::IoSlice,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::{
    account::Direction,
    stream::{OVERHEAD, Stream},
};

/// The body of a request.
pub(super) struct ReceivedBody {
    body: Incoming,
    stream: Arc<Stream>,
}

impl ReceivedBody {
    pub(super) fn new(body: Incoming, stream: Arc<Stream>) -> Self {
        if body.is_end_stream() {
            stream.complete_request();
        }
        Self { body, stream }
    }
}

impl Body for ReceivedBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(data) = frame.data_ref()
        {
            self.stream.receive(data.len());
        }
        if matches!(polled, Poll::Ready(None)) || self.body.is_end_stream() {
            self.stream.complete_request();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The body of a response.
pub(super) struct SentBody<B> {
    body: B,
    stream: Arc<Stream>,
}

impl<B> SentBody<B> {
    pub(super) fn new(body: B, stream: Arc<Stream>) -> Self {
        Self { body, stream }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for SentBody<B> {
    type Data = SentData;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<SentData>, B::Error>>> {
        if self.stream.has_to_wait() {
            return Poll::Pending;
        }
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        polled.map_ok(|frame| frame.map_data(|bytes| SentData::new(bytes, self.stream.clone())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Bytes of a response. They count as held until they have been written or dropped.
pub(super) struct SentData {
    bytes: Bytes,
    stream: Arc<Stream>,
}

impl SentData {
    pub(super) fn new(bytes: Bytes, stream: Arc<Stream>) -> Self {
        // The smallest answer that waits keeps a stream open.
        stream.hold(Direction::ToSend, OVERHEAD + bytes.len());
        Self { bytes, stream }
    }
}

impl Buf for SentData {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        self.bytes.chunks_vectored(slices)
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
        self.stream.take(count);
    }
}

impl Drop for SentData {
    fn drop(&mut self) {
        self.stream.release(Direction::ToSend, OVERHEAD + self.bytes.remaining());
        self.stream.go_on_if_taken();
    }
}
