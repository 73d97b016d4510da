//! The cache of one scope: where a caller says what it needs, and gets it or waits for it.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Semaphore, oneshot, watch},
    time::Instant,
};
use tower::ServiceExt as _;

use super::{
    Settings,
    outcome::{CacheError, CacheRead, ForwardReason, Outcome, StaleReason, Validator},
    plan::PendingQuery,
    query::{Freshness, Query},
    refresher,
    snapshot::Snapshot,
    wait_queue::WaitQueue,
};
use crate::domain::{
    BoundLog, CallTime, DescribeRequest, DescribeTarget, ImageId, ListingFilter, Scope, Upstream,
    UpstreamError,
};

/// Most dry runs of a scope at once, the one whose turn it is included. Each costs a call, so that more
/// would have to wait for longer than anybody does.
const DRY_RUNS: usize = 16;

/// The cache of one scope.
pub struct ScopeCache {
    pub(super) scope: Scope,
    pub(super) settings: Arc<Settings>,
    pub(super) upstream: Upstream,
    /// The ledger as of now. Who reads it takes a snapshot; who watches is woken by each merge.
    pub(super) snapshot: watch::Sender<Arc<Snapshot>>,
    state: Mutex<State>,
    /// One dry run at a time, so that a storm of them leaves the keeper its share of the budget.
    dry_runs: Semaphore,
    /// So many may wait for theirs.
    dry_run_places: Semaphore,
    /// Log lines of the bounds of this scope.
    waiting_log: BoundLog,
    queries_log: BoundLog,
    tasks_log: BoundLog,
    /// Rounds that were made in search of idle scopes since it was last used.
    idle_rounds: AtomicU32,
}

/// What callers and the keeper share.
#[derive(Default)]
pub(super) struct State {
    /// Who waits for what.
    pub(super) queue: WaitQueue<WaitOutcome>,
    /// Refusals of a moment ago.
    pub(super) refusals: Refusals,
    /// A keeper is alive.
    pub(super) running: bool,
    /// Why whoever takes an old answer should not wait at present.
    pub(super) serve_stale: Option<StaleReason>,
}

/// What a waiting caller is told.
pub(super) enum WaitOutcome {
    /// The ledger knows now.
    Satisfied(Arc<Snapshot>),
    /// EC2 said no, or could not be asked.
    Failed(UpstreamError),
    /// There is no room for what it needs.
    Refused(CacheError),
    /// Whoever takes an old answer should not wait.
    Stale(StaleReason),
}

/// What EC2 refused a moment ago, so that a storm of the same question costs one call.
#[derive(Default)]
pub(super) struct Refusals {
    /// Everything in the scope.
    pub(super) scope: Option<Refusal>,
    /// What would be put to EC2 with this filter.
    pub(super) listings: HashMap<ListingFilter, Refusal>,
    /// One image.
    pub(super) images: HashMap<ImageId, Refusal>,
}

/// One refusal.
#[derive(Clone)]
pub(super) struct Refusal {
    /// When the call started.
    pub(super) at: CallTime,
    /// When the cache forgets the refusal.
    pub(super) until: Instant,
    /// How.
    pub(super) error: UpstreamError,
}

impl Refusals {
    /// The refusal of a demand, by the same rule of freshness as an answer.
    fn of(&self, pending_query: PendingQuery<'_>, now: Instant) -> Option<&Refusal> {
        let counts = |known: &&Refusal| known.counts(pending_query, now);
        let own = match pending_query.query {
            Query::Latest { images, .. } => {
                images.iter().find_map(|image| self.images.get(image).filter(counts))
            }
            Query::Listing { filter, .. } => self.listings.get(&filter.listing()).filter(counts),
            Query::Task(_) => None,
        };
        own.or(self.scope.as_ref().filter(counts))
    }

    /// Forgets what is over.
    pub(super) fn expire(&mut self, now: Instant) {
        self.scope.take_if(|known| known.until <= now);
        self.listings.retain(|_, known| known.until > now);
        self.images.retain(|_, known| known.until > now);
    }
}

impl Refusal {
    fn counts(&self, pending_query: PendingQuery<'_>, now: Instant) -> bool {
        self.until > now && Freshness::AsOf(self.at).satisfies(pending_query.not_before)
    }
}

