//! Failures of a call to EC2: their kinds, and their error type.

use std::{sync::Arc, time::Duration};

use super::{
    error_code::{ErrorCode, GatewayCode},
    error_kind::ErrorKind,
};

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
    /// An error without a cause, a request ID or a time to wait.
    #[must_use]
    pub fn new(kind: ErrorKind, code: ErrorCode, message: &str) -> Self {
        let message = message.into();
        Self { kind, code, message, cause: None, request_id: None, retry_after: None }
    }

    /// A failure that EC2 did not report.
    #[must_use]
    pub fn of_gateway(code: GatewayCode, message: &str) -> Self {
        Self::new(code.kind(), code.into(), message)
    }

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
