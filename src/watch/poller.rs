//! The poller of one scope: hands on what the cache learns to the topics, and has the cache ask
//! again when a topic is due. Alive while somebody subscribes.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures_util::{
    FutureExt as _,
    future::{BoxFuture, OptionFuture, join_all},
};
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

use super::{
    interval::Bounds,
    topic::{Ended, State, Subscriber, Target, Topic},
};
use crate::{
    cache::{CacheError, Freshness, ScopeCache, Snapshot},
    domain::wall_clock,
};

/// The poller of one scope.
pub(super) struct Poller {
    cache: Arc<ScopeCache>,
    bounds: Bounds,
    topics: Mutex<Topics>,
    /// A topic was added, or lost a subscriber.
    changed: Arc<Notify>,
}

#[derive(Default)]
struct Topics {
    by_target: HashMap<Target, Topic>,
    /// The task that looks after the topics is alive.
    polled: bool,
}

/// How a round of refreshes ended, topic by topic.
type Round = Vec<(Target, Result<(), CacheError>)>;

impl Poller {
    pub(super) fn new(cache: Arc<ScopeCache>, bounds: Bounds) -> Arc<Self> {
        Arc::new(Self { cache, bounds, topics: Mutex::default(), changed: Arc::default() })
    }

    /// Joins the topic of a target; `first` is its state where there is no topic yet.
    pub(super) fn subscribe(self: &Arc<Self>, target: Target, first: State) -> Subscriber {
        let mut topics = self.topics();
        let awaits = matches!(target, Target::NextTask { .. });
        let topic = topics.by_target.entry(target).or_insert_with(|| Topic::new(first));
        let subscriber = topic.subscribe(awaits, self.changed.clone());
        if !topics.polled {
            topics.polled = true;
            tokio::spawn(self.clone().poll());
        }
        self.changed.notify_one();
        subscriber
    }

    async fn poll(self: Arc<Self>) {
        let _retire = ClearOnPanic(&self);
        let mut snapshots = self.cache.subscribe();
        let mut round: OptionFuture<BoxFuture<'_, Round>> = None.into();
        let mut running = false;
        let mut last_round: Option<Instant> = None;
        loop {
            let snapshot = snapshots.borrow_and_update().clone();
            if !self.update(&snapshot) {
                return;
            }
            let due = self.due(&snapshot, last_round);
            tokio::select! {
                biased;
                Some(results) = &mut round, if running => {
                    running = false;
                    self.settle(results);
                }
                () = self.changed.notified() => {}
                // The cache outlives this: `self` holds it.
                Ok(()) = snapshots.changed() => {}
                () = sleep_until(due), if !running => {
                    let now = Instant::now();
                    last_round = Some(now);
                    running = true;
                    round = Some(self.round(&snapshot, now).boxed()).into();
                }
            }
        }
    }

    /// Drops topics that are over or that nobody subscribes to, and tells the others what the
    /// ledger knows. False when none is left: then the poller has retired.
    fn update(&self, snapshot: &Snapshot) -> bool {
        let mut topics = self.topics();
        topics.by_target.retain(|target, topic| {
            if topic.has_subscribers() {
                topic.learn(target, snapshot);
            }
            topic.has_subscribers() && !topic.is_over()
        });
        topics.polled = !topics.by_target.is_empty();
        topics.polled
    }

    /// When the next round begins: when the first topic is due. A round that failed counts, too.
    fn due(&self, snapshot: &Snapshot, last_round: Option<Instant>) -> Instant {
        let topics = self.topics();
        let now = Instant::now();
        let due = topics.by_target.iter().map(|(target, topic)| {
            let known = known_at(target, topic, snapshot).max(last_round);
            known.map_or(now, |known| known + self.interval(target, snapshot))
        });
        due.min().unwrap_or(now)
    }

    /// Refreshes whatever is due, and along with it what soon will be: the needs of a scope are to
    /// fall together, so that one call serves them all.
    fn round(
        &self,
        snapshot: &Snapshot,
        now: Instant,
    ) -> impl Future<Output = Round> + Send + 'static {
        let topics = self.topics();
        let soon = topics.by_target.iter().filter(|(target, topic)| {
            let half = self.interval(target, snapshot) / 2;
            known_at(target, topic, snapshot).is_none_or(|known| known + half <= now)
        });
        let refreshes: Vec<_> = soon
            .map(|(target, _)| {
                let (target, cache) = (target.clone(), self.cache.clone());
                async move {
                    let result = cache.refresh(target.query(), now).await;
                    (target, result)
                }
            })
            .collect();
        join_all(refreshes)
    }

    fn settle(&self, round: Round) {
        let topics = self.topics();
        for (target, result) in round {
            let Some(topic) = topics.by_target.get(&target) else { continue };
            match result {
                Ok(()) => topic.set_degraded(None),
                Err(CacheError::Upstream(error)) if error.kind.is_transient() => {
                    topic.set_degraded(Some((error, wall_clock())));
                }
                Err(refused @ (CacheError::Upstream(_) | CacheError::Remembered { .. })) => {
                    topic.end(Ended::Refused(refused));
                }
                // Our own trouble: the next round finds out whether it is over.
                Err(
                    CacheError::TooManyWaiting
                    | CacheError::TooManyTasks
                    | CacheError::TooManyScopes
                    | CacheError::RefresherLost,
                ) => {}
            }
        }
    }

    fn interval(&self, target: &Target, snapshot: &Snapshot) -> std::time::Duration {
        self.bounds.interval(target.find(snapshot).and_then(|task| snapshot.progress_rate(task)))
    }

    fn topics(&self) -> MutexGuard<'_, Topics> {
        self.topics.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Should the poller die, its topics go with it, and their streams end.
struct ClearOnPanic<'a>(&'a Poller);

impl Drop for ClearOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let mut topics = self.0.topics();
            topics.polled = false;
            topics.by_target.clear();
        }
    }
}

/// The call from which a target is known.
fn known_at(target: &Target, topic: &Topic, snapshot: &Snapshot) -> Option<Instant> {
    match target.query().freshness(snapshot) {
        Freshness::AsOf(call) => Some(call.instant),
        Freshness::Missing | Freshness::Immutable => topic.as_of().map(|call| call.instant),
    }
}
