//! The callers that wait, and the refreshes that no caller waits for. Callers with the same query
//! stand together, so that a group costs no more than one of them when plans are made.
//!
//! At a bound, the caller that holds most gives its newest place to a newcomer ([`CallerShares`]).

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use tokio::{sync::oneshot, time::Instant};

use super::{
    freshness::Freshness,
    outcome::{CacheError, StaleReason},
    pending::QueryId,
    query::{PendingQuery, Query},
    reading::Reading,
    snapshot::Snapshot,
};
use crate::domain::{Caller, CallerShares, UpstreamError};

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

/// A caller's place in the queue. Places are ordered by the arrival of their callers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    arrival: Arrivals,
    query: QueryId,
}

/// A query that is pending, for some callers or to be refreshed in the background.
pub(super) struct PendingGroup {
    pub(super) id: QueryId,
    /// The first caller of those that wait. None if none waits.
    pub(super) oldest: Option<Arrivals>,
    /// The caller in whose share the query counts.
    pub(super) owner: Option<Caller>,
    pub(super) pending: PendingQuery,
}

/// A caller that is about to wait.
pub(super) struct Waiter {
    pub(super) caller: Caller,
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
    /// The caller in whose share the query counts: the one that asked first, unless one joined that owned
    /// fewer then. None if no caller waits.
    owner: Option<Caller>,
    /// By their arrival.
    waiting: BTreeMap<Arrivals, Waiter>,
    /// How many of them are of each caller.
    callers: HashMap<Caller, usize>,
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
    /// The places of callers.
    places: CallerShares<Place>,
    /// The queries that callers wait for, and their bytes.
    queries: CallerShares<QueryId>,
    bytes: CallerShares<QueryId>,
    background: Background,
}

/// The queries that no caller waits for. They have as many places of their own as those of callers, so
/// that the answers to frequent requests stay fresh while callers fill the queue.
#[derive(Clone, Copy, Debug, Default)]
struct Background {
    queries: usize,
    bytes: usize,
}

/// Whether there is room for one more caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// There is room.
    Free,
    /// There is room, since another caller gave its place.
    ByPreemption,
    /// There is no room.
    Refused,
}

/// Names of queries are so far apart, so that two queues have different ones.
const ID_STEP: QueryId = 2;

/// Queries of one caller among which one is looked for that no other caller asks.
const LOOKED_AT: usize = 16;

