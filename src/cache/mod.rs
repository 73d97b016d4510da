//! The cache: what EC2 has told, what callers ask, and which EC2 call to make next.
//!
//! Per scope there is one immutable [`Snapshot`] of all that EC2 told. A caller puts a [`Query`], with
//! the staleness that it tolerates. [`Freshness::satisfies`] is the one rule: the answer must be from
//! calls that started late enough. If the snapshot has such an answer, it is a hit; otherwise the
//! caller waits for the scope's refresher, which makes one call at a time for all that wait.
//! docs/cache.md explains it in two pages.
//!
//! # Example
//!
//! How far down the listing of all tasks is known, its *coverage*, after each call. EC2 lists newest
//! first, 200 tasks a page; time runs downwards, start times from left to right.
//!
//! ```text
//! call started  known, by start time                              as of
//!               12:00       11:30       11:00            9:00
//! 12:01:00      ├──page 1───┤                                     12:01:00
//! 12:01:03      ├───────────┼──page 2───┤                         12:01:00
//! 12:01:06      ├───────────┼───────────┼──page 3────────┤ end    12:01:00
//! 12:01:30      ├──page 1──┤┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┤ end    12:01:30
//! ```
//!
//! The last call read only down to 11:35. It makes all that lies below as new as itself, since no task
//! can still appear there: what started five minutes before the first call has appeared by then. A
//! page that ends above that *watermark* says nothing about what is below it, which then stays as of
//! 12:01:00 until the pages in between are read.

mod assess;
mod assess_candidate;
mod assess_images;
mod coverage;
mod ec2_clock;
mod fetch;
mod freshness;
mod merge;
mod order;
mod outcome;
mod pages;
mod pending;
mod planner;
mod progress;
mod query;
mod reading;
mod refresher;
mod refusals;
mod room;
mod scope;
mod settings;
mod shared;
mod snapshot;
mod tasks;
#[cfg(test)]
mod tests;
mod turns;
mod view;
mod wait_queue;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio_util::task::AbortOnDropHandle;

pub use freshness::Freshness;
pub use outcome::{CacheError, CacheRead, ForwardReason, Outcome, StaleReason, Validator};
pub use progress::ProgressRate;
pub use query::Query;
pub use reading::{MissingImage, Reading};
pub use scope::{CacheMiss, KeptTask, ScopeCache};
pub use settings::Settings;
pub use snapshot::Snapshot;

use crate::domain::{MakeUpstream, Scope};
use room::Room;

type Scopes = Arc<Mutex<HashMap<Scope, Arc<ScopeCache>>>>;

/// The caches of all scopes. Requests are validated before they come here, so the scopes are those of
/// the configuration.
pub struct Cache {
    settings: Arc<Settings>,
    make_upstream: MakeUpstream,
    scopes: Scopes,
    room: Arc<Room>,
    _give_room: AbortOnDropHandle<()>,
}

impl Cache {
    /// An empty cache that asks EC2 over the upstreams that `make_upstream` makes. To be called on a
    /// runtime.
    #[must_use]
    pub fn new(settings: Settings, make_upstream: MakeUpstream) -> Self {
        let room = Arc::new(Room::new(settings.max_tasks));
        let scopes = Scopes::default();
        let give_room = tokio::spawn(give_room(room.clone(), scopes.clone()));
        Self {
            settings: Arc::new(settings),
            make_upstream,
            scopes,
            room,
            _give_room: AbortOnDropHandle::new(give_room),
        }
    }

    /// How old an answer may be if its request does not say.
    #[must_use]
    pub fn ttl(&self) -> Duration {
        self.settings.ttl
    }

    /// The cache of one scope.
    #[must_use]
    pub fn scope(&self, scope: &Scope) -> Arc<ScopeCache> {
        let mut scopes = self.scopes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = scopes.get(scope) {
            return known.clone();
        }
        let upstream = (self.make_upstream)(scope);
        let (settings, room) = (self.settings.clone(), self.room.clone());
        let new = Arc::new(ScopeCache::new(scope.clone(), settings, upstream, room));
        scopes.insert(scope.clone(), new.clone());
        new
    }
}

/// Evicts tasks from the scope that was idle longest while all scopes together hold too many.
async fn give_room(room: Arc<Room>, scopes: Scopes) {
    loop {
        room.is_over.notified().await;
        let scopes: Vec<_> = {
            let scopes = scopes.lock().unwrap_or_else(PoisonError::into_inner);
            scopes.values().cloned().collect()
        };
        for scope in scopes {
            let surplus = scope.surplus();
            if surplus > 0 {
                scope.give_room(surplus);
            }
        }
    }
}
