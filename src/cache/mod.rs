//! The tasks of each scope as far as EC2 has told of them, and the EC2 calls that refresh them.
//!
//! Per scope there is one [`Snapshot`] and, while queries are pending, one refresher that makes one
//! EC2 call at a time. A caller passes a [`Query`] and the age that it tolerates;
//! [`Freshness::satisfies`] is the one rule that decides whether the snapshot is fresh enough. A query
//! that arrives while a call runs is satisfied by that call or joins the next plan, so coalescing,
//! joining and batching need no other mechanism.
//!
//! # A worked example
//!
//! EC2's pages hold three tasks here. The tasks `1` to `50` are named by their age in minutes at
//! t = 0. `a` starts at 8 s, and `b`, `c` and `d` start after 500 s. All are completed but `40`.
//!
//! `#` marks a task that the listing of all tasks covers. `^` is one too, and the watermark: the
//! newest task that was five minutes old when it was read. `-` marks a task that is kept below a gap.
//!
//! ```text
//!      t  EC2 call         d c b a 1 6 20 30 40 50   head page as of
//!    0 s  head page                # ^ #             0 s
//!    1 s  page below 20            # ^ #  #  #  #    0 s
//!   10 s  head page              # # ^ #  #  #  #    10 s   joins at the watermark
//!   12 s  look-up of 40          # # ^ #  #  #  #    10 s   EC2 tells of 40 as of 12 s
//!  600 s  head page        # # #     - -  -  -  -    600 s  ends at b: a gap below it
//!  601 s  page below b     # # # ^ # # #  #  #  #    600 s  the gap is closed
//! ```
//!
//! A query at t with staleness s is satisfied by calls that started at or after t - s:
//!
//! - 0 s, List of 6, s = 5 s: the coverage ends at 20. The gap is `Deeper`: the page below 20.
//! - 2 s, the same: a hit as of 0 s. `40` is known as of 1 s, and the older call counts.
//! - 10 s, List of 3, s = 5 s: the head page of 0 s is too old. The gap is `Head`. The new head page
//!   joins at the watermark, so the depth of 1 s is kept.
//! - 12 s, List of 6, s = 5 s: the head page of 10 s is fresh enough. `40` is unfinished, stands below
//!   that page, and was last observed at 1 s. The gap is `Unfinished`: one look-up, no walk.
//! - 13 s, the same: a hit as of 10 s.
//! - 13 s, List of 3, s = 0: no earlier call will do. The gap is `Head`.
//! - 13 s, the latest task of the image of `50`, s = 5 s: a hit as of 10 s. The coverage reaches
//!   `50`, so the listing would show a newer task, and `50` itself can no longer change.
//! - At any time, the task `50` itself: immutable, a hit for every staleness.
//! - 600 s, List of 6, s = 5 s: three tasks have started since 10 s, so the head page does not reach the
//!   watermark. The gap is `Deeper`: the page below `b` joins what was kept, down to `50` again.
//! - 601 s, List of 10, s = 5 s: all is covered, but `40` is known as of 12 s: one look-up.

mod coverage;
mod listing;
mod outcome;
mod page;
mod plan;
mod query;
mod refresher;
mod scope;
mod snapshot;
mod tasks;
#[cfg(test)]
mod tests;
mod wait_queue;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;

pub use outcome::{CacheError, CacheRead, ForwardReason, Outcome, StaleReason, Validator};
pub use page::Page;
pub use query::{Freshness, Query};
pub use scope::ScopeCache;
pub use snapshot::{ProgressRate, Snapshot};

use crate::domain::{BoundLog, MakeUpstream, Scope, Upstream};

/// How the cache behaves.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How old an answer may be when a request does not say.
    pub ttl: Duration,
    /// For this long past the TTL such a request gets the old answer at once, and the refresh
    /// starts behind it. Zero switches it off.
    pub stale_while_revalidate: Duration,
    /// For this long past the TTL such a request gets the old answer when the refresh fails
    /// transiently or takes longer than two seconds, or the call budget is spent. Zero switches it off.
    pub stale_if_error: Duration,
    /// How long a refusal (denied, bad ID) is remembered. Zero switches it off.
    pub refusal_ttl: Duration,
    /// Most scopes that are kept at once; the one that was used longest ago goes first. As many again
    /// may live on for as long as requests or watches use them; more are refused.
    pub max_scopes: u64,
    /// A scope that nobody asked about for this long is dropped.
    pub scope_idle: Duration,
    /// Most callers that may wait for EC2 at once in one scope.
    pub max_waiting: usize,
    /// Most different questions that may wait for EC2 at once in one scope.
    pub max_queries: usize,
    /// Most tasks that are kept of one scope. What would be more is refused; when new tasks make it
    /// more, the oldest of those that are finished go.
    pub max_tasks: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            ttl: Duration::from_secs(5),
            stale_while_revalidate: Duration::from_secs(5),
            stale_if_error: Duration::from_mins(5),
            refusal_ttl: Duration::from_secs(1),
            max_scopes: 64,
            scope_idle: Duration::from_hours(1),
            max_waiting: 100_000,
            max_queries: 10_000,
            max_tasks: 200_000,
        }
    }
}

