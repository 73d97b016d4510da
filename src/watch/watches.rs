//! Opens watches: the entry point of the watch engine.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    poller::Poller,
    settings::Settings,
    target::Target,
    topic::Subscriber,
    view::{State, TaskView},
};
use crate::{
    cache::{Cache, CacheError, Query, ScopeCache},
    domain::{BoundLog, BucketName, ImageId, Scope},
};

/// All watches of the gateway, over all scopes.
pub struct Watches {
    cache: Arc<Cache>,
    settings: Settings,
    /// The pollers of the scopes that have watches. A watch holds its poller.
    pollers: Mutex<HashMap<Scope, Weak<Poller>>>,
    /// A permit per watch that may still be opened.
    permits: Arc<Semaphore>,
    bound_log: BoundLog,
}

/// The task that a caller wants to watch.
#[derive(Clone, Debug)]
pub struct WatchQuery {
    /// The account and region of the task.
    pub scope: Scope,
    /// The image whose latest task is watched.
    pub image: ImageId,
    /// The bucket of the task. None means any bucket.
    pub bucket: Option<BucketName>,
    /// Wait for a task to appear if there is none.
    pub wait_for_task: bool,
}

/// The reason for which a watch could not be opened.
#[derive(Clone, Debug, thiserror::Error)]
pub enum WatchError {
    /// The cache has no answer.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// The image has no task, and the caller does not wait for one. The text is empty, or names
    /// the bucket.
    #[error(
        "{0} has no store-image task of the last 31 days{1}; set wait_for_task to wait for one"
    )]
    NoTask(ImageId, String),
    /// The maximum number of watches is open.
    #[error("too many watches are open; try again later")]
    TooManyWatches,
}

impl Watches {
    /// Creates the watch engine over a cache. No watch is open.
    #[must_use]
    pub fn new(cache: Arc<Cache>, settings: Settings) -> Self {
        let permits = settings.max_watches.min(Semaphore::MAX_PERMITS);
        Self {
            cache,
            settings,
            pollers: Mutex::default(),
            permits: Arc::new(Semaphore::new(permits)),
            bound_log: BoundLog::new("watches", None),
        }
    }

    /// Opens a watch. Returns when the latest task is known, or known not to exist.
    ///
    /// # Errors
    /// If too many watches are open, if the cache has no answer, or if there is no task and the
    /// caller does not wait for one.
    pub async fn watch(&self, query: WatchQuery) -> Result<Watch, WatchError> {
        let Ok(permit) = self.permits.clone().try_acquire_owned() else {
            self.bound_log.refused(self.settings.max_watches);
            return Err(WatchError::TooManyWatches);
        };
        self.bound_log.admitted();
        let WatchQuery { scope, image, bucket, wait_for_task } = query;
        let cache = self.cache.scope(&scope);
        let (target, first) = match latest_task(&cache, image, bucket.clone()).await? {
            Some(view) => (Target::Task(view.task.key.clone()), State::Known(view)),
            None if wait_for_task => (Target::NextTask { image, bucket }, State::Pending),
            None => return Err(no_task(image, bucket)),
        };
        let poller = self.poller(&scope, &cache);
        let subscriber = poller.subscribe(target, first);
        Ok(Watch { poller, subscriber, _permit: permit })
    }

    /// The poller of a scope, created if the scope has no watches yet.
    fn poller(&self, scope: &Scope, cache: &Arc<ScopeCache>) -> Arc<Poller> {
        let mut pollers = self.pollers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(poller) = pollers.get(scope).and_then(Weak::upgrade) {
            return poller;
        }
        pollers.retain(|_, poller| poller.strong_count() > 0);
        let poller = Poller::new(cache.clone(), self.settings.interval);
        pollers.insert(scope.clone(), Arc::downgrade(&poller));
        poller
    }
}

/// Reads the latest task of an image, as fresh as a List without `max_staleness`.
async fn latest_task(
    cache: &Arc<ScopeCache>,
    image: ImageId,
    bucket: Option<BucketName>,
) -> Result<Option<TaskView>, CacheError> {
    let read = cache.get(Query::latest(image, bucket.as_ref()), None).await?;
    match read.reading.tasks.first() {
        Some(task) => Ok(TaskView::of(&read.snapshot, task, read.as_of())),
        None => Ok(None),
    }
}

fn no_task(image: ImageId, bucket: Option<BucketName>) -> WatchError {
    let into_bucket = match bucket {
        Some(bucket) => format!(" into {bucket}"),
        None => String::new(),
    };
    WatchError::NoTask(image, into_bucket)
}

/// An open watch. Dropping it closes the watch and frees its permit.
pub struct Watch {
    poller: Arc<Poller>,
    subscriber: Subscriber,
    _permit: OwnedSemaphorePermit,
}

impl Watch {
    /// Waits for the next state of the task, and returns the first one at once if there is a task.
    /// Returns None after the last state. Cancel safe.
    pub async fn next(&mut self) -> Option<State> {
        loop {
            match self.subscriber.next().await? {
                State::Pending => {}
                State::Known(view) if self.subscriber.awaits_task() => self.pin(view),
                state => return Some(state),
            }
        }
    }

    /// The task as last known, for a heartbeat. None while there is no task.
    #[must_use]
    pub fn current(&self) -> Option<TaskView> {
        self.subscriber.current()
    }

    /// Follows the task that has appeared, even if the image is later stored again.
    fn pin(&mut self, view: TaskView) {
        let target = Target::Task(view.task.key.clone());
        self.subscriber = self.poller.subscribe(target, State::Known(view));
    }
}
