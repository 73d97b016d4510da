//! The callers that wait, and the refreshes that no caller waits for. Callers with the same query
//! stand together, so that a group costs no more than one of them when plans are made.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use tokio::{sync::oneshot, time::Instant};

use super::{
    freshness::Freshness,
    outcome::{CacheError, StaleReason},
    planner::QueryId,
    query::{CallerKey, PendingQuery, Query},
    reading::Reading,
    snapshot::Snapshot,
};
use crate::domain::UpstreamError;

/// The end of a caller's wait.
#[derive(Debug)]
pub(super) enum WaitOutcome {
    /// The answer.
    Met {
        reading: Arc<Reading>,
        snapshot: Arc<Snapshot>,
        /// The call had been started, or was also made, for another request.
        collapsed: bool,
    },
    /// EC2 refused, or could not be asked.
    Failed(UpstreamError),
    /// There is no room for what the query needs.
    Refused(CacheError),
    /// A caller that takes an old answer should not wait.
    Stale(StaleReason),
}

/// Most of what may wait at once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) callers: usize,
    pub(super) queries: usize,
    /// Bytes of all queries together.
    pub(super) bytes: usize,
}

/// A caller's place in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    query: QueryId,
    arrival: Arrivals,
}

/// A caller that is about to wait.
pub(super) struct Waiter {
    /// The call that it is told from must have started at this time or later.
    pub(super) not_before: Instant,
    /// It takes an old answer if EC2 cannot be asked.
    pub(super) takes_stale: bool,
    /// Tells it how it ended.
    pub(super) notify: oneshot::Sender<WaitOutcome>,
    /// When the call started that ran as the caller arrived. None until that call is answered.
    pub(super) joined: Option<Instant>,
}

/// How many callers have arrived, to tell who came before a call and who came while it ran.
pub(super) type Arrivals = u64;

/// The callers with the same query.
struct WaiterGroup {
    query: Arc<Query>,
    caller: CallerKey,
    /// By their arrival.
    waiting: BTreeMap<Arrivals, Waiter>,
    /// A refresh that no caller waits for.
    background_refresh: Option<Instant>,
    /// The time for which calls are being made, until it is satisfied. Were it raised by each caller
    /// that arrives, a query of several calls would begin again each time.
    batch_not_before: Option<Instant>,
    /// The callers up to this one share a call with another request.
    shared_up_to: Option<Arrivals>,
}

/// The queue.
pub(super) struct WaitQueue {
    bounds: Bounds,
    groups: BTreeMap<QueryId, WaiterGroup>,
    ids: HashMap<Arc<Query>, QueryId>,
    next_id: QueryId,
    callers: usize,
    bytes: usize,
}

/// Names of queries are so far apart, so that two queues have different ones.
const ID_STEP: QueryId = 2;

