//! The handler of `WatchStoreImageTask`, and the stream of its messages.

use std::{pin::Pin, sync::Arc};

use futures_util::{Stream, StreamExt as _, stream};
use tokio::time::sleep_until;
use tonic::Status;

use super::{
    deadline::{self, Deadline},
    status::status,
};
use crate::{
    api::{ApiError, Lifetime, Phase, ScopePolicy, WatchCall, watch_message},
    domain::{Caller, Scope},
    proto::{WatchStoreImageTaskRequest, WatchStoreImageTaskResponse},
    watch::{Watch, Watches},
};

type WatchResult = Result<WatchStoreImageTaskResponse, Status>;

/// The messages of one watch.
pub(super) type WatchStream = Pin<Box<dyn Stream<Item = WatchResult> + Send>>;

/// Begins watches for callers.
pub(super) struct WatchHandler {
    watches: Watches,
    policy: Arc<ScopePolicy>,
}

impl WatchHandler {
    pub(super) fn new(watches: Watches, policy: Arc<ScopePolicy>) -> Self {
        Self { watches, policy }
    }

    /// Begins a watch. Returns with its first message, so that the headers of the response go out no
    /// earlier: gRPC libraries retry a call that is refused before.
    pub(super) async fn begin(
        &self,
        request: WatchStoreImageTaskRequest,
        caller: &Caller,
        deadline: Option<Deadline>,
        lifetime: Lifetime,
    ) -> Result<WatchStream, Status> {
        let mut messages = self.open(&request, caller, deadline, lifetime).map_err(status)?;
        let first = match messages.next().await {
            Some(first) => first?,
            None => return Ok(Box::pin(stream::empty())),
        };
        let first = stream::once(async { Ok(first) });
        Ok(Box::pin(first.chain(messages.into_stream())))
    }

    fn open(
        &self,
        request: &WatchStoreImageTaskRequest,
        caller: &Caller,
        deadline: Option<Deadline>,
        mut lifetime: Lifetime,
    ) -> Result<Messages, ApiError> {
        if lifetime.has_reached(Phase::Ending) {
            return Err(ApiError::shutting_down());
        }
        let call = WatchCall::parse(request, &self.policy)?;
        let scope = call.query.scope.clone();
        call.check_started_after(self.watches.newest_start(&scope))?;
        let watch = self.watches.watch(call.query, caller).map_err(ApiError::too_many_watches)?;
        let connection_ends = Box::pin(async move { lifetime.watch_ends().await });
        Ok(Messages { watch, scope, deadline, connection_ends, ended: false })
    }
}

/// The state of one stream. A message is made only when the client can take it.
struct Messages {
    watch: Watch,
    scope: Scope,
    deadline: Option<Deadline>,
    /// Completes when the watch has to end because its connection does.
    connection_ends: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// Set once a status was sent. No message may follow it.
    ended: bool,
}

impl Messages {
    fn into_stream(self) -> impl Stream<Item = WatchResult> + Send {
        stream::unfold(self, async |mut messages| {
            let message = messages.next().await?;
            Some((message, messages))
        })
    }

    async fn next(&mut self) -> Option<WatchResult> {
        if self.ended {
            return None;
        }
        let deadline = self.deadline;
        let exceeded = async {
            match deadline {
                Some(Deadline(end)) => sleep_until(end).await,
                None => std::future::pending().await,
            }
        };
        let next = tokio::select! {
            // Messages come first, so that a terminal state is sent even if the stream ends at that
            // moment.
            biased;
            next = self.watch.next() => next?,
            () = &mut self.connection_ends => {
                return self.end(status(ApiError::shutting_down()));
            }
            () = exceeded => return self.end(deadline::exceeded()),
        };
        match next {
            Ok(message) => Some(Ok(watch_message(&self.scope, &message))),
            Err(ended) => self.end(status(ApiError::ended(&ended, &self.scope))),
        }
    }

    fn end<T>(&mut self, status: Status) -> Option<Result<T, Status>> {
        self.ended = true;
        Some(Err(status))
    }
}
