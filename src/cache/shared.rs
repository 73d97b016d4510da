//! The state that the handles of a scope and its refresher share.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{
    sync::{oneshot, watch},
    time::Instant,
};

use super::{
    fetch::Fetch,
    freshness::Freshness,
    outcome::{CacheError, StaleReason},
    pending::QueryId,
    query::PendingQuery,
    reading::Gap,
    refusals::Refusals,
    room::{Holding, Room},
    settings::Settings,
    snapshot::Snapshot,
    wait_queue::{
        Admission, Arrivals, Bounds, PendingGroup, Place, WaitOutcome, WaitQueue, Waiter,
    },
};
use crate::domain::{Attempts, BoundLog, CallTime, Caller, Scope, TaskKey, Upstream};

/// Most pages of a scope within one TTL that are read for images that look-ups do not tell; for one watch,
/// at all.
pub(super) const FURTHER_PAGES: usize = 5;

/// Most bytes of the queries that wait at once, in each of the two queues of a scope.
const MAX_QUERY_BYTES: usize = 16 << 20;

/// The state that the handles of a scope and its refresher share.
pub(super) struct Shared {
    pub(super) scope: Scope,
    pub(super) settings: Arc<Settings>,
    pub(super) upstream: Upstream,
    /// The attempts of the refresher's calls.
    pub(super) attempts: Attempts,
    /// The newest snapshot. Only the refresher replaces it.
    pub(super) snapshot: watch::Sender<Arc<Snapshot>>,
    pub(super) room: Arc<Room>,
    pub(super) holding: Arc<Holding>,
    pub(super) begun: Instant,
    /// Log lines of the places in the two queues, and of the bound of tasks.
    waiting_logs: [BoundLog; 2],
    pub(super) tasks_log: BoundLog,
    state: Mutex<State>,
}

/// What changes, all of it under one lock. No work under it grows with the number of tasks.
pub(super) struct State {
    /// The callers of `get`, and the refreshes of watches. Each has places of its own.
    queues: [WaitQueue; 2],
    pub(super) refusals: Refusals,
    /// A refresher is alive.
    pub(super) running: bool,
    /// Why callers that take an old answer should not wait at present.
    pub(super) serve_stale: Option<StaleReason>,
    /// When pages were read for images that look-ups do not tell.
    further: VecDeque<Instant>,
    /// The watched tasks, and how often each is watched.
    pub(super) watched: HashMap<TaskKey, usize>,
    /// How many callers have arrived.
    arrivals: Arrivals,
    /// How many had arrived when the last call was made.
    pub(super) arrivals_at_call: Arrivals,
    /// Tasks that another scope has need of the room of.
    pub(super) to_give: usize,
}

/// Which queue a caller waits in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lane {
    /// Callers of `get`.
    Lists = 0,
    /// Refreshes of watches.
    Watches = 1,
}

impl Lane {
    /// The lane of a query.
    pub(super) fn of(id: QueryId) -> Self {
        if id.is_multiple_of(2) { Self::Lists } else { Self::Watches }
    }
}

