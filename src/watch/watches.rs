//! Opens watches: the entry point of the watch engine.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::{Duration, SystemTime},
};

use tokio::time::Instant;

use super::{poller::Poller, settings::Settings, stream::Watch, target::Target};
use crate::{
    cache::{Cache, ScopeCache},
    domain::{Caller, FairPermits, Scope},
};

/// All watches of the gateway, over all scopes.
pub struct Watches {
    cache: Arc<Cache>,
    settings: Settings,
    /// The pollers of the scopes that have watches. A watch holds its poller.
    pollers: Mutex<HashMap<Scope, Weak<Poller>>>,
    /// A permit per watch that is open.
    permits: FairPermits,
}

/// The task that a caller wants to watch.
#[derive(Clone, Debug)]
pub struct WatchQuery {
    /// The account and region of the task.
    pub scope: Scope,
    /// The task.
    pub target: Target,
    /// How long to wait for the task to appear.
    pub wait_for_task: Duration,
    /// Time without another message after which a heartbeat is sent.
    pub heartbeat: Duration,
}

/// The maximum number of watches is open.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("too many watches are open; try again later")]
pub struct TooManyWatches;

impl Watches {
    /// Creates the watch engine over a cache. No watch is open.
    #[must_use]
    pub fn new(cache: Arc<Cache>, settings: Settings) -> Self {
        let permits = FairPermits::new("watches", None, settings.max_watches);
        Self { cache, settings, pollers: Mutex::default(), permits }
    }

    /// The latest start time of a task that EC2 has shown in a scope. None if no task is known.
    #[must_use]
    pub fn newest_start(&self, scope: &Scope) -> Option<SystemTime> {
        self.cache.scope(scope).newest_start()
    }

    /// Opens a watch. It begins when its first message is asked for.
    ///
    /// # Errors
    /// If too many watches are open, and no caller has more of them than this one would have.
    pub fn watch(&self, query: WatchQuery, caller: &Caller) -> Result<Watch, TooManyWatches> {
        let Some(permit) = self.permits.acquire(caller) else { return Err(TooManyWatches) };
        let cache = self.cache.scope(&query.scope);
        let poller = self.poller(&query.scope, &cache);
        Ok(Watch::new(cache, poller, query, Instant::now(), permit))
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