impl WaitQueue {
    /// An empty queue. Queues with different `first_id`, of 0 and 1, name queries differently.
    pub(super) fn new(bounds: Bounds, first_id: QueryId) -> Self {
        Self {
            bounds,
            groups: BTreeMap::new(),
            ids: HashMap::new(),
            next_id: first_id,
            callers: 0,
            bytes: 0,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// How many callers wait.
    #[cfg(test)]
    pub(super) fn callers(&self) -> usize {
        self.callers
    }

    /// How many different queries are pending.
    #[cfg(test)]
    pub(super) fn queries(&self) -> usize {
        self.groups.len()
    }

    /// Whether one more caller may wait for a query.
    pub(super) fn has_room(&self, query: &Query) -> bool {
        if self.callers >= self.bounds.callers {
            return false;
        }
        let is_within = self.groups.len() < self.bounds.queries
            && self.bytes + query.weight() <= self.bounds.bytes;
        is_within || self.ids.contains_key(query)
    }

    /// Lets a caller wait. Callers are numbered as they arrive.
    pub(super) fn wait(
        &mut self,
        pending: PendingQuery,
        waiter: Waiter,
        arrival: Arrivals,
    ) -> Place {
        self.callers += 1;
        let query = self.group_of(pending);
        if let Some(group) = self.groups.get_mut(&query) {
            group.waiting.insert(arrival, waiter);
        }
        Place { query, arrival }
    }

    /// Asks for a refresh that no caller waits for.
    pub(super) fn refresh_in_background(&mut self, pending: PendingQuery) {
        let not_before = pending.not_before;
        let query = self.group_of(pending);
        if let Some(group) = self.groups.get_mut(&query) {
            group.background_refresh = group.background_refresh.max(Some(not_before));
        }
    }

    /// A caller has gone away, or was told.
    pub(super) fn leave(&mut self, place: Place) {
        let Some(group) = self.groups.get_mut(&place.query) else { return };
        if group.waiting.remove(&place.arrival).is_some() {
            self.callers -= 1;
        }
        self.drop_if_done(place.query);
    }

    /// The pending queries, and the first caller of each.
    pub(super) fn pending(&mut self) -> Vec<(Option<Arrivals>, QueryId, PendingQuery)> {
        let mut pending = Vec::with_capacity(self.groups.len());
        for (id, group) in &mut self.groups {
            if group.batch_not_before.is_none() {
                group.batch_not_before = group.newest();
            }
            if let Some(not_before) = group.batch_not_before {
                let (query, caller) = (group.query.clone(), group.caller);
                let oldest = group.waiting.keys().next().copied();
                pending.push((oldest, *id, PendingQuery { query, not_before, caller }));
            }
        }
        pending
    }

    /// A call is made for some queries. All callers of these that have arrived share it.
    pub(super) fn share_call(&mut self, queries: &[QueryId], arrivals: Arrivals) {
        for id in queries {
            if let Some(group) = self.groups.get_mut(id) {
                group.shared_up_to = Some(arrivals);
            }
        }
    }

    /// A call that started at `at` is answered. The callers that arrived while it ran joined it.
    pub(super) fn join_call(&mut self, at: Instant, arrivals_at_call: Arrivals) {
        for group in self.groups.values_mut() {
            for waiter in group.waiting.range_mut(arrivals_at_call + 1..).map(|(_, waiter)| waiter)
            {
                waiter.joined.get_or_insert(at);
            }
        }
    }

    /// Whether a caller would get an answer of a call that was started or made for others, too.
    pub(super) fn is_collapsed(&self, place: Place, as_of: Freshness) -> bool {
        let Some(group) = self.groups.get(&place.query) else { return false };
        let waiter = group.waiting.get(&place.arrival);
        waiter.is_some_and(|waiter| group.is_collapsed(place.arrival, waiter, as_of))
    }

    /// How many requests wait for some queries.
    pub(super) fn requests(&self, queries: &[QueryId]) -> usize {
        let mut requests = 0;
        for id in queries {
            if let Some(group) = self.groups.get(id) {
                requests += group.waiting.len() + usize::from(group.background_refresh.is_some());
            }
        }
        requests
    }

    /// Tells those callers of a query that an answer satisfies. `arrivals` is how many callers had arrived
    /// when the last call was made: those that came later waited for nothing but that call.
    pub(super) fn answer(
        &mut self,
        id: QueryId,
        reading: &Arc<Reading>,
        snapshot: &Arc<Snapshot>,
        arrivals: Arrivals,
    ) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        let freshness = reading.freshness;
        group.batch_not_before.take_if(|not_before| freshness.satisfies(*not_before));
        group.background_refresh.take_if(|not_before| freshness.satisfies(*not_before));
        let satisfied: Vec<_> = group
            .waiting
            .extract_if(.., |_, waiter| freshness.satisfies(waiter.not_before))
            .collect();
        for (arrival, waiter) in satisfied {
            self.callers -= 1;
            let outcome = WaitOutcome::Met {
                reading: reading.clone(),
                snapshot: snapshot.clone(),
                collapsed: arrival > arrivals || group.is_collapsed(arrival, &waiter, freshness),
            };
            // A caller that has gone away need not be told.
            let _ = waiter.notify.send(outcome);
        }
        group.shared_up_to = None;
        self.drop_if_done(id);
    }

    /// Tells those callers of a query that want nothing newer than a failed call, or all.
    pub(super) fn fail(
        &mut self,
        id: QueryId,
        until: Option<Instant>,
        outcome: impl Fn() -> WaitOutcome,
    ) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        group.batch_not_before.take_if(|not_before| counts(*not_before, until));
        group.background_refresh.take_if(|not_before| counts(*not_before, until));
        let concerned = group.waiting.extract_if(.., |_, waiter| counts(waiter.not_before, until));
        for (_, waiter) in concerned {
            self.callers -= 1;
            let _ = waiter.notify.send(outcome());
        }
        self.drop_if_done(id);
    }

