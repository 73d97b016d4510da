//! Answers that are ready to send: a page, encoded, with the ledger that it was read from. It is good
//! for as long as that ledger is the newest, or is what a stale answer is read from.

use std::time::Duration;

use super::{codec::EncodedList, validate::ListPage};
use crate::cache::Basis;

/// No answer is kept for longer. moka's clock is the system's: it bounds memory and decides nothing
/// about freshness.
const KEPT_FOR: Duration = Duration::from_mins(5);

/// What an entry weighs beside its bytes, at least: key, entry, and moka's own books.
const OVERHEAD: usize = 512;

/// An answer.
#[derive(Clone)]
pub(super) struct Answer {
    /// What it was read from.
    pub(super) basis: Basis,
    /// The message.
    pub(super) list: EncodedList,
}

/// The answers that are kept, by question. moka's admission goes by how often something is asked
/// for, so that any number of questions that are asked once do not push out those that matter.
pub(super) struct Ready(moka::sync::Cache<ListPage, Answer>);

impl Ready {
    /// Keeps answers of so many bytes together.
    pub(super) fn new(max_bytes: u64) -> Self {
        let answers = moka::sync::Cache::builder()
            .max_capacity(max_bytes)
            .weigher(|page, answer: &Answer| weight(page, answer))
            .time_to_live(KEPT_FOR)
            .build();
        Self(answers)
    }

    pub(super) fn get(&self, page: &ListPage) -> Option<Answer> {
        self.0.get(page)
    }

    pub(super) fn put(&self, page: ListPage, answer: Answer) {
        self.0.insert(page, answer);
    }
}

fn weight(page: &ListPage, answer: &Answer) -> u32 {
    // Names are up to 64 bytes long, with their share of a tree.
    let names = page.filter.images.len() + page.filter.buckets.len();
    u32::try_from(OVERHEAD + 100 * names + answer.list.0.len()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;

    use super::*;
    use crate::{
        cache::{Known, Ledger},
        domain::{AccountName, Region, Scope, TaskFilter},
    };

    fn page(page_size: usize) -> ListPage {
        let region = Region::parse("us-east-1").expect("valid");
        let scope = Scope { account: AccountName::default(), region };
        ListPage { scope, filter: TaskFilter::default(), page_size, after: None }
    }

    /// DESIGN §9.7, one bound of it
    #[test]
    fn a_million_distinct_questions_do_not_push_out_what_matters_and_stay_within_their_bytes() {
        let most = 1 << 20;
        let ready = Ready::new(most);
        let basis = Basis::new(&Arc::new(Ledger::default()), Known::Not);
        let list = EncodedList(Bytes::from_static(&[0; 2000]));
        let answer = Answer { basis, list };
        let hot: Vec<_> = (0..100).map(page).collect();
        for question in &hot {
            ready.put(question.clone(), answer.clone());
        }
        for distinct in 0..1_000_000 {
            let question = page(1000 + distinct);
            assert!(ready.get(&question).is_none());
            ready.put(question, answer.clone());
            // Half of all requests are for what matters, each of them once in a hundred.
            ready.get(&hot[distinct % hot.len()]);
            if distinct % 1000 == 0 {
                ready.0.run_pending_tasks();
                assert!(ready.0.weighted_size() <= most, "{}", ready.0.weighted_size());
            }
        }
        ready.0.run_pending_tasks();
        assert!(ready.0.weighted_size() <= most);
        let kept = hot.iter().filter(|question| ready.get(question).is_some()).count();
        assert!(kept >= 95, "{kept} of 100");
    }
}
