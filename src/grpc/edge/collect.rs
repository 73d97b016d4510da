//! Collecting: the body of a request is read whole before any service sees the request.
//!
//! The bytes that a peer can make the gateway hold are bounded by the method's largest message, and
//! a message that announces more is refused as soon as its prefix is there. A body that came in one
//! frame, as nearly all do, is neither copied nor allocated for here.

use std::{
    mem,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use hyper::body::Body;
use tower::BoxError;

use super::admission::Refusal;
use crate::{
    api::{ApiError, GatewayReason},
    proto::framing::{PREFIX_BYTES, announced_bytes},
};

/// Number of frames that are read at a time, so that a flood of empty frames holds up no timer.
const FRAMES_AT_A_TIME: usize = 64;

/// Collects one body.
#[derive(Debug)]
pub(super) struct Collector {
    /// Largest message, in bytes.
    max_message: usize,
    /// The first frame, until a second one comes.
    first: Bytes,
    /// All frames, from the second one on.
    joined: BytesMut,
}

impl Collector {
    pub(super) fn new(max_message: usize) -> Self {
        Self { max_message, first: Bytes::new(), joined: BytesMut::new() }
    }

    /// The whole body, once its end is there. Trailers are ignored.
    pub(super) fn poll<B>(
        &mut self,
        body: &mut B,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Bytes, Refusal>>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: Into<BoxError>,
    {
        for _ in 0..FRAMES_AT_A_TIME {
            let frame = match ready!(Pin::new(&mut *body).poll_frame(cx)) {
                None => return Poll::Ready(Ok(self.take())),
                Some(Ok(frame)) => frame,
                Some(Err(error)) => return Poll::Ready(Err(broken_off(&error.into()).into())),
            };
            let Ok(data) = frame.into_data() else { continue };
            self.append(data);
            self.check()?;
            if body.is_end_stream() {
                return Poll::Ready(Ok(self.take()));
            }
            self.detach();
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn append(&mut self, data: Bytes) {
        if self.bytes().is_empty() {
            self.first = data;
            return;
        }
        self.joined.extend(mem::take(&mut self.first));
        self.joined.extend(data);
    }

    /// Copies a first frame that has to wait for others. It is a part of the buffer in which HTTP/2 read it,
    /// with up to 16 KiB of other frames, and would keep the whole.
    fn detach(&mut self) {
        self.first = Bytes::copy_from_slice(&self.first);
    }

    fn bytes(&self) -> &[u8] {
        if self.joined.is_empty() { &self.first } else { &self.joined }
    }

    fn check(&self) -> Result<(), ApiError> {
        let bytes = self.bytes();
        let message = announced_bytes(bytes).unwrap_or(0);
        let found = message.max(bytes.len().saturating_sub(PREFIX_BYTES));
        if found > self.max_message {
            return Err(ApiError::too_large(self.max_message, found));
        }
        Ok(())
    }

    fn take(&mut self) -> Bytes {
        if self.joined.is_empty() {
            return mem::take(&mut self.first);
        }
        mem::take(&mut self.joined).freeze()
    }
}

/// The peer of such a stream is mostly gone, so that this reaches none.
fn broken_off(error: &BoxError) -> ApiError {
    ApiError::gateway(
        GatewayReason::RequestUnreadable,
        format!("the request must arrive whole, but broke off: {error}"),
    )
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, iter, task::Waker};

    use futures_util::{StreamExt as _, stream};
    use http_body_util::StreamBody;
    use hyper::body::Frame;

    use super::*;

    /// Invariant 7 (docs/invariants.md): bounds
    #[test]
    fn a_frame_that_waits_for_others_keeps_no_buffer() {
        let mut buffer = BytesMut::zeroed(16 << 10).freeze();
        let frames = [Ok::<_, Infallible>(Frame::data(buffer.split_to(1)))];
        let frames = stream::iter(frames).chain(stream::pending());
        let mut body = StreamBody::new(frames);
        let mut collector = Collector::new(1 << 20);
        let mut context = Context::from_waker(Waker::noop());
        assert!(collector.poll(&mut body, &mut context).is_pending());
        assert_eq!(collector.bytes(), [0]);
        assert!(buffer.is_unique(), "the frame is a copy");
    }

    #[test]
    fn a_flood_of_empty_frames_is_left_for_a_while() {
        let frames = iter::repeat_with(|| Ok::<_, Infallible>(Frame::data(Bytes::new())));
        let mut body = StreamBody::new(stream::iter(frames));
        let mut collector = Collector::new(1);
        let mut context = Context::from_waker(Waker::noop());
        for _ in 0..3 {
            assert!(matches!(collector.poll(&mut body, &mut context), Poll::Pending));
        }
    }
}