impl ScopeCache {
    pub(super) fn new(scope: Scope, settings: Arc<Settings>, upstream: Upstream) -> Arc<Self> {
        let bound_log = |bound| BoundLog::new(bound, Some(scope.clone()));
        Arc::new(Self {
            waiting_log: bound_log("waiting requests"),
            queries_log: bound_log("pending queries"),
            tasks_log: bound_log("tasks"),
            scope,
            settings,
            upstream,
            snapshot: watch::Sender::default(),
            state: Mutex::default(),
            dry_runs: Semaphore::new(1),
            dry_run_places: Semaphore::new(DRY_RUNS),
            idle_rounds: AtomicU32::new(0),
        })
    }

    /// It is not idle. A flag rather than the time: what is asked for often should not look at the
    /// clock for it.
    pub(super) fn mark_used(&self) {
        self.idle_rounds.store(0, Ordering::Relaxed);
    }

    /// How many of these rounds, this one included, found it unused.
    pub(super) fn idle_rounds(&self) -> u32 {
        self.idle_rounds.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Whose cache it is.
    #[must_use]
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    /// The ledger as of now, and of every merge from now on.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.snapshot.subscribe()
    }

    /// What is needed, not older than `max_staleness`; without one, not older than the TTL, or a
    /// little older by the settings. Waits for EC2 where that is not known yet. A caller may give
    /// up at any time: the call goes on, and harms and delays nobody.
    ///
    /// # Errors
    /// Where EC2 refuses or cannot be asked, and where too many wait already.
    pub async fn get(
        self: &Arc<Self>,
        query: Query,
        max_staleness: Option<Duration>,
    ) -> Result<CacheRead, CacheError> {
        let now = Instant::now();
        let tolerated = max_staleness.unwrap_or(self.settings.ttl);
        let not_before = self.not_before(now, max_staleness);
        let snapshot = self.snapshot.borrow().clone();
        let known = query.freshness(&snapshot);
        if known.satisfies(not_before) {
            return Ok(CacheRead { snapshot, known, outcome: Outcome::Hit, at: now });
        }
        let tolerates = |extra: Duration| {
            let limit = now.checked_sub(tolerated.saturating_add(extra));
            max_staleness.is_none()
                && extra > Duration::ZERO
                && limit.is_none_or(|limit| known.satisfies(limit))
                && known != Freshness::Missing
        };
        if tolerates(self.settings.stale_while_revalidate) {
            self.refresh_in_background(&query, not_before);
            let outcome = Outcome::StaleWhileRevalidate;
            return Ok(CacheRead { snapshot, known, outcome, at: now });
        }
        let takes_stale = tolerates(self.settings.stale_if_error);
        let why = match (known, max_staleness) {
            (Freshness::Missing, _) => ForwardReason::Miss,
            (_, Some(limit)) if limit < self.settings.ttl => ForwardReason::Request,
            _ => ForwardReason::Stale,
        };
        let (outcome, collapsed) = self.wait(&query, not_before, takes_stale)?;
        let outcome = outcome.await.map_err(|_| CacheError::RefresherLost)?;
        self.log_tasks(&outcome);
        let reason = match outcome {
            WaitOutcome::Satisfied(snapshot) => {
                let known = query.freshness(&snapshot);
                let outcome = Outcome::Fetched { why, collapsed };
                return Ok(CacheRead { snapshot, known, outcome, at: Instant::now() });
            }
            WaitOutcome::Stale(reason) => reason,
            WaitOutcome::Failed(error) if takes_stale && error.kind.is_transient() => {
                StaleReason::Failed(error)
            }
            WaitOutcome::Failed(error) => return Err(CacheError::Upstream(error)),
            WaitOutcome::Refused(error) => return Err(error),
        };
        Ok(CacheRead {
            snapshot,
            known,
            outcome: Outcome::StaleIfError(reason),
            at: Instant::now(),
        })
    }

    /// The hit of an answer that was read before, if it is as good as what [`Self::get`] would find:
    /// how old it is.
    #[must_use]
    pub fn revalidate(
        &self,
        validator: &Validator,
        max_staleness: Option<Duration>,
    ) -> Option<Duration> {
        self.mark_used();
        let now = Instant::now();
        let holds = validator.known.satisfies(self.not_before(now, max_staleness));
        (holds && validator.is_of(&self.snapshot.borrow())).then(|| validator.known.age(now))
    }

