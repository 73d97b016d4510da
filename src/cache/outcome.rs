//! How an answer came about, by name.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::ledger::Ledger;
use crate::domain::{CallTime, UpstreamError};

/// A ledger that knows what was needed.
#[derive(Clone, Debug)]
pub struct Found {
    /// To read the answer from.
    pub ledger: Arc<Ledger>,
    /// The oldest call that the answer rests on. None where it can't change any more.
    pub as_of: Option<CallTime>,
    /// How it came about.
    pub outcome: Outcome,
    /// When the answer was found.
    pub at: Instant,
}

impl Found {
    /// How old the answer is.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.as_of.map_or(Duration::ZERO, |call| self.at.saturating_duration_since(call.instant))
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
        why: Forward,
        /// A call for others served this caller too.
        collapsed: bool,
    },
}

/// Why EC2 cannot be asked at present.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StaleReason {
    /// The gateway's own call budget is spent.
    BudgetSpent,
    /// EC2 or the way to it is in trouble.
    Failed(UpstreamError),
}

/// Why a question went to EC2 (RFC 9211, section 2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forward {
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
    KeeperLost,
}
