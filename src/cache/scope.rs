//! The cache of one scope: a caller says what it asks, and gets the answer or waits for it.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{
    sync::{Mutex, watch},
    time::{Instant, timeout_at},
};
use tower::ServiceExt as _;

use super::{
    assess::assess,
    freshness::Freshness,
    outcome::{CacheError, CacheRead, ForwardReason, Outcome, StaleReason, Validator},
    query::{PendingQuery, Query},
    reading::{Assessment, Gap, Reading},
    refresher,
    room::Room,
    settings::Settings,
    shared::{Lane, Shared},
    snapshot::Snapshot,
    wait_queue::WaitOutcome,
};
use crate::domain::{
    AttemptState, Caller, DescribeRequest, DescribeTarget, FairPermits, ListingFilter, Scope,
    TaskKey, Upstream,
};

/// The cache of one scope.
pub struct ScopeCache {
    shared: Arc<Shared>,
    /// The newest dry run. The lock is held while one runs: there is one at a time, and all that wait
    /// for it share it, or the next one.
    dry_run: Mutex<Option<DryRun>>,
    /// Callers that may wait for a dry run.
    dry_run_places: FairPermits,
}

/// A query whose answer is not known yet. [`ScopeCache::wait_for`] waits for it.
pub struct CacheMiss {
    pending: PendingQuery,
    gap: Gap,
    terms: Terms,
    /// The known answer, however old it is.
    known: Reading,
    snapshot: Arc<Snapshot>,
    takes_stale: bool,
}

impl CacheMiss {
    fn stale(self, reason: StaleReason) -> CacheRead {
        read(self.known, self.snapshot, Outcome::StaleIfError(reason))
    }
}

/// A dry run that was answered.
struct DryRun {
    started: Instant,
    result: Result<(), CacheError>,
}

/// A request, as far as it decides what old answers it takes.
#[derive(Clone, Copy)]
struct Terms {
    now: Instant,
    max_staleness: Option<Duration>,
    /// The answer must be from calls that started at this time or later.
    not_before: Instant,
}

impl Terms {
    /// Whether the request takes an answer that is this much older than the TTL. It does not if it says
    /// how old its answer may be.
    fn tolerate(self, freshness: Freshness, extra: Duration) -> bool {
        if self.max_staleness.is_some() || extra.is_zero() || freshness == Freshness::Missing {
            return false;
        }
        match self.not_before.checked_sub(extra) {
            Some(oldest) => freshness.satisfies(oldest),
            None => true,
        }
    }

    fn why(self, known: Freshness, ttl: Duration) -> ForwardReason {
        match (known, self.max_staleness) {
            (Freshness::Missing, _) => ForwardReason::Miss,
            (_, Some(limit)) if limit < ttl => ForwardReason::Request,
            _ => ForwardReason::Stale,
        }
    }
}

impl ScopeCache {
    pub(super) fn new(
        scope: Scope,
        settings: Arc<Settings>,
        upstream: Upstream,
        room: Arc<Room>,
    ) -> Self {
        let dry_run_places =
            FairPermits::new("dry runs", Some(scope.clone()), settings.max_waiting);
        Self {
            shared: Arc::new(Shared::new(scope, settings, upstream, room)),
            dry_run: Mutex::new(None),
            dry_run_places,
        }
    }

    /// The scope.
    #[must_use]
    pub fn scope(&self) -> &Scope {
        &self.shared.scope
    }

