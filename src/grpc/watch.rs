//! The handler of `WatchStoreImageTask`, and the stream of its messages.

use std::{pin::Pin, sync::Arc, time::Duration};

use futures_util::{Stream, stream};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::{
    deadline::{self, Deadline},
    status::status,
};
use crate::{
    api::{ApiError, ScopePolicy, WatchCall, watch_message},
    domain::Scope,
    proto::{
        WatchStoreImageTaskRequest, WatchStoreImageTaskResponse,
        watch_store_image_task_response::Kind,
    },
    watch::{State, Watch, Watches},
};

/// The messages of one watch.
pub(super) type WatchStream =
    Pin<Box<dyn Stream<Item = Result<WatchStoreImageTaskResponse, Status>> + Send>>;

/// Begins watches for callers.
pub(super) struct WatchHandler {
    watches: Watches,
    policy: Arc<ScopePolicy>,
    draining: CancellationToken,
}

impl WatchHandler {
    pub(super) fn new(
        watches: Watches,
        policy: Arc<ScopePolicy>,
        draining: CancellationToken,
    ) -> Self {
        Self { watches, policy, draining }
    }

    /// Begins a watch. Returns when the first state of the task is known, or the wait for a task
    /// begins.
    pub(super) async fn begin(
        &self,
        request: WatchStoreImageTaskRequest,
        deadline: Option<Deadline>,
    ) -> Result<WatchStream, Status> {
        let WatchCall { query, heartbeat } =
            WatchCall::parse(&request, &self.policy).map_err(status)?;
        let scope = query.scope.clone();
        let watch = tokio::select! {
            watch = self.watches.watch(query) => watch,
            () = self.draining.cancelled() => return Err(shutting_down()),
        };
        let watch = watch.map_err(|error| status(ApiError::watch(&error, &scope)))?;
        let messages = Messages {
            watch,
            scope,
            heartbeat,
            last_sent: Instant::now(),
            deadline,
            draining: self.draining.clone(),
            ended: false,
        };
        Ok(messages.into_stream())
    }
}

/// The state of one stream. A message is made only when the client can take it.
struct Messages {
    watch: Watch,
    scope: Scope,
    heartbeat: Duration,
    /// Time at which the last message was sent.
    last_sent: Instant,
    deadline: Option<Deadline>,
    draining: CancellationToken,
    /// Set once a status was sent. No message may follow it.
    ended: bool,
}

/// The next event of a stream.
enum Event {
    State(Option<State>),
    Draining,
    DeadlineExceeded,
    HeartbeatDue,
}

impl Messages {
    fn into_stream(self) -> WatchStream {
        Box::pin(stream::unfold(self, async |mut messages| {
            let message = messages.next().await?;
            Some((message, messages))
        }))
    }

    async fn next(&mut self) -> Option<Result<WatchStoreImageTaskResponse, Status>> {
        if self.ended {
            return None;
        }
        loop {
            match self.next_event().await {
                Event::State(None) => return None,
                Event::State(Some(State::Known(view))) => {
                    self.last_sent = Instant::now();
                    return Some(Ok(watch_message(Kind::Update, &self.scope, &view)));
                }
                Event::State(Some(State::Ended(ended))) => {
                    return self.end(status(ApiError::ended(&ended, &self.scope)));
                }
                Event::State(Some(State::Pending)) => {}
                Event::Draining => return self.end(shutting_down()),
                Event::DeadlineExceeded => return self.end(deadline::exceeded()),
                Event::HeartbeatDue => {
                    self.last_sent = Instant::now();
                    if let Some(view) = self.watch.current() {
                        return Some(Ok(watch_message(Kind::Heartbeat, &self.scope, &view)));
                    }
                }
            }
        }
    }

    async fn next_event(&mut self) -> Event {
        let heartbeat_due = self.last_sent + self.heartbeat;
        let Deadline(deadline) = self.deadline.unwrap_or(Deadline(heartbeat_due));
        tokio::select! {
            // States come first, so that a terminal state is sent even if the stream ends at that
            // moment.
            biased;
            state = self.watch.next() => Event::State(state),
            () = self.draining.cancelled() => Event::Draining,
            () = sleep_until(deadline), if self.deadline.is_some() => Event::DeadlineExceeded,
            () = sleep_until(heartbeat_due) => Event::HeartbeatDue,
        }
    }

    fn end<T>(&mut self, status: Status) -> Option<Result<T, Status>> {
        self.ended = true;
        Some(Err(status))
    }
}

fn shutting_down() -> Status {
    status(ApiError::shutting_down())
}
