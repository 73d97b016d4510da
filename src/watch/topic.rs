//! A topic: the newest state of one watched task, shared by all who watch it.

use std::{sync::Arc, time::SystemTime};

use tokio::sync::{Notify, watch};

use crate::{
    cache::{CacheError, Query, Snapshot},
    domain::{BucketName, CallTime, ImageId, StoreImageTask, TaskKey, UpstreamError},
};

/// What a topic is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Target {
    /// A task that was seen.
    Task(TaskKey),
    /// The first task of an image to show up.
    NextTask { image: ImageId, bucket: Option<BucketName> },
}

impl Target {
    /// What has to be known.
    pub(super) fn query(&self) -> Query {
        match self {
            Self::Task(key) => Query::Task(key.clone()),
            Self::NextTask { image, bucket } => {
                Query::Latest { images: [*image].into(), bucket: bucket.clone() }
            }
        }
    }

    /// The task, where the ledger has it.
    pub(super) fn find<'a>(&self, snapshot: &'a Snapshot) -> Option<&'a Arc<StoreImageTask>> {
        match self {
            Self::Task(key) => snapshot.task(key),
            Self::NextTask { image, bucket } => {
                snapshot.latest(image, bucket.as_ref().map(BucketName::as_str))
            }
        }
    }
}

/// What a subscriber sees.
#[derive(Clone, Debug)]
pub enum State {
    /// The task has not shown up yet.
    Pending,
    /// The task as last known.
    Known(TaskView),
    /// The watch is over, and not by a terminal state.
    Ended(Ended),
}

/// A task as last known.
#[derive(Clone, Debug)]
pub struct TaskView {
    /// The task.
    pub task: Arc<StoreImageTask>,
    /// When the call started that told of it.
    pub as_of: CallTime,
    /// When it will be completed, by the gateway's estimate.
    pub estimated_completion: Option<SystemTime>,
    /// Set while EC2 cannot be asked.
    pub degraded: Option<Degraded>,
}

impl TaskView {
    /// A task as the ledger has it; a finished one is as of `otherwise` or the newest call.
    pub(super) fn of(
        snapshot: &Snapshot,
        task: &Arc<StoreImageTask>,
        otherwise: Option<CallTime>,
    ) -> Option<Self> {
        Some(Self {
            task: task.clone(),
            as_of: snapshot.observed_at(&task.key).or(otherwise).or(snapshot.newest_call())?,
            estimated_completion: snapshot.estimated_completion(task),
            degraded: None,
        })
    }

    fn differs(&self, other: &Self) -> bool {
        self.task != other.task || self.degraded != other.degraded
    }
}

/// EC2 cannot be asked at present.
#[derive(Clone, Debug)]
pub struct Degraded {
    /// Why.
    pub error: UpstreamError,
    /// Since when.
    pub since: SystemTime,
}

/// It is the same trouble while the code is the same: each failure has a request ID of its own.
impl PartialEq for Degraded {
    fn eq(&self, other: &Self) -> bool {
        self.error.code == other.error.code && self.since == other.since
    }
}

/// Why a watch is over.
#[derive(Clone, Debug)]
pub enum Ended {
    /// EC2 refuses, and that does not heal by itself.
    Refused(CacheError),
    /// EC2 stopped listing the task.
    Gone,
}

/// The sending side.
pub(super) struct Topic {
    state: watch::Sender<Published>,
}

/// A state, and how many changes came before it: what differs only in `as_of` and the estimate is
/// not a change that a subscriber is woken for.
#[derive(Clone)]
struct Published {
    state: State,
    change: u64,
}

impl Topic {
    pub(super) fn new(state: State) -> Self {
        Self { state: watch::Sender::new(Published { state, change: 0 }) }
    }

    pub(super) fn has_subscribers(&self) -> bool {
        self.state.receiver_count() > 0
    }

    pub(super) fn is_over(&self) -> bool {
        match &self.state.borrow().state {
            State::Pending => false,
            State::Known(view) => view.task.state.is_terminal(),
            State::Ended(_) => true,
        }
    }

