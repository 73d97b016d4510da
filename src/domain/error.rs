//! Failures of a call to EC2: their kinds, and their error type.

use std::{fmt, sync::Arc, time::Duration};

use strum::VariantArray;

use super::error_code::ErrorCode;

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

/// A failed call to EC2.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct UpstreamError {
    /// The kind of failure.
    pub kind: ErrorKind,
    /// EC2's error code. If EC2 gave none, a code that the gateway assigns in the same style.
    pub code: ErrorCode,
    /// A description of the failure, without secrets.
    pub message: Arc<str>,
    /// The host and the causes of a failed connection or an unreadable answer, joined by ": ",
    /// without secrets. None if EC2 answered with an error.
    pub cause: Option<Arc<str>>,
    /// EC2's request ID. None if EC2 did not answer.
    pub request_id: Option<Arc<str>>,
    /// The time that EC2 asks the caller to wait.
    pub retry_after: Option<Duration>,
}

impl UpstreamError {
    /// Returns whether EC2 refuses an image ID. One bad ID fails the whole call.
    #[must_use]
    pub fn blames_an_image(&self) -> bool {
        code_blames_an_image(&self.code)
    }

    /// Returns whether EC2 may have refused the pagination token of the call. The code that says so
    /// differs between EC2's actions, so every refusal that is not about rights may mean it.
    #[must_use]
    pub fn may_blame_the_token(&self) -> bool {
        !self.kind.is_transient() && !self.kind.concerns_the_scope()
    }

    /// Returns whether EC2 refused with `AuthFailure`, which may be about the credentials, the region
    /// or one image.
    #[must_use]
    pub fn is_auth_failure(&self) -> bool {
        &*self.code == "AuthFailure"
    }
}

/// Whether a code refuses one image ID, and says nothing about the rest of the call.
#[must_use]
pub fn code_blames_an_image(code: &str) -> bool {
    code.starts_with("InvalidAMIID.")
}

/// Whether a code refuses EC2's pagination token, and says nothing about the rest of the call.
#[must_use]
pub fn code_blames_the_token(code: &str) -> bool {
    matches!(code, "InvalidNextToken" | "InvalidPaginationToken")
}
