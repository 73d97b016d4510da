//! The attempts of a scope's calls to EC2, as they start and end. Watches judge by them whether EC2 can
//! be asked, long before a call with all its retries has failed.

use std::sync::Arc;

use tokio::{sync::watch, time::Instant};

use super::error::UpstreamError;

/// The attempts of one scope. All clones share one state.
#[derive(Clone, Debug, Default)]
pub struct Attempts(Arc<watch::Sender<AttemptState>>);

/// What the attempts of a scope show at present.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AttemptState {
    /// Start of the attempt that has no answer yet.
    pub unanswered_since: Option<Instant>,
    /// The newest failure since EC2 last answered.
    pub failure: Option<AttemptFailure>,
    /// The time at which EC2 last answered.
    pub answered_at: Option<Instant>,
}

/// A failed attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttemptFailure {
    /// End of the attempt.
    pub at: Instant,
    /// The error.
    pub error: UpstreamError,
}

/// The end of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttemptEnd<'a> {
    /// EC2 has answered, or has refused only this call.
    Answered,
    /// EC2 cannot be asked, or refuses the whole scope.
    Failed(&'a UpstreamError),
    /// The end does not say whether EC2 can be asked.
    Unclear,
}

impl Attempts {
    /// The state, and each that follows.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<AttemptState> {
        self.0.subscribe()
    }

    pub(super) fn start(&self) {
        self.0.send_modify(|state| state.unanswered_since = Some(Instant::now()));
    }

    pub(super) fn end(&self, end: AttemptEnd<'_>) {
        self.0.send_modify(|state| {
            state.unanswered_since = None;
            match end {
                AttemptEnd::Answered => {
                    state.failure = None;
                    state.answered_at = Some(Instant::now());
                }
                AttemptEnd::Failed(error) => {
                    let error = error.clone();
                    state.failure = Some(AttemptFailure { at: Instant::now(), error });
                }
                AttemptEnd::Unclear => {}
            }
        });
    }
}
