//! What a watch tells: its messages, and its end.

use std::{sync::Arc, time::SystemTime};

use super::{
    target::{Candidate, Target},
    trouble::Degraded,
};
use crate::{
    cache::{CacheError, MissingImage, Snapshot},
    domain::{CallTime, StoreImageTask, TaskKey},
};

/// The reason for a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The task is new, or has changed.
    Update,
    /// The task has not changed.
    Heartbeat,
}

/// One message of a watch. It carries the whole state.
#[derive(Clone, Debug)]
pub struct Message {
    /// The reason for the message.
    pub kind: Kind,
    /// The task as last known. None while the watch has no task.
    pub task: Option<TaskView>,
    /// The state of the search while the watch has no task.
    pub waiting: Option<Waiting>,
    /// Set while EC2 cannot be asked.
    pub degraded: Option<Degraded>,
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
        let estimated_completion = snapshot.estimated_completion(task);
        Some(Self { task: task.clone(), as_of, estimated_completion })
    }

    /// The target of a watch that follows the task.
    pub(super) fn target(&self) -> Target {
        Target::Task(self.task.key.clone())
    }

    pub(super) fn is_terminal(&self) -> bool {
        self.task.state.is_terminal()
    }
}

/// The state of the search while a watch has no task.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    /// EC2's code if it refuses to look the image up.
    pub ec2_code: Option<Arc<str>>,
    /// The start time of the latest task of the image that does not count.
    pub latest_start: Option<SystemTime>,
}

impl Waiting {
    pub(super) fn of(snapshot: &Snapshot, target: &Target) -> Self {
        let image = target.image();
        let latest = snapshot.tasks_of(image).find(|task| !target.counts(&task.key));
        Self {
            ec2_code: snapshot.refusal_of(&image),
            latest_start: latest.map(|task| task.key.start_time.0),
        }
    }
}

/// The reason for which a watch ends before its task has reached a terminal state.
#[derive(Clone, Debug)]
pub enum Ended {
    /// EC2 refuses the call for a reason that retries do not heal.
    Refused(CacheError),
    /// No such task has appeared in time.
    NoTask(Box<NoTask>),
    /// EC2 no longer lists the task.
    Gone(TaskKey),
    /// Another caller asked for a watch at the bound, and the caller of this one had most.
    Preempted,
    /// The poller panicked.
    Lost,
}

/// What was waited for, and what is known of it.
#[derive(Clone, Debug)]
pub struct NoTask {
    /// The task that was waited for.
    pub candidate: Candidate,
    /// What is known of the image.
    pub missing: MissingImage,
    /// The start time of the latest task of the image that does not count.
    pub latest_start: Option<SystemTime>,
}
