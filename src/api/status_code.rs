//! The codes that a failed call can have. Each has one meaning for a retry.

use strum::{IntoStaticStr, VariantArray};

/// A canonical status code, with the number and the name that gRPC gives it (gRPC documentation,
/// "Status codes and their use in gRPC").
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "SCREAMING_SNAKE_CASE")]
pub enum StatusCode {
    /// The request is invalid.
    InvalidArgument = 3,
    /// The caller's own deadline passed.
    DeadlineExceeded = 4,
    /// The task or the image does not exist.
    NotFound = 5,
    /// The gateway's AWS identity lacks the permission.
    PermissionDenied = 7,
    /// EC2 throttles the account.
    ResourceExhausted = 8,
    /// The state of the account, the image or the gateway does not permit the call.
    FailedPrecondition = 9,
    /// The endpoint does not offer the action.
    Unimplemented = 12,
    /// The gateway has a bug.
    Internal = 13,
    /// EC2 or the gateway cannot answer at present.
    Unavailable = 14,
    /// The gateway's AWS credentials are not accepted.
    Unauthenticated = 16,
}

impl StatusCode {
    /// The name in gRPC's spelling, for example `NOT_FOUND`.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.into()
    }

    /// The meaning, as docs/errors.md prints it.
    pub(super) fn meaning(self) -> &'static str {
        match self {
            Self::InvalidArgument => "the request is wrong, too large or cannot be read",
            Self::DeadlineExceeded => "the caller's own deadline passed",
            Self::NotFound => "the task, the image or the bucket does not exist",
            Self::PermissionDenied => "the gateway's AWS identity lacks the permission",
            Self::ResourceExhausted => "EC2 throttles the account and region",
            Self::FailedPrecondition => {
                "the state of the account, the image or the gateway does not permit the call"
            }
            Self::Unimplemented => "the endpoint or the gateway does not offer this",
            Self::Internal => "a bug of the gateway",
            Self::Unavailable => {
                "EC2 or the gateway cannot answer now: network, HTTP status 5xx, an answer that cannot be read, no room, no answer in time, shutting down"
            }
            Self::Unauthenticated => "EC2 does not accept the gateway's AWS credentials",
        }
    }

    /// Whether the same call may succeed later. Exactly such a status carries a delay.
    #[must_use]
    pub fn is_retryable(self) -> bool {
        matches!(self, Self::Unavailable | Self::ResourceExhausted)
    }

    /// The number on the wire.
    #[must_use]
    pub fn number(self) -> i32 {
        self as i32
    }
}