    /// The call that the state is from.
    pub(super) fn as_of(&self) -> Option<CallTime> {
        match &self.state.borrow().state {
            State::Known(view) => Some(view.as_of),
            State::Pending | State::Ended(_) => None,
        }
    }

    /// Takes over what a ledger knows.
    pub(super) fn learn(&self, target: &Target, snapshot: &Snapshot) {
        match (target.find(snapshot), target) {
            (Some(task), _) => {
                if let Some(view) = TaskView::of(snapshot, task, None) {
                    self.publish_update(view);
                }
            }
            (None, Target::Task(_)) => self.publish(State::Ended(Ended::Gone)),
            (None, Target::NextTask { .. }) => {}
        }
    }

    /// The last refresh succeeded, or failed in this way.
    pub(super) fn set_degraded(&self, error: Option<(UpstreamError, SystemTime)>) {
        let State::Known(mut view) = self.state.borrow().state.clone() else { return };
        let known_since = view.degraded.as_ref().map(|degraded| degraded.since);
        view.degraded =
            error.map(|(error, now)| Degraded { error, since: known_since.unwrap_or(now) });
        self.publish(State::Known(view));
    }

    pub(super) fn end(&self, why: Ended) {
        self.publish(State::Ended(why));
    }

    /// A snapshot from a ledger knows nothing of trouble: what is set stays until a refresh
    /// succeeds, unless this is that success.
    fn publish_update(&self, mut news: TaskView) {
        if let State::Known(known) = &self.state.borrow().state {
            news.as_of = news.as_of.max(known.as_of);
            if news.as_of == known.as_of {
                news.degraded.clone_from(&known.degraded);
            }
        }
        self.publish(State::Known(news));
    }

    fn publish(&self, state: State) {
        if self.is_over() {
            return;
        }
        // Who waits is only woken by a change; a heartbeat reads what is there.
        self.state.send_if_modified(|published| {
            let changed = match (&published.state, &state) {
                (State::Known(known), State::Known(news)) => known.differs(news),
                (State::Pending, State::Pending) => false,
                _ => true,
            };
            published.change += u64::from(changed);
            published.state = state;
            changed
        });
    }

    pub(super) fn subscribe(&self, awaits: bool, closed: Arc<Notify>) -> Subscriber {
        let state = self.state.subscribe();
        Subscriber { state, seen: None, awaits, over: false, _closed: NotifyOnDrop(closed) }
    }
}

/// The receiving side.
pub(super) struct Subscriber {
    state: watch::Receiver<Published>,
    seen: Option<u64>,
    awaits: bool,
    over: bool,
    _closed: NotifyOnDrop,
}

impl Subscriber {
    /// The next state, the first at once. None after the last.
    pub(super) async fn next(&mut self) -> Option<State> {
        if self.over {
            return None;
        }
        let seen = self.seen;
        let published = self.state.wait_for(|published| Some(published.change) != seen).await;
        let Published { state, change } = match published {
            Ok(published) => published.clone(),
            // The topic went away, which it does only after its last state.
            Err(_) => return None,
        };
        self.seen = Some(change);
        self.over = match &state {
            State::Known(view) => !self.awaits && view.task.state.is_terminal(),
            State::Ended(_) => true,
            State::Pending => false,
        };
        Some(state)
    }

    pub(super) fn current(&self) -> Option<TaskView> {
        match &self.state.borrow().state {
            State::Known(view) => Some(view.clone()),
            State::Pending | State::Ended(_) => None,
        }
    }

    /// Whether it waits for a task to show up.
    pub(super) fn awaits(&self) -> bool {
        self.awaits
    }
}

/// Has the poller look whether anybody is left. Stands last in the struct, since fields are dropped
/// in order: the receiver must be gone by then.
struct NotifyOnDrop(Arc<Notify>);

impl Drop for NotifyOnDrop {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}
