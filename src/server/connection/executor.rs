//! Runs the tasks of streams. hyper polls no body whose client takes nothing, so only from outside can
//! such a stream be ended: its task is dropped, and HTTP/2 resets the stream.

use std::{future::poll_fn, pin::pin, sync::Arc, task::Poll};

use hyper::rt::Executor;

use super::{state::Connection, stream::Stream};

/// The executor of one connection.
#[derive(Clone)]
pub(super) struct StreamExecutor(pub(super) Arc<Connection>);

impl<F> Executor<F> for StreamExecutor
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, call: F) {
        let Some(stream) = self.0.take_opened() else {
            // Never so: hyper makes a call before it has its future run.
            tokio::spawn(call);
            return;
        };
        tokio::spawn(run(EndOnDrop(stream), call));
    }
}

/// Runs a call until it ends, or its stream is cut.
async fn run(stream: EndOnDrop, call: impl Future<Output = ()>) {
    let mut call = pin!(call);
    let EndOnDrop(stream) = &stream;
    poll_fn(|cx| {
        stream.wake_on_cut(cx);
        if stream.is_reset() {
            return Poll::Ready(());
        }
        call.as_mut().poll(cx)
    })
    .await;
}

/// Ends a stream, also if its call panics or the runtime drops it.
struct EndOnDrop(Arc<Stream>);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.end();
    }
}
