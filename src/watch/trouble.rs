//! Trouble with EC2, as a watch shows it: 3 s after a refresh was due and was not answered.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use crate::{
    cache::CacheError,
    domain::{AttemptFailure, AttemptState, ErrorKind, wall_clock},
};

/// 3 s: the time after a refresh was due from which on trouble is shown. An attempt takes well under a
/// second.
pub(super) const SHOWN_AFTER: Duration = Duration::from_secs(3);

/// The reason for which there are no news.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// An attempt or a refresh has failed.
    Failed(CacheError),
    /// An attempt has no answer for 3 s.
    Unanswered,
}

impl Trouble {
    /// Whether two troubles have the same code. Each failed call has a request ID of its own, and that
    /// alone is not worth a message.
    fn has_code_of(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Unanswered, Self::Unanswered) => true,
            (Self::Failed(one), Self::Failed(two)) => match (one.upstream(), two.upstream()) {
                (Some(one), Some(two)) => one.code == two.code,
                (None, None) => one == two,
                _ => false,
            },
            _ => false,
        }
    }
}

/// Trouble, and since when.
#[derive(Clone, Debug)]
pub struct Degraded {
    /// The newest trouble.
    pub trouble: Trouble,
    /// The time at which the first refresh was due that was not answered.
    pub since: SystemTime,
}

impl Degraded {
    pub(super) fn has_code_of(&self, other: &Self) -> bool {
        self.trouble.has_code_of(&other.trouble)
    }
}

/// A refresh that is due and not answered.
#[derive(Clone, Debug)]
pub(super) struct Overdue {
    /// The time at which it was due.
    pub(super) since: Instant,
    /// The same on the wall clock.
    wall: SystemTime,
    /// How new the data were then. An answer is newer.
    known: Option<Instant>,
    /// The error of the newest refresh that failed since.
    pub(super) failed: Option<CacheError>,
}

impl Overdue {
    pub(super) fn new(since: Instant, known: Option<Instant>) -> Self {
        let ago = Instant::now().saturating_duration_since(since);
        let now = wall_clock();
        let wall = now.checked_sub(ago).unwrap_or(now);
        Self { since, wall, known, failed: None }
    }

    pub(super) fn is_answered_by(&self, known: Option<Instant>) -> bool {
        known > self.known
    }

    /// The trouble at present, if it is to be shown.
    pub(super) fn degraded(&self, attempts: &AttemptState, now: Instant) -> Option<Degraded> {
        if now < self.since + SHOWN_AFTER {
            return None;
        }
        Some(Degraded { trouble: self.trouble(attempts, now)?, since: self.wall })
    }

    fn trouble(&self, attempts: &AttemptState, now: Instant) -> Option<Trouble> {
        if let Some(failure) = &attempts.failure
            && (failure.at >= self.since || holds_up_attempts(failure, attempts))
        {
            return Some(Trouble::Failed(CacheError::Upstream(failure.error.clone())));
        }
        if let Some(error) = &self.failed {
            return Some(Trouble::Failed(error.clone()));
        }
        let unanswered = attempts.unanswered_since?;
        if now >= unanswered + SHOWN_AFTER { Some(Trouble::Unanswered) } else { None }
    }

    /// The next time at which the trouble may have to be shown.
    pub(super) fn next_check(&self, attempts: &AttemptState, now: Instant) -> Option<Instant> {
        let mut next = None;
        let unanswered = attempts.unanswered_since;
        for start in [Some(self.since), unanswered].into_iter().flatten() {
            let check = start + SHOWN_AFTER;
            if check > now && next.is_none_or(|next| check < next) {
                next = Some(check);
            }
        }
        next
    }
}

/// Whether EC2 has throttled, and no attempt has started since: the call rate is halved then, so that the
/// refresh waits for longer than it would at the full rate.
fn holds_up_attempts(failure: &AttemptFailure, attempts: &AttemptState) -> bool {
    failure.error.kind == ErrorKind::Throttled && attempts.unanswered_since.is_none()
}