/// So many more upstreams to EC2 are kept than scopes, and for so long: a call budget that was spent is
/// full again by then.
const UPSTREAMS_PER_SCOPE: u64 = 16;
const UPSTREAM_IDLE: Duration = Duration::from_hours(24);

/// Idle scopes are looked for so often in the time that makes one idle.
const ROUNDS_TO_IDLE: u32 = 8;

type Scopes = moka::sync::Cache<Scope, Arc<ScopeCache>>;

/// The least recently used go first. moka's own policy would rather keep the new ones out.
fn bounded<V: Clone + Send + Sync + 'static>(
    most: u64,
) -> moka::sync::CacheBuilder<Scope, V, moka::sync::Cache<Scope, V>> {
    moka::sync::Cache::builder()
        .max_capacity(most)
        .eviction_policy(moka::policy::EvictionPolicy::lru())
}

/// Lets go of the scopes that nobody asks about. moka would do so only when it is used, and by the
/// system's clock.
async fn forget_idle(scopes: Scopes, idle: Duration) {
    // Waiting for nothing would be no pause at all.
    let pause = (idle / ROUNDS_TO_IDLE).max(Duration::from_millis(1));
    loop {
        sleep(pause).await;
        for (scope, cache) in &scopes {
            if cache.idle_rounds() > ROUNDS_TO_IDLE {
                scopes.invalidate(&*scope);
            }
        }
        // Only now is what was invalidated given back.
        scopes.run_pending_tasks();
    }
}

/// All scopes.
pub struct Cache {
    settings: Arc<Settings>,
    make_upstream: MakeUpstream,
    /// The upstreams to EC2, and with them what is left of each scope's call budget: kept for longer
    /// than the scopes themselves, so that a scope that comes back has no new budget.
    upstreams: moka::sync::Cache<Scope, Upstream>,
    /// Those that are kept.
    lru: Scopes,
    /// Those that moka let go of but somebody still uses: to make a second one would be to ask
    /// EC2 twice.
    live: Mutex<HashMap<Scope, Weak<ScopeCache>>>,
    scopes_log: BoundLog,
    _forget_idle: AbortOnDropHandle<()>,
}

impl Cache {
    /// An empty cache that asks EC2 over the upstreams that `connect` makes. To be called on a runtime.
    #[must_use]
    pub fn new(settings: Settings, make_upstream: MakeUpstream) -> Self {
        let upstreams = bounded(settings.max_scopes.saturating_mul(UPSTREAMS_PER_SCOPE));
        let lru: Scopes = bounded(settings.max_scopes).build();
        let forget_idle = tokio::spawn(forget_idle(lru.clone(), settings.scope_idle));
        Self {
            upstreams: upstreams.time_to_idle(UPSTREAM_IDLE).build(),
            lru,
            live: Mutex::default(),
            scopes_log: BoundLog::new("scopes", None),
            _forget_idle: AbortOnDropHandle::new(forget_idle),
            settings: Arc::new(settings),
            make_upstream,
        }
    }

    /// How old an answer may be when a request does not say.
    #[must_use]
    pub fn ttl(&self) -> Duration {
        self.settings.ttl
    }

    /// The cache of one scope.
    ///
    /// # Errors
    /// [`CacheError::TooManyScopes`] when as many as are allowed are in use.
    pub fn scope(&self, scope: &Scope) -> Result<Arc<ScopeCache>, CacheError> {
        if let Some(known) = self.lru.get(scope) {
            known.mark_used();
            return Ok(known);
        }
        let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        let known = if let Some(known) = live.get(scope).and_then(Weak::upgrade) {
            known.mark_used();
            known
        } else {
            live.retain(|_, other| other.strong_count() > 0);
            let in_use = live.len() as u64;
            // moka evicts as it sees fit; what it has let go of only counts while it lives.
            if in_use >= self.settings.max_scopes.saturating_mul(2) {
                self.scopes_log.refused(usize::try_from(in_use).unwrap_or(usize::MAX));
                return Err(CacheError::TooManyScopes);
            }
            self.scopes_log.admitted();
            let upstream = self.upstreams.get_with(scope.clone(), || (self.make_upstream)(scope));
            let new = ScopeCache::new(scope.clone(), self.settings.clone(), upstream);
            live.insert(scope.clone(), Arc::downgrade(&new));
            new
        };
        self.lru.insert(scope.clone(), known.clone());
        Ok(known)
    }
}
