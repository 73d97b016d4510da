//! The open needs: who waits for what, and which refreshes nobody waits for. Callers with the same
//! need stand together, so that a group costs no more than one of them where plans are made.

use std::collections::HashMap;

use tokio::{sync::oneshot, time::Instant};

use super::{
    plan::PendingQuery,
    query::{Freshness, Query},
};

/// A caller that waits. Its channel is closed when it has gone away.
pub(super) struct Waiter<T> {
    /// Who came first goes first.
    pub(super) arrival: u64,
    /// The call that it is told from must have started at this time or later.
    pub(super) not_before: Instant,
    /// It takes an old answer when EC2 cannot be asked.
    pub(super) takes_stale: bool,
    /// Tells it how it ended.
    pub(super) notify: oneshot::Sender<T>,
}

/// All who want the same.
struct WaiterGroup<T> {
    /// In the order of their arrival.
    waiting: Vec<Waiter<T>>,
    /// A refresh that nobody waits for.
    background_refresh: Option<Instant>,
    /// The time for which calls are being made, until it is met: were it raised by each who arrives, a
    /// need of several calls would begin anew each time.
    batch_not_before: Option<Instant>,
}

/// See the module. `T` is what a caller is told.
pub(super) struct WaitQueue<T> {
    groups: HashMap<Query, WaiterGroup<T>>,
    arrivals: u64,
    waiting: usize,
}

impl<T> Default for WaitQueue<T> {
    fn default() -> Self {
        Self { groups: HashMap::new(), arrivals: 0, waiting: 0 }
    }
}

impl<T> WaitQueue<T> {
    pub(super) fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// How many callers wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    /// How many different needs are open.
    pub(super) fn queries(&self) -> usize {
        self.groups.len()
    }

    pub(super) fn contains(&self, query: &Query) -> bool {
        self.groups.contains_key(query)
    }

    pub(super) fn wait(
        &mut self,
        query: Query,
        not_before: Instant,
        takes_stale: bool,
        notify: oneshot::Sender<T>,
    ) {
        self.arrivals += 1;
        let waiter = Waiter { arrival: self.arrivals, not_before, takes_stale, notify };
        self.group(query).waiting.push(waiter);
        self.waiting += 1;
    }

    /// Asks for a refresh that nobody waits for.
    pub(super) fn refresh_in_background(&mut self, query: Query, not_before: Instant) {
        let background_refresh = &mut self.group(query).background_refresh;
        *background_refresh = (*background_refresh).max(Some(not_before));
    }

    /// What is to be met next, from who waits longest to who came last. What nobody waits for is at
    /// the end.
    pub(super) fn pending_queries(&mut self) -> Vec<PendingQuery<'_>> {
        let mut groups: Vec<_> = self.groups.iter_mut().collect();
        groups.sort_unstable_by_key(|(_, group)| {
            let oldest = group.waiting.first().map(|waiter| waiter.arrival);
            (oldest.is_none(), oldest, group.background_refresh)
        });
        let pending_query = |(query, group): (_, &mut WaiterGroup<T>)| {
            group.batch_not_before = group.batch_not_before.or(group.newest());
            Some(PendingQuery { query, not_before: group.batch_not_before? })
        };
        groups.into_iter().filter_map(pending_query).collect()
    }

    /// Tells whoever is satisfied by what is known, and forgets whoever has gone away.
    pub(super) fn dismiss(
        &mut self,
        freshness: impl Fn(&Query) -> Freshness,
        notify: impl Fn() -> T,
    ) {
        self.each(|query, group| {
            let freshness = freshness(query);
            group.batch_not_before.take_if(|not_before| freshness.satisfies(*not_before));
            group.background_refresh.take_if(|not_before| freshness.satisfies(*not_before));
            group.notify_if(|waiter| freshness.satisfies(waiter.not_before), &notify);
            group.waiting.retain(|waiter| !waiter.notify.is_closed());
        });
    }

    /// Tells whoever is concerned and wants nothing newer than `until`. `concerned` is asked once
    /// for each need.
    pub(super) fn fail(
        &mut self,
        until: Option<Instant>,
        concerned: impl Fn(PendingQuery<'_>) -> bool,
        notify: impl Fn() -> T,
    ) {
        let in_time = |not_before: Instant| until.is_none_or(|until| not_before <= until);
        self.each(|query, group| {
            let times = group
                .waiting
                .iter()
                .map(|waiter| waiter.not_before)
                .chain(group.background_refresh);
            let newest = times.filter(|not_before| in_time(*not_before)).max();
            if newest.is_some_and(|not_before| concerned(PendingQuery { query, not_before })) {
                group.batch_not_before.take_if(|not_before| in_time(*not_before));
                group.background_refresh.take_if(|not_before| in_time(*not_before));
                group.notify_if(|waiter| in_time(waiter.not_before), &notify);
            }
        });
    }

    /// Whoever takes an old answer is told; what it wanted is refreshed in the background.
    pub(super) fn serve_stale(&mut self, notify: impl Fn() -> T) {
        self.each(|_, group| {
            let stale = group.waiting.iter().filter(|waiter| waiter.takes_stale);
            group.background_refresh =
                group.background_refresh.max(stale.map(|waiter| waiter.not_before).max());
            group.notify_if(|waiter| waiter.takes_stale, &notify);
        });
    }

    /// Forgets whoever has gone away.
    pub(super) fn forget_gone(&mut self) {
        self.each(|_, group| group.waiting.retain(|waiter| !waiter.notify.is_closed()));
    }

    fn group(&mut self, query: Query) -> &mut WaiterGroup<T> {
        let empty = || WaiterGroup {
            waiting: Vec::new(),
            background_refresh: None,
            batch_not_before: None,
        };
        self.groups.entry(query).or_insert_with(empty)
    }

    fn each(&mut self, mut change: impl FnMut(&Query, &mut WaiterGroup<T>)) {
        let mut waiting = 0;
        self.groups.retain(|query, group| {
            change(query, group);
            waiting += group.waiting.len();
            group.newest().is_some()
        });
        self.waiting = waiting;
    }
}

impl<T> WaiterGroup<T> {
    /// The time that satisfies all of them; None when there is nobody.
    fn newest(&self) -> Option<Instant> {
        self.waiting.iter().map(|waiter| waiter.not_before).chain(self.background_refresh).max()
    }

    fn notify_if(&mut self, leaves: impl Fn(&Waiter<T>) -> bool, notify: impl Fn() -> T) {
        for leaving in self.waiting.extract_if(.., |waiter| leaves(waiter)) {
            // Who has gone away need not be told.
            let _ = leaving.notify.send(notify());
        }
    }
}
