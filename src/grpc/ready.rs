//! Answers that are ready to send: a page, encoded, with the ledger that it was read from. It is good
//! for as long as that ledger is the newest, or is what a stale answer is read from.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::time::interval;
use tokio_util::task::AbortOnDropHandle;

use super::codec::{EncodedList, EncodedRequest};
use crate::cache::{Basis, ScopeCache};

/// No answer is kept for longer. moka's clock is the system's: it bounds memory and decides nothing
/// about freshness.
const KEPT_FOR: Duration = Duration::from_mins(5);

/// How often what is over is given back. moka would do so only when it is used.
const GIVES_BACK: Duration = Duration::from_mins(1);

/// What an entry weighs beside its bytes, at least: the entry, and moka's own books.
const OVERHEAD: usize = 512;

/// An answer.
pub(super) struct Answer {
    /// Whose. An answer does not keep a scope.
    pub(super) scope: Weak<ScopeCache>,
    /// How old its request allowed it to be.
    pub(super) max_staleness: Option<Duration>,
    /// What it was read from.
    pub(super) basis: Basis,
    /// The message.
    pub(super) list: EncodedList,
}

type Answers = moka::sync::Cache<EncodedRequest, Arc<Answer>>;

/// The answers that are kept, by the bytes of their requests: the same bytes are the same question.
/// moka's admission goes by how often something is asked for, so that any number of questions that
/// are asked once do not push out those that matter.
pub(super) struct Ready {
    answers: Answers,
    _give_back: AbortOnDropHandle<()>,
}

impl Ready {
    /// Keeps answers of so many bytes together. To be called on a runtime.
    pub(super) fn new(max_bytes: u64) -> Self {
        let answers: Answers = moka::sync::Cache::builder()
            .max_capacity(max_bytes)
            .weigher(|request, answer: &Arc<Answer>| weight(request, answer))
            .time_to_live(KEPT_FOR)
            .build();
        let give_back = tokio::spawn(give_back(answers.clone()));
        Self { answers, _give_back: AbortOnDropHandle::new(give_back) }
    }

    pub(super) fn get(&self, request: &EncodedRequest) -> Option<Arc<Answer>> {
        self.answers.get(request)
    }

    pub(super) fn put(&self, request: &EncodedRequest, answer: Answer) {
        self.answers.insert(request.compact(), Arc::new(answer));
    }
}

async fn give_back(answers: Answers) {
    let mut rounds = interval(GIVES_BACK);
    loop {
        rounds.tick().await;
        answers.run_pending_tasks();
    }
}

fn weight(request: &EncodedRequest, answer: &Answer) -> u32 {
    u32::try_from(OVERHEAD + request.0.len() + answer.list.0.len()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::cache::{Known, Ledger};

    fn question(number: usize) -> EncodedRequest {
        EncodedRequest(number.to_string().into())
    }

    /// DESIGN §9.7, one bound of it
    #[tokio::test]
    async fn a_million_distinct_questions_do_not_push_out_what_matters_and_stay_within_their_bytes()
    {
        let most = 1 << 20;
        let ready = Ready::new(most);
        let answer = || Answer {
            scope: Weak::new(),
            max_staleness: None,
            basis: Basis::new(&Arc::new(Ledger::default()), Known::Not),
            list: EncodedList(Bytes::from_static(&[0; 2000])),
        };
        let hot: Vec<_> = (0..100).map(question).collect();
        for question in &hot {
            ready.put(question, answer());
        }
        for distinct in 0..1_000_000 {
            let question = question(1000 + distinct);
            assert!(ready.get(&question).is_none());
            ready.put(&question, answer());
            // Half of all requests are for what matters, each of them once in a hundred.
            ready.get(&hot[distinct % hot.len()]);
            if distinct % 1000 == 0 {
                ready.answers.run_pending_tasks();
                assert!(ready.answers.weighted_size() <= most, "{}", ready.answers.weighted_size());
            }
        }
        ready.answers.run_pending_tasks();
        assert!(ready.answers.weighted_size() <= most);
        let kept = hot.iter().filter(|question| ready.get(question).is_some()).count();
        assert!(kept >= 95, "{kept} of 100");
    }
}
