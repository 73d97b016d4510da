//! Watching: standing needs, and the streams that are fed by what the cache learns.
//!
//! One topic per watched task, any number of subscribers on it, and one poller per scope that
//! looks after all topics: it hands on what any merge brought, and has the cache ask again when
//! a topic is due. A subscriber sees the newest state and skips what it was too slow for, so that
//! a stream's memory is bounded and nobody waits for the slowest.

mod interval;
mod poller;
mod topic;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    cache::{Cache, CacheError, Found, Need},
    domain::{BucketName, ImageId, Scope, TaskKey},
};
pub use interval::Bounds;
use poller::Poller;
pub use topic::{Degraded, Ended, Snapshot, State};
use topic::{Subscriber, Target};

/// How watches behave.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How often EC2 is asked for watched tasks.
    pub interval: Bounds,
    /// Most watches that may be open at once.
    pub max_watches: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { interval: Bounds::default(), max_watches: 50_000 }
    }
}

/// All watches.
pub struct Watches {
    cache: Arc<Cache>,
    settings: Settings,
    pollers: Mutex<HashMap<Scope, Arc<Poller>>>,
    open: Arc<Semaphore>,
}

/// Which task to watch.
#[derive(Clone, Debug)]
pub struct WatchQuestion {
    /// Where.
    pub scope: Scope,
    /// The latest task of this image,
    pub image: ImageId,
    /// into this bucket, or into any.
    pub bucket: Option<BucketName>,
    /// Wait until there is one.
    pub wait_for_task: bool,
}

/// Why a watch could not begin.
#[derive(Clone, Debug, thiserror::Error)]
pub enum WatchError {
    /// The cache has no answer.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// There is no such task, and the caller does not wait for one.
    #[error(
        "{0} has no store-image task of the last 31 days{1}; set wait_for_task to wait for one"
    )]
    NoTask(ImageId, String),
    /// Too many watches.
    #[error("too many watches are open; try again later")]
    TooManyWatches,
}

/// An open watch. Ends its standing need when dropped.
pub struct Watch {
    poller: Arc<Poller>,
    subscriber: Subscriber,
    _permit: OwnedSemaphorePermit,
}

impl Watches {
    /// Watches over this cache.
    #[must_use]
    pub fn new(cache: Arc<Cache>, settings: Settings) -> Self {
        let open = Arc::new(Semaphore::new(settings.max_watches.min(Semaphore::MAX_PERMITS)));
        Self { cache, settings, pollers: Mutex::default(), open }
    }

    /// Begins a watch; its first state is there at once, or when the task shows up.
    ///
    /// # Errors
    /// Where the first state can't be had.
    pub async fn watch(&self, question: WatchQuestion) -> Result<Watch, WatchError> {
        let permit =
            self.open.clone().try_acquire_owned().map_err(|_| WatchError::TooManyWatches)?;
        let WatchQuestion { scope, image, bucket, wait_for_task } = question;
        let cache = self.cache.scope(&scope)?;
        let need = Need::Latest { images: [image.clone()].into(), bucket: bucket.clone() };
        let found = cache.get(need, None).await?;
        let first = first_state(&found, &image, bucket.as_ref());
        if first.is_none() && !wait_for_task {
            let into = bucket.map(|bucket| format!(" into {bucket}")).unwrap_or_default();
            return Err(WatchError::NoTask(image, into));
        }
        let poller = self.poller(&scope, &cache);
        let subscriber = match first {
            Some(first) => {
                poller.subscribe(Target::Task(first.task.key.clone()), State::Known(first))
            }
            None => poller.subscribe(Target::Appearance { image, bucket }, State::Awaited),
        };
        Ok(Watch { poller, subscriber, _permit: permit })
    }

    fn poller(&self, scope: &Scope, cache: &Arc<crate::cache::ScopeCache>) -> Arc<Poller> {
        let mut pollers = self.pollers.lock().unwrap_or_else(PoisonError::into_inner);
        pollers.retain(|_, poller| poller.is_busy() || Arc::strong_count(poller) > 1);
        pollers
            .entry(scope.clone())
            .or_insert_with(|| Poller::new(cache.clone(), self.settings.interval))
            .clone()
    }
}

impl Watch {
    /// The next state, the first at once. None when the task is in a terminal state, which was
    /// returned before. May be dropped and called again: no state is lost by that.
    pub async fn next(&mut self) -> Option<State> {
        loop {
            match self.subscriber.next().await? {
                State::Awaited => {}
                State::Known(first) if self.subscriber.awaits() => self.pin(first),
                state => return Some(state),
            }
        }
    }

    /// The state as of now, for a heartbeat.
    #[must_use]
    pub fn current(&self) -> Option<Snapshot> {
        self.subscriber.current()
    }

    /// The task showed up: from now on it is this one.
    fn pin(&mut self, first: Snapshot) {
        let key: TaskKey = first.task.key.clone();
        self.subscriber = self.poller.subscribe(Target::Task(key), State::Known(first));
    }
}

fn first_state(found: &Found, image: &ImageId, bucket: Option<&BucketName>) -> Option<Snapshot> {
    let task = found.ledger.latest(image, bucket.map(BucketName::as_str))?;
    Snapshot::of(&found.ledger, task, found.as_of())
}
