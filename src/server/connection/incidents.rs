//! What was done to peers that held up or overloaded their connections: counted, and told in one log
//! line a minute.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use strum::{EnumCount, IntoStaticStr, VariantArray};

/// A kind of incident.
#[derive(Clone, Copy, Debug, PartialEq, Eq, EnumCount, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub(super) enum Incident {
    /// A connection did not finish its TLS handshake or its first bytes in time.
    Handshake,
    /// A connection did not take the bytes that were sent to it.
    UnreadConnection,
    /// The client of a stream did not take its answer.
    UnreadStream,
    /// A stream was cut because requests or answers had too many bytes.
    TooManyBytes,
    /// A connection was closed for the same reason, when it had no stream left to cut.
    TooManyBytesClosed,
    /// HTTP/2 ended a connection whose peer flooded it with resets, header fragments or small frames.
    Http2Flood,
    /// HTTP/2 ended a connection whose peer broke its rules.
    Http2Misuse,
    /// The peer did not answer an HTTP/2 PING.
    KeepaliveTimeout,
}

/// How often each kind has happened since it was told last.
#[derive(Debug, Default)]
pub(super) struct Incidents([AtomicU64; Incident::COUNT]);

impl Incidents {
    pub(super) fn count(&self, incident: Incident) {
        self.0[incident as usize].fetch_add(1, Relaxed);
    }

    /// Logs what has happened since the last call, if anything has.
    pub(super) fn tell(&self) {
        let mut told = Vec::new();
        for incident in Incident::VARIANTS {
            let count = self.0[*incident as usize].swap(0, Relaxed);
            if count > 0 {
                told.push(Told { incident: *incident, count });
            }
        }
        if told.is_empty() {
            return;
        }
        let told: Vec<_> = told.iter().map(Told::to_string).collect();
        tracing::warn!(incidents = told.join(" "), "peers were cut off in the last minute");
    }
}

struct Told {
    incident: Incident,
    count: u64,
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name: &str = self.incident.into();
        write!(f, "{name}={}", self.count)
    }
}
