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
    sync::{Arc, Mutex, PoisonError, Weak},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    cache::{Cache, CacheError, CacheRead, Query},
    domain::{BucketName, ImageId, Scope, TaskKey},
};
pub use interval::Bounds;
use poller::Poller;
pub use topic::{Degraded, Ended, State, TaskView};
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
    /// A poller lives for as long as it has watches: it would keep an idle scope otherwise.
    pollers: Mutex<HashMap<Scope, Weak<Poller>>>,
    open: Arc<Semaphore>,
}

/// Which task to watch.
#[derive(Clone, Debug)]
pub struct WatchQuery {
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
    pub async fn watch(&self, query: WatchQuery) -> Result<Watch, WatchError> {
        let permit =
            self.open.clone().try_acquire_owned().map_err(|_| WatchError::TooManyWatches)?;
        let WatchQuery { scope, image, bucket, wait_for_task } = query;
        let cache = self.cache.scope(&scope)?;
        let query = Query::Latest { images: [image].into(), bucket: bucket.clone() };
        let found = cache.get(query, None).await?;
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
            None => poller.subscribe(Target::NextTask { image, bucket }, State::Pending),
        };
        Ok(Watch { poller, subscriber, _permit: permit })
    }

    fn poller(&self, scope: &Scope, cache: &Arc<crate::cache::ScopeCache>) -> Arc<Poller> {
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

impl Watch {
    /// The next state, the first at once. None when the task is in a terminal state, which was
    /// returned before. May be dropped and called again: no state is lost by that.
    pub async fn next(&mut self) -> Option<State> {
        loop {
            match self.subscriber.next().await? {
                State::Pending => {}
                State::Known(first) if self.subscriber.awaits() => self.pin(first),
                state => return Some(state),
            }
        }
    }

    /// The state as of now, for a heartbeat.
    #[must_use]
    pub fn current(&self) -> Option<TaskView> {
        self.subscriber.current()
    }

    /// The task showed up: from now on it is this one.
    fn pin(&mut self, first: TaskView) {
        let key: TaskKey = first.task.key.clone();
        self.subscriber = self.poller.subscribe(Target::Task(key), State::Known(first));
    }
}

fn first_state(
    found: &CacheRead,
    image: &ImageId,
    bucket: Option<&BucketName>,
) -> Option<TaskView> {
    let task = found.snapshot.latest(image, bucket.map(BucketName::as_str))?;
    TaskView::of(&found.snapshot, task, found.as_of())
}

#[cfg(test)]
mod tests {
    use std::{cmp::Reverse, time::Duration};

    use tower::util::BoxCloneSyncService;

    use super::*;
    use crate::{
        cache,
        domain::{
            AccountName, Answer, DescribeRequest, DescribeResponse, Region, StoreImageTask,
            TaskState, UpstreamError, wall_clock,
        },
    };

    #[tokio::test(start_paused = true)]
    async fn a_watch_keeps_its_scope_and_one_that_is_over_does_not() {
        let image = ImageId::parse("ami-01234567").expect("valid");
        let key =
            TaskKey { start_time: Reverse(wall_clock()), image_id: image, bucket: "bucket".into() };
        let task = StoreImageTask {
            key,
            object_key: "ami-01234567.bin".into(),
            state: TaskState::InProgress,
            progress: 5,
            failure_reason: None,
        };
        let upstream = tower::service_fn(move |_: DescribeRequest| {
            let answer = Answer { tasks: vec![task.clone()], next: None };
            async { Ok::<_, UpstreamError>(DescribeResponse::Tasks(answer)) }
        });
        let connect = Arc::new(move |_: &Scope| BoxCloneSyncService::new(upstream.clone()));
        let cache = Arc::new(Cache::new(cache::Settings::default(), connect));
        let region = Region::parse("us-east-1").expect("valid");
        let scope = Scope { account: AccountName::default(), region };
        let running = Arc::downgrade(&cache.scope(&scope).expect("room"));
        let watches = Watches::new(cache, Settings::default());
        let query = WatchQuery { scope, image, bucket: None, wait_for_task: false };
        let mut watch = watches.watch(query).await.expect("there is a task");
        assert!(matches!(watch.next().await, Some(State::Known(_))));
        tokio::time::sleep(Duration::from_hours(3)).await;
        assert!(running.upgrade().is_some(), "it is watched");
        drop(watch);
        tokio::time::sleep(Duration::from_hours(3)).await;
        assert!(running.upgrade().is_none(), "nobody asks for it any more");
    }
}
