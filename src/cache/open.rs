//! The open needs: who waits for what, and which refreshes nobody waits for. Callers with the same
//! need stand together, so that a crowd costs no more than one of them where plans are made.

use std::collections::HashMap;

use tokio::{sync::oneshot, time::Instant};

use super::{
    need::{Known, Need},
    plan::Demand,
};

/// A caller that waits. Its channel is closed when it has gone away.
pub(super) struct Waiting<T> {
    /// Who came first goes first.
    pub(super) arrival: u64,
    /// The call that it is told from must have started at this time or later.
    pub(super) since: Instant,
    /// It takes an old answer when EC2 cannot be asked.
    pub(super) takes_stale: bool,
    /// Tells it how it ended.
    pub(super) tell: oneshot::Sender<T>,
}

/// All who want the same.
struct Crowd<T> {
    /// In the order of their arrival.
    waiting: Vec<Waiting<T>>,
    /// A refresh that nobody waits for.
    behind: Option<Instant>,
    /// The time for which calls are being made, until it is met: were it raised by each who arrives, a
    /// need of several calls would begin anew each time.
    round: Option<Instant>,
}

/// See the module. `T` is what a caller is told.
pub(super) struct Open<T> {
    crowds: HashMap<Need, Crowd<T>>,
    arrivals: u64,
    waiting: usize,
}

impl<T> Default for Open<T> {
    fn default() -> Self {
        Self { crowds: HashMap::new(), arrivals: 0, waiting: 0 }
    }
}

impl<T> Open<T> {
    pub(super) fn is_empty(&self) -> bool {
        self.crowds.is_empty()
    }

    /// How many callers wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    /// How many different needs are open.
    pub(super) fn needs(&self) -> usize {
        self.crowds.len()
    }

    pub(super) fn contains(&self, need: &Need) -> bool {
        self.crowds.contains_key(need)
    }

    pub(super) fn wait(
        &mut self,
        need: Need,
        since: Instant,
        takes_stale: bool,
        tell: oneshot::Sender<T>,
    ) {
        self.arrivals += 1;
        let waiting = Waiting { arrival: self.arrivals, since, takes_stale, tell };
        self.crowd(need).waiting.push(waiting);
        self.waiting += 1;
    }

    /// Asks for a refresh that nobody waits for.
    pub(super) fn refresh_behind(&mut self, need: Need, since: Instant) {
        let behind = &mut self.crowd(need).behind;
        *behind = (*behind).max(Some(since));
    }

    /// What is to be met next, from who waits longest to who came last. What nobody waits for is at
    /// the end.
    pub(super) fn demands(&mut self) -> Vec<Demand<'_>> {
        let mut crowds: Vec<_> = self.crowds.iter_mut().collect();
        crowds.sort_unstable_by_key(|(_, crowd)| {
            let oldest = crowd.waiting.first().map(|waiting| waiting.arrival);
            (oldest.is_none(), oldest, crowd.behind)
        });
        let demand = |(need, crowd): (_, &mut Crowd<T>)| {
            crowd.round = crowd.round.or(crowd.newest());
            Some(Demand { need, since: crowd.round? })
        };
        crowds.into_iter().filter_map(demand).collect()
    }

    /// Tells whoever is satisfied by what is known, and forgets whoever has gone away.
    pub(super) fn dismiss(&mut self, known: impl Fn(&Need) -> Known, tell: impl Fn() -> T) {
        self.each(|need, crowd| {
            let known = known(need);
            crowd.round.take_if(|since| known.meets(*since));
            crowd.behind.take_if(|since| known.meets(*since));
            crowd.tell_those(|waiting| known.meets(waiting.since), &tell);
            crowd.waiting.retain(|waiting| !waiting.tell.is_closed());
        });
    }

    /// Tells whoever is concerned and wants nothing newer than `until`. `concerned` is asked once
    /// for each need.
    pub(super) fn fail(
        &mut self,
        until: Option<Instant>,
        concerned: impl Fn(Demand<'_>) -> bool,
        tell: impl Fn() -> T,
    ) {
        let in_time = |since: Instant| until.is_none_or(|until| since <= until);
        self.each(|need, crowd| {
            let times = crowd.waiting.iter().map(|waiting| waiting.since).chain(crowd.behind);
            let newest = times.filter(|since| in_time(*since)).max();
            if newest.is_some_and(|since| concerned(Demand { need, since })) {
                crowd.round.take_if(|since| in_time(*since));
                crowd.behind.take_if(|since| in_time(*since));
                crowd.tell_those(|waiting| in_time(waiting.since), &tell);
            }
        });
    }

    /// Whoever takes an old answer is told; what it wanted is refreshed behind it.
    pub(super) fn give_stale(&mut self, tell: impl Fn() -> T) {
        self.each(|_, crowd| {
            let stale = crowd.waiting.iter().filter(|waiting| waiting.takes_stale);
            crowd.behind = crowd.behind.max(stale.map(|waiting| waiting.since).max());
            crowd.tell_those(|waiting| waiting.takes_stale, &tell);
        });
    }

    /// Forgets whoever has gone away.
    pub(super) fn forget_gone(&mut self) {
        self.each(|_, crowd| crowd.waiting.retain(|waiting| !waiting.tell.is_closed()));
    }

    fn crowd(&mut self, need: Need) -> &mut Crowd<T> {
        let empty = || Crowd { waiting: Vec::new(), behind: None, round: None };
        self.crowds.entry(need).or_insert_with(empty)
    }

    fn each(&mut self, mut change: impl FnMut(&Need, &mut Crowd<T>)) {
        let mut waiting = 0;
        self.crowds.retain(|need, crowd| {
            change(need, crowd);
            waiting += crowd.waiting.len();
            crowd.newest().is_some()
        });
        self.waiting = waiting;
    }
}

impl<T> Crowd<T> {
    /// The time that satisfies all of them; None when there is nobody.
    fn newest(&self) -> Option<Instant> {
        self.waiting.iter().map(|waiting| waiting.since).chain(self.behind).max()
    }

    fn tell_those(&mut self, leaves: impl Fn(&Waiting<T>) -> bool, tell: impl Fn() -> T) {
        for leaving in self.waiting.extract_if(.., |waiting| leaves(waiting)) {
            // Who has gone away need not be told.
            let _ = leaving.tell.send(tell());
        }
    }
}
