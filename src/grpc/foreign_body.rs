//! The body of a response of health or reflection: its status has the details of the error table,
//! and it ends at the caller's deadline.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::HeaderMap;
use hyper::body::{self, Frame, SizeHint};
use tokio::time::{Sleep, sleep_until};
use tonic::{Status, body::Body};

use super::{
    deadline::{self, Deadline},
    foreign_status,
    reflection::Requests,
    status::status,
};
use crate::proto::framing::Messages;

/// A body that does not know the error table, with what it lacks.
#[derive(Debug)]
pub(super) struct ForeignBody {
    inner: Body,
    deadline: Option<Pin<Box<Sleep>>>,
    /// The requests that reflection was to answer.
    requests: Option<Arc<Requests>>,
    responses: Messages,
    ended: bool,
}

impl ForeignBody {
    pub(super) fn new(
        inner: Body,
        deadline: Option<Deadline>,
        requests: Option<Arc<Requests>>,
    ) -> Self {
        let deadline = deadline.map(|Deadline(end)| Box::pin(sleep_until(end)));
        Self { inner, deadline, requests, responses: Messages::default(), ended: false }
    }

    fn complete(&mut self, frame: Frame<Bytes>) -> Frame<Bytes> {
        match frame.into_trailers() {
            Ok(trailers) => self.complete_trailers(trailers),
            Err(frame) => {
                if let Some(data) = frame.data_ref() {
                    self.responses.read(data);
                }
                frame
            }
        }
    }

    fn complete_trailers(&self, mut trailers: HeaderMap) -> Frame<Bytes> {
        let is_ok = trailers.get(Status::GRPC_STATUS).is_some_and(|code| code == "0");
        if is_ok
            && let Some(requests) = &self.requests
            && let Some(error) = requests.error(self.responses.count())
        {
            return ending(&status(error));
        }
        foreign_status::complete(&mut trailers);
        Frame::trailers(trailers)
    }
}

impl body::Body for ForeignBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        if let Poll::Ready(frame) = Pin::new(&mut self.inner).poll_frame(cx) {
            let Some(Ok(frame)) = frame else { return Poll::Ready(frame) };
            return Poll::Ready(Some(Ok(self.complete(frame))));
        }
        let Some(deadline) = &mut self.deadline else { return Poll::Pending };
        let passed = deadline.as_mut().poll(cx);
        self.ended = passed.is_ready();
        passed.map(|()| Some(Ok(ending(&deadline::exceeded()))))
    }

    fn is_end_stream(&self) -> bool {
        self.ended || self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        if self.deadline.is_some() { SizeHint::default() } else { self.inner.size_hint() }
    }
}

/// The trailers that end a response with a status.
pub(super) fn ending(status: &Status) -> Frame<Bytes> {
    let mut trailers = HeaderMap::new();
    // The gateway's own statuses are valid headers.
    let _ = status.add_header(&mut trailers);
    Frame::trailers(trailers)
}