    /// Tells the callers that take an old answer. Their queries are refreshed in the background.
    pub(super) fn serve_stale(&mut self, reason: &StaleReason) {
        for group in self.groups.values_mut() {
            for (_, waiter) in group.waiting.extract_if(.., |_, waiter| waiter.takes_stale) {
                self.callers -= 1;
                group.background_refresh = group.background_refresh.max(Some(waiter.not_before));
                let _ = waiter.notify.send(WaitOutcome::Stale(reason.clone()));
            }
        }
    }

    /// The names of all pending queries.
    pub(super) fn all(&self) -> Vec<QueryId> {
        self.groups.keys().copied().collect()
    }

    /// Forgets everything. The channels of the callers close.
    pub(super) fn clear(&mut self) {
        self.groups.clear();
        self.ids.clear();
        (self.callers, self.bytes) = (0, 0);
    }

    fn group_of(&mut self, pending: PendingQuery) -> QueryId {
        if let Some(id) = self.ids.get(&pending.query) {
            return *id;
        }
        let id = self.next_id;
        self.next_id += ID_STEP;
        self.bytes += pending.query.weight();
        self.ids.insert(pending.query.clone(), id);
        let group = WaiterGroup {
            query: pending.query,
            caller: pending.caller,
            waiting: BTreeMap::new(),
            background_refresh: None,
            batch_not_before: None,
            shared_up_to: None,
        };
        self.groups.insert(id, group);
        id
    }

    fn drop_if_done(&mut self, id: QueryId) {
        let Some(group) = self.groups.get(&id) else { return };
        if group.waiting.is_empty() && group.background_refresh.is_none() {
            self.bytes -= group.query.weight();
            self.ids.remove(&group.query);
            self.groups.remove(&id);
        }
    }
}

impl WaiterGroup {
    /// The time that satisfies all callers and the refresh in the background. None if there are none.
    fn newest(&self) -> Option<Instant> {
        let newest = self.waiting.values().map(|waiter| waiter.not_before).max();
        newest.max(self.background_refresh)
    }

    /// RFC 9211, section 2.5: a call of the answer was also made for another request, or had been started
    /// before this caller arrived.
    fn is_collapsed(&self, arrival: Arrivals, waiter: &Waiter, answer: Freshness) -> bool {
        let has_joined = waiter
            .joined
            .is_some_and(|joined| answer.as_of().is_some_and(|as_of| as_of.instant == joined));
        has_joined || self.shared_up_to >= Some(arrival)
    }
}

/// Whether a failure of a call that started at `until` counts for a time: a caller wants nothing newer.
fn counts(not_before: Instant, until: Option<Instant>) -> bool {
    until.is_none_or(|until| not_before <= until)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::tests::{pure::images_query, support::image_id};

    fn pending(query: &Query) -> PendingQuery {
        let (query, caller) = (Arc::new(query.clone()), CallerKey::default());
        PendingQuery { query, not_before: Instant::now(), caller }
    }

    #[test]
    fn the_bytes_of_queries_are_bounded_and_a_known_one_always_has_room() {
        let bounds = Bounds { callers: 1_000_000, queries: 1_000_000, bytes: 1 << 20 };
        let mut queue = WaitQueue::new(bounds, 0);
        let mut places = Vec::new();
        let query = |number: u64| images_query((number..number + 1_000).map(image_id), None);
        for number in 0..10_000 {
            if !queue.has_room(&query(number)) {
                break;
            }
            let (notify, _) = oneshot::channel();
            let waiter =
                Waiter { not_before: Instant::now(), takes_stale: false, notify, joined: None };
            places.push(queue.wait(pending(&query(number)), waiter, number));
        }
        assert!((50..70).contains(&places.len()), "{} of 16 KiB each", places.len());
        assert!(queue.has_room(&query(0)), "it waits already");
        let count = places.len();
        queue.leave(places.pop().expect("some"));
        assert_eq!((queue.callers(), queue.queries()), (count - 1, count - 1));
        assert!(queue.has_room(&query(20_000)));
        for place in places {
            queue.leave(place);
        }
        assert!(queue.is_empty() && queue.callers() == 0);
        let every: Vec<_> = (0..10_000).collect();
        assert!(every.iter().all(|number| queue.has_room(&query(*number))));
    }
}
