//! `WatchStoreImageTask`.

use std::time::Duration;

use futures_util::stream;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tonic::{Response, Status};

use super::{
    Service, WatchStream, convert, deadline,
    status::{GatewayReason, gateway_status, status_of_end, status_of_watch},
};
use crate::{
    domain::Scope,
    proto::{
        WatchStoreImageTaskRequest, WatchStoreImageTaskResponse,
        watch_store_image_task_response::Kind,
    },
    watch::{State, Watch},
};

impl Service {
    pub(super) async fn begin_watch(
        &self,
        request: WatchStoreImageTaskRequest,
        deadline: Option<Instant>,
    ) -> Result<Response<WatchStream>, Status> {
        let (query, heartbeat) = self.accounts.watch(&request)?;
        let scope = query.scope.clone();
        let watch = tokio::select! {
            watch = self.watches.watch(query) => watch,
            () = self.draining.cancelled() => return Err(shutting_down()),
        };
        let watch = watch.map_err(|error| status_of_watch(&error, &scope))?;
        let messages = Messages {
            watch,
            scope,
            heartbeat,
            last: Instant::now(),
            deadline,
            draining: self.draining.clone(),
            over: false,
        };
        let stream = stream::unfold(messages, async |mut messages| {
            let message = messages.next().await?;
            Some((message, messages))
        });
        Ok(Response::new(Box::pin(stream)))
    }
}

/// The messages of one watch. Asked for one at a time, when the client has room for it.
struct Messages {
    watch: Watch,
    scope: Scope,
    heartbeat: Duration,
    /// When the last message was sent.
    last: Instant,
    deadline: Option<Instant>,
    draining: CancellationToken,
    /// A status was sent, after which nothing may follow.
    over: bool,
}

impl Messages {
    async fn next(&mut self) -> Option<Result<WatchStoreImageTaskResponse, Status>> {
        if self.over {
            return None;
        }
        loop {
            let heartbeat = self.last + self.heartbeat;
            tokio::select! {
                biased;
                state = self.watch.next() => match state? {
                    State::Known(view) => {
                        self.last = Instant::now();
                        return Some(Ok(convert::watch_response(Kind::Update, &self.scope, &view)));
                    }
                    State::Ended(ended) => return self.end(status_of_end(&ended, &self.scope)),
                    State::Pending => {}
                },
                () = self.draining.cancelled() => return self.end(shutting_down()),
                () = sleep_until(self.deadline.unwrap_or(heartbeat)), if self.deadline.is_some() => {
                    return self.end(deadline::exceeded());
                }
                () = sleep_until(heartbeat) => {
                    self.last = Instant::now();
                    if let Some(view) = self.watch.current() {
                        return Some(Ok(convert::watch_response(Kind::Heartbeat, &self.scope, &view)));
                    }
                }
            }
        }
    }

    fn end<T>(&mut self, status: Status) -> Option<Result<T, Status>> {
        self.over = true;
        Some(Err(status))
    }
}

fn shutting_down() -> Status {
    gateway_status(GatewayReason::ShuttingDown, "the gateway shuts down; call again")
}