impl WaitQueue {
    /// An empty queue. Queues with different `first_id`, of 0 and 1, name queries differently.
    pub(super) fn new(bounds: Bounds, first_id: QueryId) -> Self {
        Self {
            bounds,
            groups: BTreeMap::new(),
            ids: HashMap::new(),
            next_id: first_id,
            places: CallerShares::default(),
            queries: CallerShares::default(),
            bytes: CallerShares::default(),
            background: Background::default(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// How many callers wait.
    #[cfg(test)]
    pub(super) fn callers(&self) -> usize {
        self.places.weight()
    }

    /// How many different queries are pending, for callers or in the background, whichever are more.
    #[cfg(test)]
    pub(super) fn queries(&self) -> usize {
        self.queries.weight().max(self.background.queries)
    }

    /// Whether a query may be refreshed in the background.
    pub(super) fn has_room_in_background(&self, query: &Query) -> bool {
        let Background { queries, bytes } = self.background;
        let is_within =
            queries < self.bounds.queries && bytes + query.weight() <= self.bounds.bytes;
        is_within || self.ids.contains_key(query)
    }

    /// Makes room for a caller that is to wait for a query. At a bound, the caller that holds most gives
    /// its newest place, unless this one would hold as much.
    pub(super) fn make_room(&mut self, query: &Query, caller: &Caller) -> Admission {
        let mut admission = Admission::Free;
        let weight = query.weight();
        while !self.is_pending(query) && !self.is_within(weight) {
            let Some(id) = self.query_to_refuse(caller, weight) else { return Admission::Refused };
            self.fail(id, None, || WaitOutcome::Refused(CacheError::Preempted));
            admission = Admission::ByPreemption;
        }
        while self.places.weight() >= self.bounds.callers {
            let Some(giver) = self.places.giver(caller, 1) else { return Admission::Refused };
            let Some(place) = self.places.newest_of(giver).next() else {
                return Admission::Refused;
            };
            self.refuse(place);
            admission = Admission::ByPreemption;
        }
        admission
    }

    /// Whether a caller waits for a query.
    fn is_pending(&self, query: &Query) -> bool {
        let Some(id) = self.ids.get(query) else { return false };
        self.groups.get(id).is_some_and(|group| group.owner.is_some())
    }

    fn is_within(&self, weight: usize) -> bool {
        self.queries.weight() < self.bounds.queries
            && self.bytes.weight() + weight <= self.bounds.bytes
    }

    /// The query that gives its place to another one of a caller: one of the newest of the caller that owns
    /// most, and if possible one that no other caller asks.
    fn query_to_refuse(&self, newcomer: &Caller, weight: usize) -> Option<QueryId> {
        let is_full = self.queries.weight() >= self.bounds.queries;
        let (owned, weight) = if is_full { (&self.queries, 1) } else { (&self.bytes, weight) };
        let giver = owned.giver(newcomer, weight)?;
        for id in owned.newest_of(giver).take(LOOKED_AT) {
            if self.groups.get(&id).is_some_and(|group| group.callers.len() <= 1) {
                return Some(id);
            }
        }
        owned.newest_of(giver).next()
    }

    fn refuse(&mut self, place: Place) {
        if let Some(waiter) = self.take(place) {
            // A caller that has gone away need not be told.
            let _ = waiter.notify.send(WaitOutcome::Refused(CacheError::Preempted));
        }
        self.tidy(place.query);
    }

    /// Lets a caller wait. Callers are numbered as they arrive.
    pub(super) fn wait(
        &mut self,
        pending: PendingQuery,
        waiter: Waiter,
        arrival: Arrivals,
    ) -> Place {
        let caller = waiter.caller.clone();
        let query = self.group_of(pending.query);
        let place = Place { arrival, query };
        self.places.add(&caller, place, 1);
        if let Some(group) = self.groups.get_mut(&query) {
            group.waiting.insert(arrival, waiter);
            *group.callers.entry(caller.clone()).or_default() += 1;
        }
        self.share_with(query, &caller);
        place
    }

    /// Asks for a refresh that no caller waits for.
    pub(super) fn refresh_in_background(&mut self, pending: PendingQuery) {
        let not_before = pending.not_before;
        let query = self.group_of(pending.query);
        if let Some(group) = self.groups.get_mut(&query) {
            group.background_refresh = group.background_refresh.max(Some(not_before));
        }
    }

    /// A caller has gone away, or was told.
    pub(super) fn leave(&mut self, place: Place) {
        self.take(place);
        self.tidy(place.query);
    }

    /// The pending queries.
    pub(super) fn pending(&mut self) -> Vec<PendingGroup> {
        let mut pending = Vec::with_capacity(self.groups.len());
        for (id, group) in &mut self.groups {
            if group.batch_not_before.is_none() {
                group.batch_not_before = group.newest();
            }
            if let Some(not_before) = group.batch_not_before {
                pending.push(PendingGroup {
                    id: *id,
                    oldest: group.waiting.keys().next().copied(),
                    owner: group.owner.clone(),
                    pending: PendingQuery { query: group.query.clone(), not_before },
                });
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
        let satisfied = group.extract(|waiter| freshness.satisfies(waiter.not_before));
        for (arrival, waiter) in satisfied {
            self.places.remove(&waiter.caller, Place { arrival, query: id });
            let outcome = WaitOutcome::Met {
                reading: reading.clone(),
                snapshot: snapshot.clone(),
                collapsed: arrival > arrivals || group.is_collapsed(arrival, &waiter, freshness),
            };
            // A caller that has gone away need not be told.
            let _ = waiter.notify.send(outcome);
        }
        group.shared_up_to = None;
        self.tidy(id);
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
        for (arrival, waiter) in group.extract(|waiter| counts(waiter.not_before, until)) {
            self.places.remove(&waiter.caller, Place { arrival, query: id });
            let _ = waiter.notify.send(outcome());
        }
        self.tidy(id);
    }

    /// Tells the callers that take an old answer. Their queries are refreshed in the background.
    pub(super) fn serve_stale(&mut self, reason: &StaleReason) {
        let mut told = Vec::new();
        for (query, group) in &mut self.groups {
            for (arrival, waiter) in group.extract(|waiter| waiter.takes_stale) {
                told.push(*query);
                self.places.remove(&waiter.caller, Place { arrival, query: *query });
                group.background_refresh = group.background_refresh.max(Some(waiter.not_before));
                let _ = waiter.notify.send(WaitOutcome::Stale(reason.clone()));
            }
        }
        for query in told {
            self.tidy(query);
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
        self.places.clear();
        self.queries.clear();
        self.bytes.clear();
        self.background = Background::default();
    }

    fn group_of(&mut self, query: Arc<Query>) -> QueryId {
        if let Some(id) = self.ids.get(&query) {
            return *id;
        }
        let id = self.next_id;
        self.next_id += ID_STEP;
        self.background.queries += 1;
        self.background.bytes += query.weight();
        self.ids.insert(query.clone(), id);
        let group = WaiterGroup {
            query,
            owner: None,
            waiting: BTreeMap::new(),
            callers: HashMap::new(),
            background_refresh: None,
            batch_not_before: None,
            shared_up_to: None,
        };
        self.groups.insert(id, group);
        id
    }

    /// Takes a caller out of the queue.
    fn take(&mut self, place: Place) -> Option<Waiter> {
        let waiter = self.groups.get_mut(&place.query)?.remove(place.arrival)?;
        self.places.remove(&waiter.caller, place);
        Some(waiter)
    }

    /// A caller waits for a query from now on. If it owns fewer than the owner, it is the owner: else the
    /// query might wait longer, or be refused, for the sake of one that asks many others.
    fn share_with(&mut self, id: QueryId, caller: &Caller) {
        let Some(group) = self.groups.get(&id) else { return };
        let is_owner = match &group.owner {
            None => true,
            Some(owner) => self.queries.weight_of(caller) + 1 < self.queries.weight_of(owner),
        };
        if is_owner {
            self.pass_to(id, Some(caller.clone()));
        }
    }

    /// Some callers of a query have left. If its owner has, another one owns it; if all have, only a
    /// refresh in the background keeps it.
    fn tidy(&mut self, id: QueryId) {
        let Some(group) = self.groups.get(&id) else { return };
        let oldest = group.waiting.values().next();
        if group.owner.as_ref().is_some_and(|owner| group.callers.contains_key(owner)) {
            return;
        }
        if oldest.is_some() || group.owner.is_some() {
            let owner = oldest.map(|waiter| waiter.caller.clone());
            self.pass_to(id, owner);
        }
        self.drop_if_done(id);
    }

    fn drop_if_done(&mut self, id: QueryId) {
        let Some(group) = self.groups.get(&id) else { return };
        let is_too_many = self.background.queries > self.bounds.queries
            || self.background.bytes > self.bounds.bytes;
        if group.owner.is_none() && (group.background_refresh.is_none() || is_too_many) {
            self.background.queries -= 1;
            self.background.bytes -= group.query.weight();
            self.ids.remove(&group.query);
            self.groups.remove(&id);
        }
    }

    /// Changes the owner of a query.
    fn pass_to(&mut self, id: QueryId, owner: Option<Caller>) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        let weight = group.query.weight();
        if let Some(before) = &group.owner {
            self.queries.remove(before, id);
            self.bytes.remove(before, id);
        } else {
            self.background.queries -= 1;
            self.background.bytes -= weight;
        }
        if let Some(owner) = &owner {
            self.queries.add(owner, id, 1);
            self.bytes.add(owner, id, weight);
        } else {
            self.background.queries += 1;
            self.background.bytes += weight;
        }
        group.owner = owner;
    }
}

impl WaiterGroup {
    /// Takes one caller out.
    fn remove(&mut self, arrival: Arrivals) -> Option<Waiter> {
        let waiter = self.waiting.remove(&arrival)?;
        self.left(&waiter.caller);
        Some(waiter)
    }

    /// Takes some callers out.
    fn extract(&mut self, is_told: impl Fn(&Waiter) -> bool) -> Vec<(Arrivals, Waiter)> {
        let told: Vec<_> = self.waiting.extract_if(.., |_, waiter| is_told(waiter)).collect();
        for (_, waiter) in &told {
            self.left(&waiter.caller);
        }
        told
    }

    fn left(&mut self, caller: &Caller) {
        let Some(count) = self.callers.get_mut(caller) else { return };
        *count -= 1;
        if *count == 0 {
            self.callers.remove(caller);
        }
    }

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
    use std::net::Ipv4Addr;

    use futures_util::FutureExt as _;
    use proptest::{prelude::*, test_runner::RngSeed};

    use super::*;
    use crate::cache::tests::{pure::images_query, support::image_id};

    const UNBOUNDED: Bounds =
        Bounds { callers: usize::MAX, queries: usize::MAX, bytes: usize::MAX };

    fn caller(number: u8) -> Caller {
        Caller::at(Ipv4Addr::new(192, 0, 2, number).into())
    }

    fn query(number: u64) -> Query {
        images_query([image_id(number)], None)
    }

    type Outcome = oneshot::Receiver<WaitOutcome>;

    /// Lets a caller wait if there is room.
    fn wait(
        queue: &mut WaitQueue,
        number: u8,
        query: &Query,
        arrival: Arrivals,
    ) -> Option<(Place, Outcome)> {
        if queue.make_room(query, &caller(number)) == Admission::Refused {
            return None;
        }
        let (notify, outcome) = oneshot::channel();
        let not_before = Instant::now();
        let caller = caller(number);
        let pending = PendingQuery { query: Arc::new(query.clone()), not_before };
        let waiter = Waiter { caller, not_before, takes_stale: false, notify, joined: None };
        Some((queue.wait(pending, waiter, arrival), outcome))
    }

    fn is_preempted(outcome: &mut Outcome) -> bool {
        matches!(outcome.now_or_never(), Some(Ok(WaitOutcome::Refused(CacheError::Preempted))))
    }

    #[test]
    fn the_bytes_of_queries_are_bounded_and_a_known_one_always_has_room() {
        let mut queue = WaitQueue::new(Bounds { bytes: 1 << 20, ..UNBOUNDED }, 0);
        let mut places = Vec::new();
        let query = |number: u64| images_query((number..number + 1_000).map(image_id), None);
        for number in 0..10_000 {
            let Some((place, _)) = wait(&mut queue, 1, &query(number), number) else { break };
            places.push(place);
        }
        assert!((50..70).contains(&places.len()), "{} of 16 KiB each", places.len());
        let has_room = |queue: &mut WaitQueue, number: u64| {
            queue.make_room(&query(number), &caller(1)) == Admission::Free
        };
        assert!(has_room(&mut queue, 0), "it waits already");
        let count = places.len();
        queue.leave(places.pop().expect("some"));
        assert_eq!((queue.callers(), queue.queries()), (count - 1, count - 1));
        assert!(has_room(&mut queue, 20_000));
        for place in places {
            queue.leave(place);
        }
        assert!(queue.is_empty() && queue.callers() == 0);
        let every: Vec<_> = (0..10_000).collect();
        assert!(every.iter().all(|number| has_room(&mut queue, *number)));
    }

    /// Invariant 4 (docs/invariants.md)
    #[test]
    fn each_bound_gives_way_to_a_caller_that_holds_fewer() {
        let bytes = 4 * query(0).weight();
        for bounds in [
            Bounds { callers: 4, ..UNBOUNDED },
            Bounds { queries: 4, ..UNBOUNDED },
            Bounds { bytes, ..UNBOUNDED },
        ] {
            let mut queue = WaitQueue::new(bounds, 0);
            let mut greedy: Vec<_> = (0..4)
                .map(|number| wait(&mut queue, 1, &query(number), number).expect("room").1)
                .collect();
            assert!(wait(&mut queue, 1, &query(4), 4).is_none(), "none takes from itself");
            let (_, mut modest) = wait(&mut queue, 2, &query(5), 5).expect("it holds fewer");
            let preempted: Vec<_> = greedy.iter_mut().map(is_preempted).collect();
            assert_eq!(preempted, [false, false, false, true], "the newest of {bounds:?}");
            assert!(wait(&mut queue, 1, &query(6), 6).is_none(), "it still holds most");
            assert!(!is_preempted(&mut modest));
        }
    }

    #[test]
    fn a_query_counts_for_the_caller_of_it_that_owns_fewest() {
        let mut queue = WaitQueue::new(Bounds { queries: 4, ..UNBOUNDED }, 0);
        let mut greedy: Vec<_> = (0..4)
            .map(|number| wait(&mut queue, 1, &query(number), number).expect("room").1)
            .collect();
        let (place, mut modest) = wait(&mut queue, 2, &query(3), 4).expect("it is pending");
        let owned = |queue: &WaitQueue, number| queue.queries.weight_of(&caller(number));
        assert_eq!((owned(&queue, 1), owned(&queue, 2)), (3, 1));
        wait(&mut queue, 3, &query(5), 5).expect("it holds fewer");
        let preempted: Vec<_> = greedy.iter_mut().map(is_preempted).collect();
        assert_eq!(preempted, [false, false, true, false], "another caller asks the newest, too");
        assert!(!is_preempted(&mut modest));
        queue.leave(place);
        assert_eq!((owned(&queue, 1), owned(&queue, 2)), (3, 0), "it has it again");
    }

    #[test]
    fn a_refresh_in_the_background_takes_no_place_of_a_caller() {
        let mut queue = WaitQueue::new(Bounds { queries: 2, ..UNBOUNDED }, 0);
        let now = Instant::now();
        let pending = |number| PendingQuery { query: Arc::new(query(number)), not_before: now };
        for number in 0..2 {
            assert!(queue.has_room_in_background(&query(number)));
            queue.refresh_in_background(pending(number));
        }
        assert!(!queue.has_room_in_background(&query(2)));
        let waits = [0, 1, 2].map(|number| wait(&mut queue, 1, &query(number), number).is_some());
        assert_eq!(waits, [true, true, false]);
        assert_eq!((queue.queries.weight(), queue.background.queries), (2, 0));
        assert!(queue.has_room_in_background(&query(2)), "callers fill only their places");
    }

    /// What happens, one after the other.
    #[derive(Clone, Debug)]
    enum Event {
        /// A caller asks a query.
        Ask(u8, u64),
        /// One of those that wait goes away.
        Leave(usize),
        /// All that wait for a query are told.
        Tell(u64),
        /// A query is refreshed in the background.
        Refresh(u64),
        /// All get old answers.
        Stale,
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            8 => (0..4_u8, 0..8_u64).prop_map(|(caller, query)| Event::Ask(caller, query)),
            2 => (0..8_usize).prop_map(Event::Leave),
            1 => (0..8_u64).prop_map(Event::Tell),
            1 => (0..8_u64).prop_map(Event::Refresh),
            1 => Just(Event::Stale),
        ]
    }

    /// What the queue holds is what a search through its groups finds.
    fn check(queue: &WaitQueue) -> Result<(), TestCaseError> {
        let (mut places, mut owned, mut background) = (HashMap::new(), HashMap::new(), 0);
        for group in queue.groups.values() {
            let mut callers = HashMap::new();
            for waiter in group.waiting.values() {
                *places.entry(waiter.caller.clone()).or_insert(0) += 1;
                *callers.entry(waiter.caller.clone()).or_insert(0) += 1;
            }
            prop_assert_eq!(&callers, &group.callers);
            if let Some(owner) = &group.owner {
                prop_assert!(callers.contains_key(owner), "the owner waits");
                *owned.entry(owner.clone()).or_insert(0) += 1;
            } else {
                prop_assert!(callers.is_empty() && group.background_refresh.is_some());
                background += 1;
            }
        }
        for number in 0..4 {
            let caller = caller(number);
            let count = |counts: &HashMap<Caller, usize>| counts.get(&caller).copied().unwrap_or(0);
            prop_assert_eq!(queue.places.weight_of(&caller), count(&places));
            prop_assert_eq!(queue.queries.weight_of(&caller), count(&owned));
            let bytes = count(&owned) * query(0).weight();
            prop_assert_eq!(queue.bytes.weight_of(&caller), bytes);
        }
        prop_assert_eq!(queue.background.queries, background);
        prop_assert_eq!(queue.background.bytes, background * query(0).weight());
        prop_assert_eq!(queue.ids.len(), queue.groups.len());
        prop_assert!(queue.places.weight() <= queue.bounds.callers);
        prop_assert!(queue.queries.weight() <= queue.bounds.queries);
        prop_assert!(background <= queue.bounds.queries);
        Ok(())
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 1000, rng_seed: RngSeed::Fixed(1), failure_persistence: None, ..ProptestConfig::default() })]

        /// Invariant 7 (docs/invariants.md): bounds
        #[test]
        fn counts_are_exact_and_within_their_bounds_whatever_happens(
            events in prop::collection::vec(event(), 0..60)
        ) {
            let bounds = Bounds { callers: 6, queries: 3, bytes: usize::MAX };
            let mut queue = WaitQueue::new(bounds, 0);
            let mut waiting = Vec::new();
            for (arrival, event) in (0..).zip(events) {
                match event {
                    Event::Ask(number, asked) => {
                        let place = wait(&mut queue, number, &query(asked), arrival);
                        waiting.extend(place.map(|(place, _)| place));
                    }
                    Event::Leave(index) if index < waiting.len() => {
                        queue.leave(waiting.swap_remove(index));
                    }
                    Event::Tell(asked) => {
                        if let Some(id) = queue.ids.get(&query(asked)).copied() {
                            let lost = || WaitOutcome::Refused(CacheError::RefresherLost);
                            queue.fail(id, None, lost);
                        }
                    }
                    Event::Refresh(asked) if queue.has_room_in_background(&query(asked)) => {
                        let (query, not_before) = (Arc::new(query(asked)), Instant::now());
                        queue.refresh_in_background(PendingQuery { query, not_before });
                    }
                    Event::Stale => {
                        for group in queue.groups.values_mut() {
                            group.waiting.values_mut().for_each(|waiter| waiter.takes_stale = true);
                        }
                        queue.serve_stale(&StaleReason::Slow);
                    }
                    Event::Leave(_) | Event::Refresh(_) => {}
                }
                check(&queue)?;
            }
        }
    }
}