    /// The oldest call that would do for a request of now.
    fn not_before(&self, now: Instant, max_staleness: Option<Duration>) -> Instant {
        now.checked_sub(max_staleness.unwrap_or(self.settings.ttl)).unwrap_or(now)
    }

    /// Waits until what is needed is known from a call that started at `since` or later.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn refresh(
        self: &Arc<Self>,
        query: Query,
        not_before: Instant,
    ) -> Result<(), CacheError> {
        if query.freshness(&self.snapshot.borrow()).satisfies(not_before) {
            return Ok(());
        }
        let (outcome, _) = self.wait(&query, not_before, false)?;
        let outcome = outcome.await.map_err(|_| CacheError::RefresherLost)?;
        self.log_tasks(&outcome);
        match outcome {
            WaitOutcome::Satisfied(_) | WaitOutcome::Stale(_) => Ok(()),
            WaitOutcome::Failed(error) => Err(CacheError::Upstream(error)),
            WaitOutcome::Refused(error) => Err(error),
        }
    }

    /// Asks EC2 only whether the call is permitted. Never cached and never shared.
    ///
    /// # Errors
    /// Where it is not, or EC2 cannot be asked.
    pub async fn dry_run(&self) -> Result<(), CacheError> {
        let request = DescribeRequest {
            target: DescribeTarget::Listing { filter: ListingFilter::default(), next: None },
            dry_run: true,
        };
        let _place = self.dry_run_places.try_acquire().map_err(|_| CacheError::TooManyWaiting)?;
        let _turn = self.dry_runs.acquire().await.map_err(|_| CacheError::RefresherLost)?;
        let answer = self.upstream.clone().oneshot(request).await;
        answer.map(|_| ()).map_err(CacheError::Upstream)
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        // Each change of the state is complete before anything can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait(
        self: &Arc<Self>,
        query: &Query,
        not_before: Instant,
        takes_stale: bool,
    ) -> Result<(oneshot::Receiver<WaitOutcome>, bool), CacheError> {
        let (mut state, now) = (self.state(), Instant::now());
        if let Some(refusal) = state.refusals.of(PendingQuery { query, not_before }, now) {
            let (error, left) = (refusal.error.clone(), refusal.until - now);
            return Err(CacheError::Remembered { error, left });
        }
        if !state.has_room(query, &self.settings) {
            state.queue.forget_gone();
            if !state.has_room(query, &self.settings) {
                self.log_no_room(&state);
                return Err(CacheError::TooManyWaiting);
            }
        }
        self.waiting_log.admitted();
        self.queries_log.admitted();
        let (sender, receiver) = oneshot::channel();
        if let Some(reason) = state.serve_stale.clone().filter(|_| takes_stale) {
            state.queue.refresh_in_background(query.clone(), not_before);
            // The receiver is in our hands, so this cannot fail.
            let _ = sender.send(WaitOutcome::Stale(reason));
            return Ok((receiver, true));
        }
        state.queue.wait(query.clone(), not_before, takes_stale, sender);
        let collapsed = state.running;
        refresher::spawn_if_idle(self, &mut state);
        Ok((receiver, collapsed))
    }

    fn log_no_room(&self, state: &State) {
        if state.queue.waiting() >= self.settings.max_waiting {
            self.waiting_log.refused(self.settings.max_waiting);
        } else {
            self.queries_log.refused(self.settings.max_queries);
        }
    }

    /// Logs a query that has no room among the tasks, or one that has.
    fn log_tasks(&self, outcome: &WaitOutcome) {
        match outcome {
            WaitOutcome::Refused(CacheError::TooManyTasks) => {
                self.tasks_log.refused(self.settings.max_tasks);
            }
            WaitOutcome::Satisfied(snapshot) if snapshot.len() < self.settings.max_tasks => {
                self.tasks_log.admitted();
            }
            WaitOutcome::Satisfied(_)
            | WaitOutcome::Failed(_)
            | WaitOutcome::Refused(_)
            | WaitOutcome::Stale(_) => {}
        }
    }

    /// Over a bound it is left out: who asked has an answer, and the next to ask brings it again.
    fn refresh_in_background(self: &Arc<Self>, query: &Query, not_before: Instant) {
        let mut state = self.state();
        if state.refusals.of(PendingQuery { query, not_before }, Instant::now()).is_none()
            && state.has_room(query, &self.settings)
        {
            state.queue.refresh_in_background(query.clone(), not_before);
            refresher::spawn_if_idle(self, &mut state);
        }
    }
}

