//! The ways in which a call can fail.

use std::time::Duration;

/// How a call fails.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// An EC2 error.
    Error {
        /// HTTP status.
        status: u16,
        /// EC2's error code.
        code: String,
        /// EC2's message.
        message: String,
    },
    /// Something that is not EC2's answer at all.
    Wire(Wire),
}

/// What can happen on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// An HTTP status with a page that is not EC2's, as from a proxy on the way.
    Html(u16),
    /// The connection closes without an answer.
    Reset,
    /// The connection closes in the middle of the answer.
    Truncated,
    /// An answer that is not XML.
    MalformedXml,
    /// The answer takes this long.
    Stall(Duration),
}

impl Fault {
    /// An EC2 error.
    #[must_use]
    pub fn error(status: u16, code: &str) -> Self {
        Self::Error { status, code: code.to_owned(), message: format!("simulated {code}") }
    }
}

/// A name for each kind of fault, for the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum FaultKind {
    /// `RequestLimitExceeded`
    Throttling,
    /// `Unavailable`, HTTP 503
    Unavailable,
    /// `InternalError`, HTTP 500
    Internal,
    /// HTTP 502 with a page that is not EC2's
    Html,
    /// the connection closes without an answer
    Reset,
    /// the connection closes in the middle of the answer
    Truncated,
    /// an answer that is not XML
    Malformed,
    /// no answer for a minute
    Stall,
    /// `ExpiredToken`: the session token has expired
    Expired,
}

impl FaultKind {
    /// Those that can heal by themselves.
    pub const TRANSIENT: [Self; 8] = [
        Self::Throttling,
        Self::Unavailable,
        Self::Internal,
        Self::Html,
        Self::Reset,
        Self::Truncated,
        Self::Malformed,
        Self::Stall,
    ];

    /// The fault that this is a name for.
    #[must_use]
    pub fn fault(self) -> Fault {
        match self {
            Self::Throttling => Fault::error(503, "RequestLimitExceeded"),
            Self::Unavailable => Fault::error(503, "Unavailable"),
            Self::Internal => Fault::error(500, "InternalError"),
            Self::Html => Fault::Wire(Wire::Html(502)),
            Self::Reset => Fault::Wire(Wire::Reset),
            Self::Truncated => Fault::Wire(Wire::Truncated),
            Self::Malformed => Fault::Wire(Wire::MalformedXml),
            Self::Stall => Fault::Wire(Wire::Stall(Duration::from_mins(1))),
            Self::Expired => Fault::error(400, "ExpiredToken"),
        }
    }
}