impl Shared {
    pub(super) fn new(
        scope: Scope,
        settings: Arc<Settings>,
        upstream: Upstream,
        room: Arc<Room>,
    ) -> Self {
        let lists = Bounds {
            callers: settings.max_waiting,
            queries: settings.max_queries,
            bytes: MAX_QUERY_BYTES,
        };
        let watches = Bounds {
            callers: settings.max_refreshes,
            queries: settings.max_refreshes,
            bytes: usize::MAX,
        };
        let state = State {
            queues: [WaitQueue::new(lists, 0), WaitQueue::new(watches, 1)],
            refusals: Refusals::default(),
            running: false,
            serve_stale: None,
            further: VecDeque::new(),
            watched: HashMap::new(),
            arrivals: 0,
            arrivals_at_call: 0,
            to_give: 0,
        };
        let log = |bound| BoundLog::new(bound, Some(scope.clone()));
        Self {
            waiting_logs: [log("waiting requests"), log("watch refreshes")],
            tasks_log: log("tasks"),
            scope,
            settings,
            upstream,
            attempts: Attempts::default(),
            snapshot: watch::Sender::default(),
            holding: room.share(),
            room,
            begun: Instant::now(),
            state: Mutex::new(state),
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        // Each change of the state is complete before anything can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest snapshot.
    pub(super) fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.borrow().clone()
    }

    /// The scope is in use.
    pub(super) fn mark_used(&self, now: Instant) {
        let since = now.saturating_duration_since(self.begun).as_millis();
        self.holding.mark_used(u64::try_from(since).unwrap_or(u64::MAX));
    }

    /// Whether one more page may be read for images that look-ups do not tell.
    pub(super) fn may_read_further(&self, now: Instant) -> bool {
        !self.room.is_full_for(&self.holding)
            && self.state().further_pages(now, &self.settings) < FURTHER_PAGES
    }

    /// Lets a caller wait, unless EC2 refused the same a moment ago or too many wait.
    pub(super) fn wait(
        self: &Arc<Self>,
        lane: Lane,
        caller: &Caller,
        pending: PendingQuery,
        gap: &Gap,
        takes_stale: bool,
    ) -> Result<Ticket, CacheError> {
        let mut state = self.state();
        state.check_refusals(&pending, gap)?;
        if takes_stale && let Some(reason) = state.stale_at_once(&pending) {
            return Ok(Ticket::told(WaitOutcome::Stale(reason)));
        }
        let queue = &mut state.queues[lane as usize];
        self.admit(lane, queue.make_room(&pending.query, caller))?;
        let (notify, outcome) = oneshot::channel();
        let PendingQuery { not_before, .. } = pending;
        let caller = caller.clone();
        let waiter = Waiter { caller, not_before, takes_stale, notify, joined: None };
        state.arrivals += 1;
        let arrival = state.arrivals;
        let place = state.queues[lane as usize].wait(pending, waiter, arrival);
        Ok(Ticket { outcome, place: Some((self.clone(), lane, place)) })
    }

    fn admit(&self, lane: Lane, admission: Admission) -> Result<(), CacheError> {
        let log = &self.waiting_logs[lane as usize];
        if admission == Admission::Free {
            log.admitted();
        } else {
            log.refused(self.max_callers(lane));
        }
        if admission == Admission::Refused { Err(CacheError::TooManyWaiting) } else { Ok(()) }
    }

    /// The reason to serve an old answer at once. It is refreshed in the background.
    pub(super) fn stale_at_once(&self, pending: &PendingQuery, gap: &Gap) -> Option<StaleReason> {
        let mut state = self.state();
        state.check_refusals(pending, gap).ok()?;
        state.stale_at_once(pending)
    }

    fn max_callers(&self, lane: Lane) -> usize {
        match lane {
            Lane::Lists => self.settings.max_waiting,
            Lane::Watches => self.settings.max_refreshes,
        }
    }

    /// Asks for a refresh that no caller waits for. If there is no room it is left out: the caller has
    /// an answer, and the next one asks again.
    pub(super) fn refresh_in_background(&self, pending: &PendingQuery, gap: &Gap) {
        let mut state = self.state();
        if state.check_refusals(pending, gap).is_ok() {
            state.refresh_in_background(pending);
        }
    }
}

impl State {
    /// Whether nothing is pending.
    pub(super) fn is_idle(&self) -> bool {
        self.queues.iter().all(WaitQueue::is_empty) && self.to_give == 0
    }

    /// All that is pending, from the query that waits longest on.
    pub(super) fn pending(&mut self) -> Vec<PendingGroup> {
        let mut pending = Vec::new();
        for queue in &mut self.queues {
            pending.extend(queue.pending());
        }
        // Refreshes that no caller waits for are at the end.
        pending.sort_by_key(|group| (group.oldest.is_none(), group.oldest));
        pending
    }

    /// Why a caller that takes an old answer should not wait. Its query is refreshed in the background.
    fn stale_at_once(&mut self, pending: &PendingQuery) -> Option<StaleReason> {
        let reason = self.serve_stale.clone()?;
        self.refresh_in_background(pending);
        Some(reason)
    }

