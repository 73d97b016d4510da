//! How an answer came about, and why there is none.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::time::Instant;

use super::{freshness::Freshness, reading::Reading, snapshot::Snapshot};
use crate::domain::{CallTime, UpstreamError};

/// An answer.
#[derive(Clone, Debug)]
pub struct CacheRead {
    /// The answer.
    pub reading: Arc<Reading>,
    /// The snapshot that it was read from.
    pub snapshot: Arc<Snapshot>,
    /// How it came about.
    pub outcome: Outcome,
    /// When it was found.
    pub at: Instant,
}

impl CacheRead {
    /// The oldest call that the answer rests on. None if the answer can no longer change.
    #[must_use]
    pub fn as_of(&self) -> Option<CallTime> {
        self.reading.freshness.as_of()
    }

    /// Tells later whether the answer still holds.
    #[must_use]
    pub fn validator(&self) -> Validator {
        Validator {
            listed_until: self.listed_until(),
            ..Validator::new(&self.snapshot, self.reading.freshness)
        }
    }

    /// Whether an answer that was read before is the same: from the same snapshot, and as new.
    #[must_use]
    pub fn is_as(&self, validator: &Validator) -> bool {
        validator.freshness == self.reading.freshness
            && validator.listed_until == self.listed_until()
            && validator.is_of(&self.snapshot)
    }

    /// When EC2 stops listing the oldest task of the answer.
    fn listed_until(&self) -> Option<Instant> {
        let oldest = self.reading.tasks.iter().map(|task| task.key.start_time.0).min()?;
        self.snapshot.clock.listed_until(oldest)
    }

    /// How old the answer is.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.reading.freshness.age(self.at)
    }
}

/// What an answer was read from, to find out later whether it still holds. Keeps no snapshot alive.
#[derive(Clone, Debug)]
pub struct Validator {
    snapshot: Weak<Snapshot>,
    freshness: Freshness,
    listed_until: Option<Instant>,
}

impl Validator {
    /// Of an answer that was read from a snapshot and is this new.
    #[must_use]
    pub fn new(snapshot: &Arc<Snapshot>, freshness: Freshness) -> Self {
        Self { snapshot: Arc::downgrade(snapshot), freshness, listed_until: None }
    }

    /// How old the answer is, if it still holds for a request that arrives now and takes nothing older
    /// than `not_before`.
    pub(super) fn age(
        &self,
        newest: &Arc<Snapshot>,
        not_before: Instant,
        now: Instant,
    ) -> Option<Duration> {
        let is_listed = self.listed_until.is_none_or(|until| until > not_before);
        let holds = is_listed && self.freshness.satisfies(not_before) && self.is_of(newest);
        if holds { Some(self.freshness.age(now)) } else { None }
    }

    /// Whether the answer was read from this snapshot. While the validator lives, no other snapshot can
    /// have the same address.
    #[must_use]
    pub fn is_of(&self, snapshot: &Arc<Snapshot>) -> bool {
        std::ptr::eq(self.snapshot.as_ptr(), Arc::as_ptr(snapshot))
    }
}

/// How an answer came about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was known, and new enough.
    Hit,
    /// It was known and a little too old; the cache refreshes it in the background.
    StaleWhileRevalidate,
    /// It was known and too old, and EC2 cannot be asked at present.
    StaleIfError(StaleReason),
    /// EC2 was asked.
    Fetched {
        /// Why what was known did not do.
        why: ForwardReason,
        /// The call had been started, or was also made, for another request.
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

/// Why a request went to EC2 (RFC 9211, section 2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForwardReason {
    /// Nothing was known.
    Miss,
    /// The known answer was older than the TTL.
    Stale,
    /// The known answer was older than the request allowed.
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
        /// EC2's refusal.
        error: UpstreamError,
        /// How long it is still remembered.
        left: Duration,
    },
    /// Too many callers wait in this scope.
    #[error("too many requests wait for EC2 already; try again in a moment")]
    TooManyWaiting,
    /// Too many callers waited in this scope, this one held the most places, and another one needed one.
    #[error(
        "too many requests wait for EC2, most of them from this caller, and another caller needed the place; try again later"
    )]
    Preempted,
    /// There is no room for more tasks.
    #[error(
        "the gateway has no room for more tasks of this account and region; ask for the newest, or name images"
    )]
    TooManyTasks,
    /// The refresher died. The next request starts a new one.
    #[error("the request was lost inside the gateway; try again")]
    RefresherLost,
}

impl CacheError {
    /// The failed call, if a call has failed.
    #[must_use]
    pub fn upstream(&self) -> Option<&UpstreamError> {
        match self {
            Self::Upstream(error) | Self::Remembered { error, .. } => Some(error),
            Self::TooManyWaiting | Self::Preempted | Self::TooManyTasks | Self::RefresherLost => {
                None
            }
        }
    }
}
