//! The order in which callers have EC2 asked for them: in turn, so that a caller with many queries holds up
//! no other.

use std::collections::{HashMap, HashSet};

use super::pending::{PendingGap, QueryId};
use crate::domain::Caller;

/// Whose turn it is. Knows only callers with pending queries.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// How many calls were planned.
    plans: u64,
    /// The plan from which on it is a caller's turn. It never moves back, so later callers do not go
    /// before it forever.
    due: HashMap<Caller, u64>,
}

impl Turns {
    /// The gaps in turn: the query of each caller that waits longest, then the next one of each, and so
    /// on. Refreshes that no caller waits for are at the end. `gaps` come in the order in which their
    /// queries wait.
    pub(super) fn order<'a>(&mut self, gaps: &'a [PendingGap]) -> Vec<&'a PendingGap> {
        let mut counts: HashMap<&Caller, usize> = HashMap::new();
        let mut ranked = Vec::with_capacity(gaps.len());
        for pending in gaps {
            let Some(caller) = &pending.caller else {
                ranked.push((usize::MAX, 0, pending));
                continue;
            };
            let rank = counts.entry(caller).or_default();
            let due = *self.due.entry(caller.clone()).or_insert(self.plans);
            ranked.push((*rank, due, pending));
            *rank += 1;
        }
        self.due.retain(|caller, _| counts.contains_key(caller));
        // Stable: otherwise queries stay in the order in which they wait.
        ranked.sort_by_key(|(rank, due, _)| (*rank, *due));
        ranked.into_iter().map(|(.., pending)| pending).collect()
    }

    /// Whether the queries of several callers are pending.
    pub(super) fn are_several(&self) -> bool {
        self.due.len() > 1
    }

    /// A call was planned. The callers whose longest waiting query it is for wait for their next turn.
    pub(super) fn planned(&mut self, queries: &[QueryId], ordered: &[&PendingGap]) {
        self.plans += 1;
        let served: HashSet<_> = queries.iter().collect();
        for pending in ordered.iter().take(self.due.len()) {
            if let Some(caller) = &pending.caller
                && served.contains(&pending.id)
            {
                self.due.insert(caller.clone(), self.plans + 1);
            }
        }
    }
}
