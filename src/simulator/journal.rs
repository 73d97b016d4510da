//! The journal of the calls that came: for tests, and for the figures of the demo.

use std::{collections::VecDeque, fmt, time::Duration};

/// One call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Since the start.
    pub at: Duration,
    /// The region that it was signed for.
    pub region: String,
    /// The action.
    pub action: String,
    /// The parameters in short.
    pub parameters: String,
    /// `OK`, the error's code, or the fault in brackets.
    pub answer: String,
    /// The request ID that was answered.
    pub request_id: String,
}

/// The newest calls, and how many there were in all.
#[derive(Clone, Debug, Default)]
pub struct Journal {
    entries: VecDeque<Entry>,
    calls: usize,
}

/// So many entries are kept.
const KEPT: usize = 10_000;

impl Journal {
    pub(super) fn record(&mut self, entry: Entry) {
        tracing::debug!(%entry, "EC2 call");
        self.calls += 1;
        self.entries.push_back(entry);
        if self.entries.len() > KEPT {
            self.entries.pop_front();
        }
    }

    /// How many calls came.
    #[must_use]
    pub fn calls(&self) -> usize {
        self.calls
    }

    /// The newest calls, oldest first.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter()
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, region, action, parameters, answer, request_id } = self;
        write!(
            f,
            "{:9.3}s {region} {action} {parameters} -> {answer} [{request_id}]",
            at.as_secs_f64()
        )
    }
}