    /// The newest snapshot, and each that follows.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.shared.snapshot.subscribe()
    }

    /// The newest snapshot.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.shared.snapshot()
    }

    /// How old an answer may be if its request does not say.
    #[must_use]
    pub fn ttl(&self) -> Duration {
        self.shared.settings.ttl
    }

    /// How old a state may be that is told at once: as old as a List may be that tolerates no more than
    /// the gateway is configured to.
    #[must_use]
    pub fn tolerance(&self) -> Duration {
        let Settings { ttl, stale_while_revalidate, .. } = *self.shared.settings;
        ttl.saturating_add(stale_while_revalidate)
    }

    /// The attempts of the calls for all queries, as they start and end.
    #[must_use]
    pub fn attempts(&self) -> watch::Receiver<AttemptState> {
        self.shared.attempts.subscribe()
    }

    /// The latest start time of a task that EC2 has shown. None if no task is known.
    #[must_use]
    pub fn newest_start(&self) -> Option<SystemTime> {
        let snapshot = self.shared.snapshot();
        let newest = snapshot.tasks_after(None).next()?;
        Some(newest.key.start_time.0)
    }

    /// The answer to a query, not older than `max_staleness`; without one, not older than the TTL, or
    /// a little older as the settings allow. Waits for EC2 if that is not known yet. A caller may
    /// give up at any time: the call goes on, and harms and delays no other.
    ///
    /// # Errors
    /// If EC2 refuses or cannot be asked, and if too many callers wait already.
    pub async fn get(
        &self,
        query: Query,
        max_staleness: Option<Duration>,
    ) -> Result<CacheRead, CacheError> {
        match self.get_known(query, max_staleness) {
            Ok(read) => Ok(read),
            Err(miss) => self.wait_for(*miss, &Caller::default(), None).await,
        }
    }

    /// As [`Self::get`], if the answer is known.
    ///
    /// # Errors
    /// If it is not. [`Self::wait_for`] waits for it.
    pub fn get_known(
        &self,
        query: Query,
        max_staleness: Option<Duration>,
    ) -> Result<CacheRead, Box<CacheMiss>> {
        let terms = self.terms(max_staleness);
        self.shared.mark_used(terms.now);
        let snapshot = self.shared.snapshot();
        let gap = match self.find(&snapshot, &query, terms) {
            Ok(reading) => return Ok(read(reading, snapshot, Outcome::Hit)),
            Err(gap) => gap,
        };
        let pending = PendingQuery { query: Arc::new(query), not_before: terms.not_before };
        let known = snapshot.read(&pending.query, None).unwrap_or_else(Reading::missing);
        let Settings { stale_while_revalidate, stale_if_error, .. } = *self.shared.settings;
        if terms.tolerate(known.freshness, stale_while_revalidate) {
            self.shared.refresh_in_background(&pending, &gap);
            refresher::spawn_if_idle(&self.shared);
            return Ok(read(known, snapshot, Outcome::StaleWhileRevalidate));
        }
        let takes_stale = terms.tolerate(known.freshness, stale_if_error);
        let miss = CacheMiss { pending, gap, terms, known, snapshot, takes_stale };
        if takes_stale && let Some(reason) = self.shared.stale_at_once(&miss.pending, &miss.gap) {
            return Ok(miss.stale(reason));
        }
        Err(Box::new(miss))
    }

    /// Waits for an answer that was not known. A query about images is answered at the deadline at the
    /// latest, about as many of its images as are known by then, if that is at least one
    /// ([`Reading::images`]).
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn wait_for(
        &self,
        miss: CacheMiss,
        caller: &Caller,
        deadline: Option<Instant>,
    ) -> Result<CacheRead, CacheError> {
        let CacheMiss { pending, gap, takes_stale, .. } = &miss;
        let reason =
            match self.wait(Lane::Lists, caller, pending, gap, *takes_stale, deadline).await? {
                WaitOutcome::Met { reading, snapshot, collapsed } => {
                    let why = miss.terms.why(miss.known.freshness, self.ttl());
                    let outcome = Outcome::Fetched { why, collapsed };
                    return Ok(CacheRead { reading, snapshot, outcome, at: Instant::now() });
                }
                WaitOutcome::Stale(reason) => reason,
                WaitOutcome::Failed(error) if *takes_stale && error.kind.is_transient() => {
                    StaleReason::Failed(error)
                }
                WaitOutcome::Failed(error) => return Err(CacheError::Upstream(error)),
                WaitOutcome::Refused(error) => return Err(error),
            };
        Ok(miss.stale(reason))
    }

    /// The answer to a query that a caller takes who cannot wait for EC2, as if EC2 took long.
    #[must_use]
    pub fn get_now(&self, query: &Query, max_staleness: Option<Duration>) -> Option<CacheRead> {
        let terms = self.terms(max_staleness);
        let snapshot = self.shared.snapshot();
        if let Ok(reading) = self.find(&snapshot, query, terms) {
            return Some(read(reading, snapshot, Outcome::Hit));
        }
        let known = snapshot.read(query, None)?;
        if !terms.tolerate(known.freshness, self.shared.settings.stale_if_error) {
            return None;
        }
        Some(read(known, snapshot, Outcome::StaleIfError(StaleReason::Slow)))
    }

    /// Finds an answer that is new enough, or the gap.
    fn find(&self, snapshot: &Snapshot, query: &Query, terms: Terms) -> Result<Reading, Gap> {
        match assess(snapshot, query, terms.not_before) {
            Assessment::Missing(gap) => Err(gap),
            Assessment::Fresh(reading) => match &reading.further {
                Some(page) if self.shared.may_read_further(terms.now) => {
                    Err(Gap::page(page.clone()))
                }
                _ => Ok(reading),
            },
        }
    }

    /// How old the answer is that was read before, if it is as good as what [`Self::get`] would find.
    #[must_use]
    pub fn revalidate(
        &self,
        validator: &Validator,
        max_staleness: Option<Duration>,
    ) -> Option<Duration> {
        let terms = self.terms(max_staleness);
        self.shared.mark_used(terms.now);
        validator.age(&self.shared.snapshot.borrow(), terms.not_before, terms.now)
    }

    /// Waits until the answer to a query is known from calls that started at `not_before` or later. For
    /// watches: they have places of their own among those that wait.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn refresh(
        &self,
        query: Query,
        not_before: Instant,
        caller: &Caller,
    ) -> Result<(), CacheError> {
        self.shared.mark_used(Instant::now());
        let gap = match assess(&self.shared.snapshot(), &query, not_before) {
            Assessment::Fresh(reading) => match reading.further {
                Some(page) if self.shared.may_read_further(Instant::now()) => Gap::page(page),
                _ => return Ok(()),
            },
            Assessment::Missing(gap) => gap,
        };
        let pending = PendingQuery { query: Arc::new(query), not_before };
        match self.wait(Lane::Watches, caller, &pending, &gap, false, None).await? {
            WaitOutcome::Met { .. } | WaitOutcome::Stale(_) => Ok(()),
            WaitOutcome::Failed(error) => Err(CacheError::Upstream(error)),
            WaitOutcome::Refused(error) => Err(error),
        }
    }

    /// Asks EC2 only whether the call is permitted, by a dry run that starts at `not_before` or later.
    /// Callers share it.
    ///
    /// # Errors
    /// If it is not permitted, or EC2 cannot be asked.
    pub async fn dry_run(&self, not_before: Instant, caller: &Caller) -> Result<(), CacheError> {
        let Some(mut place) = self.dry_run_places.acquire(caller) else {
            return Err(CacheError::TooManyWaiting);
        };
        tokio::select! {
            biased;
            () = place.preempted() => Err(CacheError::Preempted),
            result = self.shared_dry_run(not_before) => result,
        }
    }

    async fn shared_dry_run(&self, not_before: Instant) -> Result<(), CacheError> {
        let mut newest = self.dry_run.lock().await;
        if let Some(DryRun { started, result }) = &*newest
            && *started >= not_before
        {
            return result.clone();
        }
        let listing = DescribeTarget::Listing { filter: ListingFilter::default(), next: None };
        let started = Instant::now();
        let answer =
            self.shared.upstream.clone().oneshot(DescribeRequest::new(listing, true)).await;
        let result = answer.map(|_| ()).map_err(CacheError::Upstream);
        *newest = Some(DryRun { started, result: result.clone() });
        result
    }

    /// Keeps a task while the guard lives, also if there is no room.
    #[must_use]
    pub fn keep(&self, key: &TaskKey) -> KeptTask {
        *self.shared.state().watched.entry(key.clone()).or_default() += 1;
        KeptTask { shared: self.shared.clone(), key: key.clone() }
    }

    /// Another scope needs room: gives back some of the tasks below the first page.
    pub(super) fn give_room(&self, tasks: usize) {
        self.shared.state().to_give = tasks;
        refresher::spawn_if_idle(&self.shared);
    }

    /// How many tasks this scope has to give back.
    pub(super) fn surplus(&self) -> usize {
        self.shared.room.surplus_of(&self.shared.holding)
    }

    /// How many callers of [`Self::get`] wait, and with how many queries.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> (usize, usize) {
        self.shared.state().waiting()
    }

    fn terms(&self, max_staleness: Option<Duration>) -> Terms {
        let now = Instant::now();
        let tolerated = max_staleness.unwrap_or(self.shared.settings.ttl);
        Terms { now, max_staleness, not_before: now.checked_sub(tolerated).unwrap_or(now) }
    }

    async fn wait(
        &self,
        lane: Lane,
        caller: &Caller,
        pending: &PendingQuery,
        gap: &Gap,
        takes_stale: bool,
        deadline: Option<Instant>,
    ) -> Result<WaitOutcome, CacheError> {
        let mut ticket = self.shared.wait(lane, caller, pending.clone(), gap, takes_stale)?;
        refresher::spawn_if_idle(&self.shared);
        if let Some(deadline) = deadline {
            match timeout_at(deadline, &mut ticket.outcome).await {
                Ok(outcome) => return outcome.map_err(|_| CacheError::RefresherLost),
                Err(_) => {
                    if let Some((reading, snapshot)) = self.known_so_far(pending) {
                        let collapsed = ticket.is_collapsed(reading.freshness);
                        let reading = Arc::new(reading);
                        return Ok(WaitOutcome::Met { reading, snapshot, collapsed });
                    }
                }
            }
        }
        (&mut ticket.outcome).await.map_err(|_| CacheError::RefresherLost)
    }

    /// The answer about the first images of a query. None if no image is known.
    fn known_so_far(&self, pending: &PendingQuery) -> Option<(Reading, Arc<Snapshot>)> {
        let snapshot = self.shared.snapshot();
        let gap = match assess(&snapshot, &pending.query, pending.not_before) {
            Assessment::Fresh(reading) => return Some((reading, snapshot)),
            Assessment::Missing(gap) => gap,
        };
        if gap.resolved == 0 {
            return None;
        }
        let first = pending.query.of_first_images(gap.resolved);
        match assess(&snapshot, &first, pending.not_before) {
            Assessment::Missing(_) => None,
            Assessment::Fresh(mut reading) => {
                reading.more = true;
                Some((reading, snapshot))
            }
        }
    }
}

