//! What callers hold of a bounded thing, and which of them holds most.
//!
//! At a bound, a newcomer takes the newest place of the caller that holds most. A newcomer that would itself
//! hold as much as that one is refused: otherwise two callers would take one place from each other forever.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::Caller;

/// What callers hold. Places are ordered by age: the greatest is the newest.
///
/// Each change costs the logarithm of the number of callers and places. A caller that holds nothing takes
/// no memory.
#[derive(Debug)]
pub struct CallerShares<P> {
    shares: HashMap<Caller, Share<P>>,
    /// The callers by what they hold, so that the one that holds most is found without a search.
    by_weight: BTreeSet<(usize, Caller)>,
    weight: usize,
}

#[derive(Debug)]
struct Share<P> {
    /// The weight of each place.
    places: BTreeMap<P, usize>,
    weight: usize,
}

impl<P> Default for CallerShares<P> {
    fn default() -> Self {
        Self { shares: HashMap::new(), by_weight: BTreeSet::new(), weight: 0 }
    }
}

impl<P: Copy + Ord> CallerShares<P> {
    /// The weight of all places.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.weight
    }

    /// The weight of the places of one caller.
    #[must_use]
    pub fn weight_of(&self, caller: &Caller) -> usize {
        self.shares.get(caller).map_or(0, |share| share.weight)
    }

    /// A caller takes a place, which none has yet.
    pub fn add(&mut self, caller: &Caller, place: P, weight: usize) {
        let share = self.shares.entry(caller.clone()).or_insert_with(Share::empty);
        if !share.places.is_empty() {
            self.by_weight.remove(&(share.weight, caller.clone()));
        }
        share.places.insert(place, weight);
        share.weight += weight;
        self.weight += weight;
        self.by_weight.insert((share.weight, caller.clone()));
    }

    /// A caller gives a place back. Without effect if it does not have it.
    pub fn remove(&mut self, caller: &Caller, place: P) {
        let Some(share) = self.shares.get_mut(caller) else { return };
        let Some(weight) = share.places.remove(&place) else { return };
        self.by_weight.remove(&(share.weight, caller.clone()));
        share.weight -= weight;
        self.weight -= weight;
        if share.places.is_empty() {
            self.shares.remove(caller);
        } else {
            self.by_weight.insert((share.weight, caller.clone()));
        }
    }

    /// The caller that has to give a place to a newcomer: the one that holds most, if that is more than the
    /// newcomer would hold with the place.
    #[must_use]
    pub fn giver(&self, newcomer: &Caller, weight: usize) -> Option<&Caller> {
        let (most, caller) = self.by_weight.last()?;
        let would_hold = self.weight_of(newcomer).saturating_add(weight);
        if *most > would_hold { Some(caller) } else { None }
    }

    /// The places of a caller, from the newest on.
    pub fn newest_of(&self, caller: &Caller) -> impl Iterator<Item = P> {
        let places = self.shares.get(caller).map(|share| share.places.keys().rev());
        places.into_iter().flatten().copied()
    }

    /// Forgets all callers.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

impl<P> Share<P> {
    fn empty() -> Self {
        Self { places: BTreeMap::new(), weight: 0 }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;

    fn caller(number: u8) -> Caller {
        Caller::at(Ipv4Addr::new(192, 0, 2, number).into())
    }

    /// What happens, one after the other.
    #[derive(Clone, Debug)]
    enum Event {
        /// A caller asks for a place of this weight.
        Ask(u8, usize),
        /// The holder of one of the places, counted from the oldest, gives it back.
        Leave(usize),
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            3 => (0..5_u8, 1..4_usize).prop_map(|(caller, weight)| Event::Ask(caller, weight)),
            1 => (0..40_usize).prop_map(Event::Leave),
        ]
    }

    /// The same, by a search through all places.
    #[derive(Default)]
    struct Model(BTreeMap<u64, (u8, usize)>);

    impl Model {
        fn weight_of(&self, caller: u8) -> usize {
            self.0.values().filter(|held| held.0 == caller).map(|held| held.1).sum()
        }

        fn weight(&self) -> usize {
            self.0.values().map(|held| held.1).sum()
        }
    }

    const BOUND: usize = 12;

    /// Lets a caller have a place. Those that have to give theirs held most, and gave their newest.
    fn admit(
        shares: &mut CallerShares<u64>,
        model: &mut Model,
        (number, weight): (u8, usize),
        place: u64,
    ) {
        let newcomer = caller(number);
        while shares.weight() + weight > BOUND {
            let most = (0..5).map(|number| model.weight_of(number)).max().expect("five");
            let would_hold = model.weight_of(number) + weight;
            let Some(giver) = shares.giver(&newcomer, weight).cloned() else {
                assert!(most <= would_hold, "refused, although another holds {most}");
                return;
            };
            let giving = (0..5).find(|number| caller(*number) == giver).expect("one of five");
            assert_eq!(model.weight_of(giving), most, "the giver holds most");
            assert!(most > would_hold, "the newcomer would not hold as much");
            let given = shares.newest_of(&giver).next().expect("a place");
            let newest = model.0.iter().rfind(|(_, held)| held.0 == giving);
            assert_eq!(Some(&given), newest.map(|(place, _)| place), "its newest place");
            shares.remove(&giver, given);
            model.0.remove(&given);
        }
        shares.add(&newcomer, place, weight);
        model.0.insert(place, (number, weight));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, rng_seed: proptest::test_runner::RngSeed::Fixed(1), failure_persistence: None, ..ProptestConfig::default() })]

        /// Invariant 4 (docs/invariants.md)
        #[test]
        fn the_caller_that_holds_most_gives_its_newest_place(
            events in prop::collection::vec(event(), 0..60)
        ) {
            let mut shares = CallerShares::default();
            let mut model = Model::default();
            for (place, event) in (0..).zip(events) {
                match event {
                    Event::Ask(caller, weight) => {
                        admit(&mut shares, &mut model, (caller, weight), place);
                    }
                    Event::Leave(index) => {
                        let Some((left, (number, _))) = model.0.iter().nth(index) else { continue };
                        let (left, number) = (*left, *number);
                        shares.remove(&caller(number), left);
                        // A holder that was told before may say so again.
                        shares.remove(&caller(number), left);
                        model.0.remove(&left);
                    }
                }
                prop_assert!(shares.weight() <= BOUND);
                prop_assert_eq!(shares.weight(), model.weight());
                let mut holders = 0;
                for number in 0..5 {
                    prop_assert_eq!(shares.weight_of(&caller(number)), model.weight_of(number));
                    holders += usize::from(model.weight_of(number) > 0);
                }
                prop_assert_eq!(shares.shares.len(), holders, "who holds nothing takes no memory");
                prop_assert_eq!(shares.by_weight.len(), holders);
            }
        }
    }
}
