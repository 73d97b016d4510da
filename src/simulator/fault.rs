//! The faults that a call can fail with.

use std::time::Duration;

use clap::ValueEnum;

/// The fault of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The call fails with an EC2 error.
    Error {
        /// The HTTP status.
        status: u16,
        /// EC2's error code.
        code: String,
        /// EC2's message.
        message: String,
    },
    /// The call gets no response, or a response that EC2 never sends.
    Wire(Wire),
}

/// A fault of the connection or of a proxy on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// The response has this HTTP status and an HTML page, as from a proxy.
    Html(u16),
    /// The connection closes without an answer.
    Reset,
    /// The connection closes in the middle of the answer.
    Truncated,
    /// The answer is not XML.
    MalformedXml,
    /// The connection closes without an answer after this time.
    Stall(Duration),
}

impl Fault {
    /// An EC2 error with a made-up message.
    #[must_use]
    pub fn error(status: u16, code: &str) -> Self {
        Self::Error { status, code: code.to_owned(), message: format!("simulated {code}") }
    }
}

/// A kind of fault, by its name on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FaultKind {
    /// `RequestLimitExceeded`
    Throttling,
    /// `Unavailable`, HTTP 503
    Unavailable,
    /// `InternalError`, HTTP 500
    Internal,
    /// HTTP 502 with an HTML page
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
    /// the credentials are refused, HTTP 401
    #[value(name = "AuthFailure", alias = "auth-failure")]
    AuthFailure,
    /// a policy denies the action, HTTP 403
    #[value(name = "UnauthorizedOperation", alias = "unauthorized-operation")]
    UnauthorizedOperation,
}

impl FaultKind {
    /// All transient kinds: a retry can succeed.
    #[must_use]
    pub fn transient() -> Vec<Self> {
        let mut kinds = Self::value_variants().to_vec();
        kinds.retain(|kind| kind.is_transient());
        kinds
    }

    fn is_transient(self) -> bool {
        match self {
            Self::Throttling
            | Self::Unavailable
            | Self::Internal
            | Self::Html
            | Self::Reset
            | Self::Truncated
            | Self::Malformed
            | Self::Stall => true,
            Self::Expired | Self::AuthFailure | Self::UnauthorizedOperation => false,
        }
    }

    /// A fault of this kind.
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
            Self::AuthFailure => Fault::error(401, "AuthFailure"),
            Self::UnauthorizedOperation => Fault::error(403, "UnauthorizedOperation"),
        }
    }
}
