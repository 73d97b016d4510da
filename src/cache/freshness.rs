//! The one rule of freshness.

use std::time::Duration;

use tokio::time::Instant;

use crate::domain::CallTime;

/// How new an answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// Too little is known for an answer.
    Missing,
    /// The answer is what EC2 said to calls that started at this time or later.
    AsOf(CallTime),
    /// The answer can no longer change.
    Immutable,
}

impl Freshness {
    /// **The one rule.** A request that arrives at *t* and tolerates staleness *s* is satisfied by
    /// what EC2 said to calls that started at or after *t − s*, which is `not_before` here. Hit,
    /// join and miss are this comparison and nothing else.
    #[must_use]
    pub fn satisfies(self, not_before: Instant) -> bool {
        match self {
            Self::Missing => false,
            Self::AsOf(call) => call.instant >= not_before,
            Self::Immutable => true,
        }
    }

    /// The oldest call that the answer rests on. None if the answer can no longer change.
    #[must_use]
    pub fn as_of(self) -> Option<CallTime> {
        match self {
            Self::AsOf(call) => Some(call),
            Self::Missing | Self::Immutable => None,
        }
    }

    /// How old the answer is.
    #[must_use]
    pub fn age(self, now: Instant) -> Duration {
        match self {
            Self::AsOf(call) => now.saturating_duration_since(call.instant),
            Self::Missing | Self::Immutable => Duration::ZERO,
        }
    }

    /// Of two things that an answer rests on, the older one.
    #[must_use]
    pub(super) fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Missing, _) | (_, Self::Missing) => Self::Missing,
            (Self::Immutable, known) | (known, Self::Immutable) => known,
            (Self::AsOf(one), Self::AsOf(two)) => Self::AsOf(one.min(two)),
        }
    }

    /// Whether this is newer than the other.
    #[must_use]
    pub(super) fn is_newer_than(self, other: Self) -> bool {
        match (self, other) {
            (_, Self::Immutable) | (Self::Missing, _) => false,
            (_, Self::Missing) | (Self::Immutable, _) => true,
            (Self::AsOf(one), Self::AsOf(two)) => one > two,
        }
    }
}
