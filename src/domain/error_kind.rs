//! The kinds of failure of a call to EC2.

use std::fmt;

use strum::VariantArray;

/// The kind of an upstream failure.
///
/// The kind decides whether a call is retried, whether the failure is remembered, and which gRPC
/// status the caller gets. A new kind does not compile until each of these decisions covers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, VariantArray)]
pub enum ErrorKind {
    /// EC2 rejects the request itself.
    InvalidRequest,
    /// The image or bucket of the request does not exist.
    NotFound,
    /// The credentials are valid but not allowed to make this call.
    Denied,
    /// The credentials are bad, expired or missing.
    Credentials,
    /// The state of the account or of the image does not permit the call.
    AccountState,
    /// EC2 throttles the account's calls.
    Throttled,
    /// The endpoint does not know the action.
    Unsupported,
    /// EC2 has an internal problem or cannot be reached.
    Unavailable,
    /// EC2's answer cannot be read.
    MalformedAnswer,
    /// EC2 refuses with a 4xx status and an unknown code.
    UnknownRefusal,
}

impl ErrorKind {
    /// Every kind, in the order of docs/errors.md.
    pub const ALL: &[Self] = Self::VARIANTS;

    /// Returns whether the failure can heal by itself, so that a retry makes sense.
    #[must_use]
    pub fn is_transient(self) -> bool {
        match self {
            Self::Throttled | Self::Unavailable | Self::MalformedAnswer => true,
            Self::InvalidRequest
            | Self::NotFound
            | Self::Denied
            | Self::Credentials
            | Self::AccountState
            | Self::Unsupported
            | Self::UnknownRefusal => false,
        }
    }

    /// Returns whether the refusal covers every request of the account and region, not only this
    /// one.
    #[must_use]
    pub fn concerns_the_scope(self) -> bool {
        match self {
            Self::Denied | Self::Credentials | Self::AccountState | Self::Unsupported => true,
            Self::InvalidRequest
            | Self::NotFound
            | Self::Throttled
            | Self::Unavailable
            | Self::MalformedAnswer
            | Self::UnknownRefusal => false,
        }
    }

    /// The kind in words, as in docs/errors.md.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidRequest => "invalid request",
            Self::NotFound => "not found",
            Self::Denied => "denied",
            Self::Credentials => "credentials",
            Self::AccountState => "account state",
            Self::Throttled => "throttled",
            Self::Unsupported => "unsupported",
            Self::Unavailable => "unavailable",
            Self::MalformedAnswer => "malformed answer",
            Self::UnknownRefusal => "unknown refusal",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