    fn refresh_in_background(&mut self, pending: &PendingQuery) {
        let queue = &mut self.queues[Lane::Lists as usize];
        if queue.has_room_in_background(&pending.query) {
            queue.refresh_in_background(pending.clone());
        }
    }

    /// The queue that a query waits in.
    pub(super) fn queue_of(&mut self, id: QueryId) -> &mut WaitQueue {
        &mut self.queues[Lane::of(id) as usize]
    }

    /// A call is made for some queries.
    pub(super) fn call_starts(&mut self, queries: &[QueryId]) {
        let mut requests = 0;
        for queue in &self.queues {
            requests += queue.requests(queries);
        }
        if requests > 1 {
            for queue in &mut self.queues {
                queue.share_call(queries, self.arrivals);
            }
        }
        self.arrivals_at_call = self.arrivals;
    }

    /// EC2 has answered the call that was made last.
    pub(super) fn call_answered(&mut self, fetch: &Fetch, at: CallTime) {
        self.refusals.answered(fetch, at);
        for queue in &mut self.queues {
            queue.join_call(at.instant, self.arrivals_at_call);
        }
    }

    /// A page is read for images that look-ups do not tell.
    pub(super) fn reads_further(&mut self, now: Instant) {
        self.further.push_back(now);
    }

    /// No more pages are read for them within this TTL.
    pub(super) fn reads_no_further(&mut self, now: Instant) {
        self.further.extend([now; FURTHER_PAGES]);
    }

    /// Tells all callers that take an old answer.
    pub(super) fn serve_stale(&mut self, reason: &StaleReason) {
        self.serve_stale = Some(reason.clone());
        for queue in &mut self.queues {
            queue.serve_stale(reason);
        }
    }

    /// The names of all pending queries.
    pub(super) fn all(&self) -> Vec<QueryId> {
        let mut all = Vec::new();
        for queue in &self.queues {
            all.extend(queue.all());
        }
        all
    }

    /// Forgets all that is pending. The channels of the callers close.
    pub(super) fn clear(&mut self) {
        for queue in &mut self.queues {
            queue.clear();
        }
    }

    /// How many callers of `get` wait, and with how many queries.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> (usize, usize) {
        let lists = &self.queues[Lane::Lists as usize];
        (lists.callers(), lists.queries())
    }

    fn further_pages(&mut self, now: Instant, settings: &Settings) -> usize {
        while let Some(oldest) = self.further.front()
            && *oldest + settings.ttl <= now
        {
            self.further.pop_front();
        }
        self.further.len()
    }

    fn check_refusals(&self, pending: &PendingQuery, gap: &Gap) -> Result<(), CacheError> {
        let now = Instant::now();
        match self.refusals.of(gap, pending.not_before, now) {
            None => Ok(()),
            Some(refusal) => Err(CacheError::Remembered {
                error: refusal.error.clone(),
                left: refusal.until - now,
            }),
        }
    }
}

/// A caller's place, until it is told or goes away.
pub(super) struct Ticket {
    pub(super) outcome: oneshot::Receiver<WaitOutcome>,
    place: Option<(Arc<Shared>, Lane, Place)>,
}

impl Ticket {
    /// The caller is told at once.
    fn told(outcome: WaitOutcome) -> Self {
        let (notify, receiver) = oneshot::channel();
        // The receiver is at hand, so this cannot fail.
        let _ = notify.send(outcome);
        Self { outcome: receiver, place: None }
    }
}

impl Ticket {
    /// Whether the caller would get an answer of a call that was started or made for others, too.
    pub(super) fn is_collapsed(&self, answer: Freshness) -> bool {
        let Some((shared, lane, place)) = &self.place else { return false };
        shared.state().queues[*lane as usize].is_collapsed(*place, answer)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some((shared, lane, place)) = self.place.take() {
            shared.state().queues[lane as usize].leave(place);
        }
    }
}
