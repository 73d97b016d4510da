//! How an answer came about, by name.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::time::Instant;

use super::{query::Freshness, snapshot::Snapshot};
use crate::domain::{CallTime, UpstreamError};

/// A ledger that knows what was needed.
#[derive(Clone, Debug)]
pub struct CacheRead {
    /// To read the answer from.
    pub snapshot: Arc<Snapshot>,
    /// What it knows of what was needed.
    pub known: Freshness,
    /// How it came about.
    pub outcome: Outcome,
    /// When the answer was found.
    pub at: Instant,
}

impl CacheRead {
    /// The oldest call that the answer rests on. None where it can't change any more.
    #[must_use]
    pub fn as_of(&self) -> Option<CallTime> {
        self.known.as_of()
    }

    /// What an answer that is read from it rests on.
    #[must_use]
    pub fn validator(&self) -> Validator {
        Validator::new(&self.snapshot, self.known)
    }

    /// How old the answer is.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.known.age(self.at)
    }
}

/// What an answer was read from, to find out later whether it still holds. Keeps no ledger alive.
#[derive(Clone, Debug)]
pub struct Validator {
    snapshot: Weak<Snapshot>,
    pub(super) known: Freshness,
}

impl Validator {
    /// This ledger, and what it knows of the question.
    #[must_use]
    pub fn new(snapshot: &Arc<Snapshot>, known: Freshness) -> Self {
        Self { snapshot: Arc::downgrade(snapshot), known }
    }

    /// Whether it is this ledger. As long as it is remembered, no other can have its place.
    #[must_use]
    pub fn is_of(&self, snapshot: &Arc<Snapshot>) -> bool {
        std::ptr::eq(self.snapshot.as_ptr(), Arc::as_ptr(snapshot))
    }
}

/// How an answer came about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was known, and fresh enough.
    Hit,
    /// It was known, a little too old, and is being refreshed behind this answer.
    StaleWhileRevalidate,
    /// It was known, too old, and EC2 cannot be asked at present.
    StaleIfError(StaleReason),
    /// EC2 was asked.
    Fetched {
        /// Why what was known did not do.
        why: ForwardReason,
        /// A call for others served this caller too.
        collapsed: bool,
    },
}

/// Why EC2 cannot be asked at present.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StaleReason {
    /// The gateway's own call budget is spent.
    BudgetSpent,
    /// The call takes long, with its retries and their wait for the call budget.
    Slow,
    /// EC2 or the way to it is in trouble.
    Failed(UpstreamError),
}

/// Why a question went to EC2 (RFC 9211, section 2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForwardReason {
    /// Nothing was known.
    Miss,
    /// What was known was older than the TTL.
    Stale,
    /// What was known was older than the request allowed.
    Request,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CacheError {
    /// EC2 refused, or could not be asked.
    #[error(transparent)]
    Upstream(UpstreamError),
    /// EC2 refused the same a moment ago, and was not asked again.
    #[error("{error}")]
    Remembered {
        /// What EC2 said then.
        error: UpstreamError,
        /// For how long it is remembered yet.
        left: Duration,
    },
    /// Too many callers wait in this scope.
    #[error("too many requests wait for EC2 already; try again in a moment")]
    TooManyWaiting,
    /// The ledger has no room for more tasks.
    #[error(
        "this account and region has more tasks than the gateway keeps; ask for the newest, or name fewer"
    )]
    TooManyTasks,
    /// Too many scopes are in use.
    #[error("too many accounts and regions are in use at once; try again later")]
    TooManyScopes,
    /// The keeper died; the next request starts a new one.
    #[error("the request was lost inside the gateway; try again")]
    RefresherLost,
}
