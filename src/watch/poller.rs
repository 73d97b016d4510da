//! The poller of one scope: refreshes its topics when they are due, and publishes each new
//! snapshot to them.

use std::{
    ops::ControlFlow,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures_util::{
    FutureExt as _,
    future::{BoxFuture, join_all},
};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep_until},
};

use super::{
    interval::Bounds,
    target::Target,
    topic::Subscriber,
    topics::{Refreshed, Topics},
    view::State,
};
use crate::cache::{ScopeCache, Snapshot};

/// The poller of one scope. Its task runs only while there are subscribers.
pub(super) struct Poller {
    cache: Arc<ScopeCache>,
    shared: Mutex<Shared>,
    /// Notified when a subscriber has joined or left.
    subscribers_changed: Arc<Notify>,
}

/// The state that subscribers and the poller's task share.
struct Shared {
    topics: Topics,
    /// Set while the task runs.
    running: bool,
}

impl Poller {
    pub(super) fn new(cache: Arc<ScopeCache>, bounds: Bounds) -> Arc<Self> {
        let shared = Shared { topics: Topics::new(bounds), running: false };
        Arc::new(Self { cache, shared: Mutex::new(shared), subscribers_changed: Arc::default() })
    }

    /// Subscribes to the topic of a target, and starts the task if it does not run. `first` is the
    /// state that a new topic begins with.
    pub(super) fn subscribe(self: &Arc<Self>, target: Target, first: State) -> Subscriber {
        let awaits_task = matches!(target, Target::NextTask { .. });
        let kept = match &target {
            Target::Task(key) => Some(self.cache.keep(key)),
            Target::NextTask { .. } => None,
        };
        let mut shared = self.shared();
        let topic = shared.topics.get_or_create(target, first, kept);
        let subscriber = topic.subscribe(awaits_task, self.subscribers_changed.clone());
        if !shared.running {
            shared.running = true;
            tokio::spawn(self.clone().run());
        }
        self.subscribers_changed.notify_one();
        subscriber
    }

    async fn run(self: Arc<Self>) {
        let _clear = ClearOnPanic(&self);
        let mut task = PollTask {
            poller: &self,
            snapshots: self.cache.subscribe(),
            phase: Phase::Waiting,
            last_round: None,
        };
        while task.step().await.is_continue() {}
    }

    /// Publishes a snapshot to the topics. Returns false if no topic is left. The task then ends,
    /// and the next subscriber starts a new one.
    fn update(&self, snapshot: &Snapshot) -> bool {
        let mut shared = self.shared();
        shared.topics.update(snapshot);
        shared.running = !shared.topics.is_empty();
        shared.running
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The task of a poller.
struct PollTask<'a> {
    poller: &'a Poller,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    phase: Phase,
    /// Time at which the last round of refreshes began.
    last_round: Option<Instant>,
}

/// The phase of a poller's task. The task waits until a topic is due, then refreshes, then waits
/// again.
enum Phase {
    Waiting,
    Refreshing(BoxFuture<'static, Vec<Refreshed>>),
}

impl PollTask<'_> {
    /// Publishes the newest snapshot and waits for the next event. Breaks if there are no
    /// subscribers. This check comes first, so that no round begins without a subscriber.
    async fn step(&mut self) -> ControlFlow<()> {
        let snapshot = self.snapshots.borrow_and_update().clone();
        if !self.poller.update(&snapshot) {
            return ControlFlow::Break(());
        }
        match &mut self.phase {
            Phase::Waiting => {
                let due = self.poller.shared().topics.next_due(&snapshot, self.last_round);
                if due <= Instant::now() {
                    self.begin_round(&snapshot);
                    return ControlFlow::Continue(());
                }
                tokio::select! {
                    () = news(self.poller, &mut self.snapshots) => {}
                    () = sleep_until(due) => {}
                }
            }
            Phase::Refreshing(round) => tokio::select! {
                biased;
                results = round => {
                    self.poller.shared().topics.settle(results);
                    self.phase = Phase::Waiting;
                }
                () = news(self.poller, &mut self.snapshots) => {}
            },
        }
        ControlFlow::Continue(())
    }

    fn begin_round(&mut self, snapshot: &Snapshot) {
        let now = Instant::now();
        let mut refreshes = Vec::new();
        for target in self.poller.shared().topics.to_refresh(snapshot, now) {
            refreshes.push(refresh(self.poller.cache.clone(), target, now));
        }
        self.last_round = Some(now);
        self.phase = Phase::Refreshing(join_all(refreshes).boxed());
    }
}

/// Waits until a subscriber has joined or left, or the cache has a new snapshot.
async fn news(poller: &Poller, snapshots: &mut watch::Receiver<Arc<Snapshot>>) {
    tokio::select! {
        () = poller.subscribers_changed.notified() => {}
        // The sender outlives the task, since the poller holds the cache.
        Ok(()) = snapshots.changed() => {}
    }
}

async fn refresh(cache: Arc<ScopeCache>, target: Target, not_before: Instant) -> Refreshed {
    let result = cache.refresh(target.query(), not_before).await;
    Refreshed { target, result }
}

/// Drops all topics if the task panics, so that their streams end and the next subscriber starts
/// a new task.
struct ClearOnPanic<'a>(&'a Poller);

impl Drop for ClearOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let mut shared = self.0.shared();
            shared.running = false;
            shared.topics.clear();
        }
    }
}
