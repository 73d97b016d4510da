//! The poller of one scope: refreshes its topics when they are due, and publishes each new
//! snapshot to them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep_until},
};

use super::{
    interval::Bounds,
    target::Target,
    topic::{Refresh, Subscriber, Wanted},
    topics::{Refreshed, Topics},
};
use crate::{
    cache::{ScopeCache, Snapshot},
    domain::{AttemptState, Caller},
};

/// The poller of one scope. Its task runs only while there are subscribers.
pub(super) struct Poller {
    cache: Arc<ScopeCache>,
    shared: Mutex<Shared>,
    /// Notified when a subscriber has joined or left, or wants news.
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

    /// Subscribes to the topic of a target, and starts the task if it does not run. With `wanted` the
    /// subscriber wants an answer.
    pub(super) fn subscribe(
        self: &Arc<Self>,
        target: &Target,
        caller: &Caller,
        wanted: Option<Wanted>,
    ) -> Subscriber {
        let keep = || match target {
            Target::Task(key) => Some(self.cache.keep(key)),
            Target::Candidate(_) => None,
        };
        let mut shared = self.shared();
        let topic = shared.topics.get_or_create(target, caller, keep);
        if let Some(wanted) = wanted {
            topic.want(wanted);
        }
        let subscriber = topic.subscribe(caller, self.subscribers_changed.clone());
        if !shared.running {
            shared.running = true;
            tokio::spawn(self.clone().run());
        }
        self.subscribers_changed.notify_one();
        subscriber
    }

    /// A subscriber wants an answer.
    pub(super) fn want(&self, target: &Target, wanted: Wanted) {
        if let Some(topic) = self.shared().topics.get(target) {
            topic.want(wanted);
        }
        self.subscribers_changed.notify_one();
    }

    /// Brings the topic of a target up to date at once, for a subscriber whose time has come.
    pub(super) fn refresh_state(&self, target: &Target) {
        let snapshot = self.cache.snapshot();
        let attempts = self.cache.attempts().borrow().clone();
        self.shared().topics.update_one(target, &snapshot, &attempts);
    }

    async fn run(self: Arc<Self>) {
        let _clear = ClearOnPanic(&self);
        let mut task = PollTask {
            poller: &self,
            snapshots: self.cache.subscribe(),
            attempts: self.cache.attempts(),
            refreshes: FuturesUnordered::new(),
        };
        while task.step().await {}
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The task of a poller.
struct PollTask<'a> {
    poller: &'a Poller,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    attempts: watch::Receiver<AttemptState>,
    /// A refresh that was cancelled has no result.
    refreshes: FuturesUnordered<BoxFuture<'static, Option<Refreshed>>>,
}

impl PollTask<'_> {
    /// Publishes the newest snapshot, begins the refreshes that are due, and waits for the next event.
    /// Returns false if no topic is left: the task then ends, and the next subscriber starts a new one.
    async fn step(&mut self) -> bool {
        let now = Instant::now();
        let snapshot = self.snapshots.borrow_and_update().clone();
        let attempts = self.attempts.borrow_and_update().clone();
        let (round, next_event) = {
            let mut shared = self.poller.shared();
            shared.topics.update(&snapshot, &attempts, now);
            shared.running = !shared.topics.is_empty();
            if !shared.running {
                return false;
            }
            let round = shared.topics.begin_round(&snapshot, now);
            (round, shared.topics.next_event(&snapshot, &attempts, now))
        };
        for refresh in round {
            self.refreshes.push(run(self.poller.cache.clone(), refresh).boxed());
        }
        tokio::select! {
            biased;
            Some(refreshed) = self.refreshes.next() => self.settle(refreshed),
            () = self.poller.subscribers_changed.notified() => {}
            // The senders outlive the task, since the poller holds the cache.
            Ok(()) = self.snapshots.changed() => {}
            Ok(()) = self.attempts.changed() => {}
            () = sleep_until(next_event) => {}
        }
        true
    }

    /// Takes the result of a refresh, and those of all others that have ended.
    fn settle(&mut self, first: Option<Refreshed>) {
        let attempts = self.attempts.borrow().clone();
        let mut shared = self.poller.shared();
        let mut ended = Some(first);
        while let Some(refreshed) = ended {
            if let Some(refreshed) = refreshed {
                shared.topics.settle(refreshed, &attempts);
            }
            ended = self.refreshes.next().now_or_never().flatten();
        }
    }
}

async fn run(cache: Arc<ScopeCache>, refresh: Refresh) -> Option<Refreshed> {
    let Refresh { target, query, not_before, caller, cancelled } = refresh;
    let refreshed = cache.refresh(query, not_before, &caller);
    let result = cancelled.run_until_cancelled(refreshed).await?;
    Some(Refreshed { target, not_before, result })
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