fn read(reading: Reading, snapshot: Arc<Snapshot>, outcome: Outcome) -> CacheRead {
    CacheRead { reading: Arc::new(reading), snapshot, outcome, at: Instant::now() }
}

/// Keeps a task although there is no room.
pub struct KeptTask {
    shared: Arc<Shared>,
    key: TaskKey,
}

impl Drop for KeptTask {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        if let Some(count) = state.watched.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                state.watched.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tower::util::BoxCloneSyncService;

    use super::*;
    use crate::{
        cache::{
            Cache,
            tests::support::{Clock, answer},
        },
        domain::{AccountName, DescribeResponse, Region, TaskFilter, UpstreamError},
    };

    fn scope(region: &str) -> Scope {
        Scope { account: AccountName::default(), region: Region::parse(region).expect("valid") }
    }

    fn all() -> Query {
        Query::Listing { filter: TaskFilter::default(), after: None, count: 100 }
    }

    /// An EC2 with three tasks, whose calls are numbered; some of them panic.
    fn cache(
        panics: impl Fn(usize) -> bool + Clone + Send + Sync + 'static,
        settings: Settings,
    ) -> Cache {
        let calls = Arc::new(AtomicUsize::new(0));
        let clock = Clock::new();
        let upstream = tower::service_fn(move |_: DescribeRequest| {
            let (calls, panics) = (calls.clone(), panics.clone());
            async move {
                let call = calls.fetch_add(1, Ordering::Relaxed);
                assert!(!panics(call), "on purpose");
                Ok::<_, UpstreamError>(DescribeResponse::Tasks(answer(clock.done(1..=3), None)))
            }
        });
        Cache::new(settings, Arc::new(move |_| BoxCloneSyncService::new(upstream.clone())))
    }

    #[tokio::test(start_paused = true)]
    async fn a_refresher_that_panics_is_replaced_and_the_snapshot_is_not_lost() {
        let cache = cache(|call| call == 1, Settings::default()).scope(&scope("us-east-1"));
        cache.get(all(), None).await.expect("answered");
        tokio::time::advance(Duration::from_secs(1)).await;
        let lost = cache.get(all(), Some(Duration::ZERO)).await;
        assert_eq!(lost.expect_err("its refresher panicked"), CacheError::RefresherLost);
        let known = cache.get(all(), None).await.expect("answered");
        assert_eq!((known.outcome, known.snapshot.tasks_after(None).count()), (Outcome::Hit, 3));
        tokio::time::advance(Duration::from_secs(1)).await;
        let fresh = cache.get(all(), Some(Duration::ZERO)).await.expect("by a new refresher");
        assert!(matches!(fresh.outcome, Outcome::Fetched { .. }));
    }
}
