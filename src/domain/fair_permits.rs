//! A bounded number of permits, which callers share fairly.
//!
//! While there is room, each caller gets as many permits as it asks for. At the bound, the caller that holds
//! most loses its newest permit to a newcomer ([`CallerShares`]).

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

use super::{BoundLog, Caller, CallerShares, Scope};

/// The permits of one bound.
#[derive(Clone, Debug)]
pub struct FairPermits {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    most: usize,
    log: BoundLog,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    shares: CallerShares<PermitId>,
    /// Tells the holder of each permit when it loses it.
    preempt: HashMap<PermitId, oneshot::Sender<()>>,
    next: PermitId,
}

/// Numbers permits in their order.
type PermitId = u64;

/// A permit. Dropping it gives it back.
#[derive(Debug)]
pub struct FairPermit {
    shared: Arc<Shared>,
    caller: Caller,
    id: PermitId,
    preempted: oneshot::Receiver<()>,
}

impl FairPermits {
    /// Creates `most` permits. The bound is logged by the name of what it counts, as by [`BoundLog`].
    #[must_use]
    pub fn new(bound: &'static str, scope: Option<Scope>, most: usize) -> Self {
        let (log, state) = (BoundLog::new(bound, scope), Mutex::default());
        Self { shared: Arc::new(Shared { most, log, state }) }
    }

    /// A permit for a caller. None if all are held, and the caller would hold as many as any other.
    #[must_use]
    pub fn acquire(&self, caller: &Caller) -> Option<FairPermit> {
        let mut state = self.shared.state();
        if state.shares.weight() < self.shared.most {
            self.shared.log.admitted();
        } else {
            self.shared.log.refused(self.shared.most);
            state.preempt_for(caller)?;
        }
        let id = state.next;
        state.next += 1;
        state.shares.add(caller, id, 1);
        let (preempt, preempted) = oneshot::channel();
        state.preempt.insert(id, preempt);
        drop(state);
        Some(FairPermit { shared: self.shared.clone(), caller: caller.clone(), id, preempted })
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Each change of the state is complete before anything can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Takes a permit from the caller that holds most, for a newcomer.
    fn preempt_for(&mut self, newcomer: &Caller) -> Option<()> {
        let giver = self.shares.giver(newcomer, 1)?.clone();
        let id = self.shares.newest_of(&giver).next()?;
        self.shares.remove(&giver, id);
        // A holder that has just gone away need not be told.
        let _ = self.preempt.remove(&id)?.send(());
        Some(())
    }
}

impl FairPermit {
    /// The caller that holds the permit.
    #[must_use]
    pub fn caller(&self) -> &Caller {
        &self.caller
    }

    /// Completes when another caller gets the permit. Cancel safe.
    pub async fn preempted(&mut self) {
        // The sender lives as long as the permit is held.
        let _ = (&mut self.preempted).await;
    }
}

impl Drop for FairPermit {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.shares.remove(&self.caller, self.id);
        state.preempt.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::VecDeque, net::Ipv4Addr};

    use futures_util::FutureExt as _;
    use proptest::prelude::*;

    use super::*;

    fn caller(number: u8) -> Caller {
        Caller::at(Ipv4Addr::new(192, 0, 2, number).into())
    }

    fn permits(most: usize) -> FairPermits {
        FairPermits::new("things", None, most)
    }

    fn is_preempted(permit: &mut FairPermit) -> bool {
        permit.preempted().now_or_never().is_some()
    }

    #[tokio::test]
    async fn the_newest_permit_of_the_caller_that_holds_most_goes_to_a_newcomer() {
        let permits = permits(3);
        let mut held: Vec<_> = (0..3).map(|_| permits.acquire(&caller(1)).expect("room")).collect();
        assert!(permits.acquire(&caller(1)).is_none(), "none takes from itself");
        let _other = permits.acquire(&caller(2)).expect("it holds fewer");
        let preempted: Vec<_> = held.iter_mut().map(is_preempted).collect();
        assert_eq!(preempted, [false, false, true]);
        assert!(permits.acquire(&caller(2)).is_none(), "it would hold as many");
        drop(held.pop());
        assert!(permits.acquire(&caller(2)).is_none(), "that permit was given back before");
        drop(held.pop());
        permits.acquire(&caller(1)).expect("room");
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 500, rng_seed: proptest::test_runner::RngSeed::Fixed(1), failure_persistence: None, ..ProptestConfig::default() })]

        /// Invariant 7 (docs/invariants.md): bounds
        #[test]
        fn permits_are_never_above_their_bound_and_counts_are_exact(
            most in 1..8_usize,
            events in prop::collection::vec((0..4_u8, any::<bool>()), 0..80)
        ) {
            let permits = permits(most);
            let mut held: VecDeque<FairPermit> = VecDeque::new();
            for (number, leaves) in events {
                if leaves {
                    held.rotate_left(usize::from(number).min(held.len()));
                    held.pop_front();
                } else {
                    held.extend(permits.acquire(&caller(number)));
                }
                held.retain_mut(|permit| !is_preempted(permit));
                let state = permits.shared.state();
                prop_assert!(held.len() <= most);
                prop_assert_eq!(state.shares.weight(), held.len());
                prop_assert_eq!(state.preempt.len(), held.len());
                for number in 0..4 {
                    let count = held.iter().filter(|permit| permit.caller == caller(number)).count();
                    prop_assert_eq!(state.shares.weight_of(&caller(number)), count);
                }
            }
        }
    }
}
