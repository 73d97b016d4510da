//! The state of a watched task, as its subscribers see it.

use std::{sync::Arc, time::SystemTime};

use crate::{
    cache::{CacheError, Snapshot},
    domain::{CallTime, StoreImageTask, UpstreamError},
};

/// The state of a watch.
#[derive(Clone, Debug)]
pub enum State {
    /// The image has no task yet.
    Pending,
    /// The task as last known.
    Known(TaskView),
    /// The watch ended without a terminal state of its task.
    Ended(Ended),
}

impl State {
    /// The task as last known, if there is one.
    pub(super) fn view(&self) -> Option<&TaskView> {
        match self {
            Self::Known(view) => Some(view),
            Self::Pending | Self::Ended(_) => None,
        }
    }

    /// Returns whether no other state follows for the same task.
    pub(super) fn is_final(&self) -> bool {
        match self {
            Self::Pending => false,
            Self::Known(view) => view.task.state.is_terminal(),
            Self::Ended(_) => true,
        }
    }

    /// Returns whether a subscriber that has seen `self` must be woken for `next`. A newer `as_of`
    /// or estimate alone does not wake it: a heartbeat reads those.
    pub(super) fn is_changed_by(&self, next: &Self) -> bool {
        match (self, next) {
            (Self::Pending, Self::Pending) => false,
            (Self::Known(old), Self::Known(new)) => {
                old.task != new.task || old.degraded != new.degraded
            }
            _ => true,
        }
    }
}

/// A task as last known.
#[derive(Clone, Debug)]
pub struct TaskView {
    /// The task.
    pub task: Arc<StoreImageTask>,
    /// Start of the EC2 call whose answer this view rests on.
    pub as_of: CallTime,
    /// Expected time of completion, estimated from the progress so far.
    pub estimated_completion: Option<SystemTime>,
    /// Set while EC2 cannot be asked.
    pub degraded: Option<Degraded>,
}

impl TaskView {
    /// The view of a task in a snapshot. The snapshot keeps no call time for a finished task: its
    /// view takes the time of `fallback`, or else of the newest call. None if there was no call.
    pub(super) fn of(
        snapshot: &Snapshot,
        task: &Arc<StoreImageTask>,
        fallback: Option<CallTime>,
    ) -> Option<Self> {
        let as_of = snapshot.observed_at(&task.key).or(fallback).or(snapshot.newest_call())?;
        Some(Self {
            task: task.clone(),
            as_of,
            estimated_completion: snapshot.estimated_completion(task),
            degraded: None,
        })
    }
}

/// The error that keeps the gateway from asking EC2 at present.
#[derive(Clone, Debug)]
pub struct Degraded {
    /// The error of the last refresh.
    pub error: UpstreamError,
    /// Time of the first of the failed refreshes in a row.
    pub since: SystemTime,
}

/// Compares codes and not whole errors: each failed call has a request ID of its own, and that
/// alone is not worth a message.
impl PartialEq for Degraded {
    fn eq(&self, other: &Self) -> bool {
        self.error.code == other.error.code && self.since == other.since
    }
}

/// The reason for which a watch ended before its task reached a terminal state.
#[derive(Clone, Debug)]
pub enum Ended {
    /// EC2 refuses the call for a reason that retries do not heal.
    Refused(CacheError),
    /// EC2 no longer lists the task.
    Gone,
}
