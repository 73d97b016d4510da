//! The codes that a failed call can have.

use strum::IntoStaticStr;

/// A canonical status code, with the number and the name that gRPC gives it (gRPC documentation,
/// "Status codes and their use in gRPC").
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr)]
#[strum(serialize_all = "SCREAMING_SNAKE_CASE")]
pub enum StatusCode {
    /// The request is invalid.
    InvalidArgument = 3,
    /// The deadline passed before the answer.
    DeadlineExceeded = 4,
    /// The task or the image does not exist.
    NotFound = 5,
    /// The gateway's AWS identity lacks the permission.
    PermissionDenied = 7,
    /// EC2 throttles, or a bound of the gateway is reached.
    ResourceExhausted = 8,
    /// The state of the account or of the image does not permit the call.
    FailedPrecondition = 9,
    /// The endpoint does not offer the action.
    Unimplemented = 12,
    /// EC2's answer cannot be read.
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

    /// The number on the wire.
    #[must_use]
    pub fn number(self) -> i32 {
        self as i32
    }
}
