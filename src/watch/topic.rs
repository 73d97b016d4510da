//! A topic: the newest state of one target, and the subscribers that share it.

use std::{sync::Arc, time::SystemTime};

use tokio::sync::{Notify, watch};

use super::{
    target::Target,
    view::{Degraded, Ended, State, TaskView},
};
use crate::{
    cache::{KeptTask, Snapshot},
    domain::{CallTime, UpstreamError},
};

/// The sending side of a topic.
pub(super) struct Topic {
    published: watch::Sender<Published>,
    /// Keeps the watched task in the cache when the bound of tasks evicts others.
    _kept: Option<KeptTask>,
}

/// The newest state, and the number of changes so far that have woken subscribers.
#[derive(Clone)]
struct Published {
    state: State,
    change: u64,
}

impl Topic {
    pub(super) fn new(state: State, kept: Option<KeptTask>) -> Self {
        Self { published: watch::Sender::new(Published { state, change: 0 }), _kept: kept }
    }

    /// Subscribes to the topic. `closed` is notified when the subscriber is dropped.
    pub(super) fn subscribe(&self, awaits_task: bool, closed: Arc<Notify>) -> Subscriber {
        Subscriber {
            published: self.published.subscribe(),
            seen: None,
            awaits_task,
            ended: false,
            _closed: NotifyOnDrop(closed),
        }
    }

    pub(super) fn has_subscribers(&self) -> bool {
        self.published.receiver_count() > 0
    }

    /// Returns whether the last state of the topic was published.
    pub(super) fn is_final(&self) -> bool {
        self.published.borrow().state.is_final()
    }

    /// Start of the EC2 call that the state rests on.
    pub(super) fn as_of(&self) -> Option<CallTime> {
        Some(self.published.borrow().state.view()?.as_of)
    }

    /// Publishes the state of the target in a snapshot.
    pub(super) fn update(&self, target: &Target, snapshot: &Snapshot) {
        match (target.find(snapshot), target) {
            (Some(task), _) => {
                if let Some(view) = TaskView::of(snapshot, task, None) {
                    self.publish_view(view);
                }
            }
            (None, Target::Task(_)) => self.end(Ended::Gone),
            (None, Target::NextTask { .. }) => {}
        }
    }

    /// Records that a refresh succeeded.
    pub(super) fn clear_degraded(&self) {
        self.set_degraded(None);
    }

    /// Records that a refresh failed at `now`. If the previous refresh failed too, its `since` is
    /// kept.
    pub(super) fn degrade(&self, error: UpstreamError, now: SystemTime) {
        let since = match self.degraded() {
            Some(degraded) => degraded.since,
            None => now,
        };
        self.set_degraded(Some(Degraded { error, since }));
    }

    pub(super) fn end(&self, ended: Ended) {
        self.publish(State::Ended(ended));
    }

    fn degraded(&self) -> Option<Degraded> {
        self.published.borrow().state.view()?.degraded.clone()
    }

    fn set_degraded(&self, degraded: Option<Degraded>) {
        let State::Known(view) = self.published.borrow().state.clone() else { return };
        self.publish(State::Known(TaskView { degraded, ..view }));
    }

    /// Publishes a view from a snapshot. Snapshots carry no errors, so `degraded` is kept unless
    /// the view rests on a newer call: that call has succeeded.
    fn publish_view(&self, mut view: TaskView) {
        if let Some(known) = self.published.borrow().state.view() {
            view.as_of = view.as_of.max(known.as_of);
            if view.as_of == known.as_of {
                view.degraded.clone_from(&known.degraded);
            }
        }
        self.publish(State::Known(view));
    }

    /// Replaces the state unless it is final, and wakes the subscribers if it has changed.
    fn publish(&self, state: State) {
        self.published.send_if_modified(|published| {
            if published.state.is_final() {
                return false;
            }
            let changed = published.state.is_changed_by(&state);
            published.change += u64::from(changed);
            published.state = state;
            changed
        });
    }
}

/// The receiving side of a topic.
pub(super) struct Subscriber {
    published: watch::Receiver<Published>,
    /// Number of the last change that was returned.
    seen: Option<u64>,
    awaits_task: bool,
    /// Set once the last state was returned.
    ended: bool,
    // Fields drop in order: the receiver must be gone when the poller counts the subscribers.
    _closed: NotifyOnDrop,
}

impl Subscriber {
    /// Waits for the next state, and returns the first one at once. Returns None after the last
    /// state. Cancel safe.
    pub(super) async fn next(&mut self) -> Option<State> {
        if self.ended {
            return None;
        }
        let seen = self.seen;
        // A topic that has subscribers is dropped only after its last state, or if the poller panics.
        let published = self.published.wait_for(|published| Some(published.change) != seen).await;
        let Published { state, change } = published.ok()?.clone();
        self.seen = Some(change);
        let shows_task = matches!(state, State::Known(_));
        // When a task appears, its subscriber continues on the topic of that task.
        self.ended = state.is_final() && !(self.awaits_task && shows_task);
        Some(state)
    }

    /// The task as last known, with the newest `as_of` and estimate.
    pub(super) fn current(&self) -> Option<TaskView> {
        self.published.borrow().state.view().cloned()
    }

    /// Returns whether the subscriber waits for a task to appear.
    pub(super) fn awaits_task(&self) -> bool {
        self.awaits_task
    }
}

/// Notifies the poller when a subscriber is gone.
struct NotifyOnDrop(Arc<Notify>);

impl Drop for NotifyOnDrop {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}
