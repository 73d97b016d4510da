//! The journal of calls, for tests and for the figures of the demo.

use std::{collections::VecDeque, fmt, time::Duration};

/// One call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The time since the start.
    pub at: Duration,
    /// The region that the call was signed for.
    pub region: String,
    /// The action of the call.
    pub action: String,
    /// The parameters of the call without action and version, cut at 1,000 bytes.
    pub parameters: String,
    /// `OK`, EC2's error code, or the fault of the connection in brackets.
    pub answer: String,
    /// The request ID of the answer.
    pub request_id: String,
}

/// The newest calls, and the number of all calls.
#[derive(Clone, Debug, Default)]
pub struct Journal {
    entries: VecDeque<Entry>,
    calls: usize,
}

/// 10,000 entries: the most that the journal keeps.
const MAX_ENTRIES: usize = 10_000;

impl Journal {
    pub(super) fn record(&mut self, entry: Entry) {
        tracing::debug!(%entry, "EC2 call");
        self.calls += 1;
        self.entries.push_back(entry);
        if self.entries.len() > MAX_ENTRIES {
            self.entries.pop_front();
        }
    }

    /// The number of all calls.
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