impl State {
    /// Whether one more caller may wait for this.
    fn has_room(&self, query: &Query, settings: &Settings) -> bool {
        self.queue.waiting() < settings.max_waiting
            && (self.queue.queries() < settings.max_queries || self.queue.contains(query))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Weak, atomic::AtomicUsize};

    use tower::util::BoxCloneSyncService;

    use super::*;
    use crate::{
        cache::{
            Cache,
            tests::support::{Clock, answer},
        },
        domain::{AccountName, DescribeResponse, Region, TaskFilter},
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
    async fn a_keeper_that_panics_is_replaced_and_the_ledger_is_not_lost() {
        let cache =
            cache(|call| call == 1, Settings::default()).scope(&scope("us-east-1")).expect("room");
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

    #[tokio::test(start_paused = true)]
    async fn an_idle_scope_gives_its_memory_back_and_a_busy_one_is_kept() {
        let idle = Duration::from_mins(10);
        let settings = Settings { scope_idle: idle, ..Settings::default() };
        let cache = cache(|_| false, settings);
        let (busy, quiet) = (scope("us-east-1"), scope("us-east-2"));
        let (mut weak_busy, mut weak_quiet) = (Weak::new(), Weak::new());
        for (scope, weak) in [(&busy, &mut weak_busy), (&quiet, &mut weak_quiet)] {
            let scope = cache.scope(scope).expect("room");
            scope.get(all(), None).await.expect("answered");
            *weak = Arc::downgrade(&scope);
        }
        let pass = async |time: Duration| {
            tokio::time::sleep(time).await;
            drop(cache.scope(&busy).expect("room"));
        };
        for _ in 0..9 {
            pass(idle / 9).await;
        }
        assert!(weak_quiet.upgrade().is_some(), "not idle for long enough");
        for _ in 0..2 {
            pass(idle / 9).await;
        }
        assert!(weak_quiet.upgrade().is_none(), "given back without anybody asking for it");
        assert!(weak_busy.upgrade().is_some());
        let again = cache.scope(&quiet).expect("room").get(all(), None).await.expect("answered");
        assert!(matches!(again.outcome, Outcome::Fetched { why: ForwardReason::Miss, .. }));
    }

    #[tokio::test(start_paused = true)]
    async fn a_scope_that_comes_back_has_no_new_budget() {
        let connects = Arc::new(AtomicUsize::new(0));
        let counted = connects.clone();
        let upstream =
            tower::service_fn(|_: DescribeRequest| async { Ok(DescribeResponse::Permitted) });
        let connect = move |_: &Scope| {
            counted.fetch_add(1, Ordering::Relaxed);
            BoxCloneSyncService::new(upstream)
        };
        let settings = Settings { max_scopes: 2, ..Settings::default() };
        let cache = Cache::new(settings, Arc::new(connect));
        for _ in 0..10 {
            for region in ["us-east-1", "us-east-2", "eu-west-1", "eu-west-2"] {
                drop(cache.scope(&scope(region)).expect("room"));
            }
        }
        assert_eq!(connects.load(Ordering::Relaxed), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn scopes_in_use_are_bounded() {
        let settings = Settings { max_scopes: 2, ..Settings::default() };
        let cache = cache(|_| false, settings);
        let regions = ["us-east-1", "us-east-2", "eu-west-1", "eu-west-2", "eu-west-3"];
        let held: Vec<_> = regions.iter().map(|region| cache.scope(&scope(region))).collect();
        assert_eq!(held.iter().filter(|held| held.is_ok()).count(), 4);
        assert_eq!(held[4].as_ref().err(), Some(&CacheError::TooManyScopes));
        let again = cache.scope(&scope("us-east-1")).expect("known");
        assert!(Arc::ptr_eq(&again, held[0].as_ref().expect("held")), "the same one");
    }
}
