//! The code of a failed call to EC2, and the party that gave it.

use std::{fmt, ops::Deref, sync::Arc};

use strum::{IntoStaticStr, VariantArray};

use super::error_kind::ErrorKind;

/// The code of a failed call.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    /// EC2 answered with this code.
    Ec2(Arc<str>),
    /// EC2 gave no code, so the gateway gives one.
    Gateway(GatewayCode),
}

/// The codes of failed calls to which EC2 gave no answer, or none of EC2's form. They look like
/// EC2's own, so [`ErrorCode`] says which party gave a code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, IntoStaticStr, VariantArray)]
pub enum GatewayCode {
    /// No connection, or one that ended before the answer did.
    ConnectionFailure,
    /// The host name of the endpoint does not resolve.
    HostNotFound,
    /// No answer within the attempt timeout.
    RequestTimeout,
    /// A 5xx status without an error code.
    ServiceUnavailable,
    /// A 4xx status without an error code.
    UnknownError,
    /// Status 429 without an error code.
    RequestThrottled,
    /// A 2xx status without a whole XML document of the action.
    MalformedAnswer,
    /// The answer to a dry run, although the call was none.
    UnexpectedDryRun,
    /// The credentials provider did not answer in time.
    CredentialsTimedOut,
    /// The credentials provider failed.
    CredentialsFailure,
    /// EC2 refused the credentials, and they were read again.
    CredentialsRenewed,
    /// No credentials provider is configured.
    NoCredentials,
    /// The SDK could not build the request.
    RequestNotSent,
}

impl GatewayCode {
    /// The code as `ErrorInfo` carries it, for example `ConnectionFailure`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// The kind of failure that the code stands for.
    #[must_use]
    pub fn kind(self) -> ErrorKind {
        match self {
            Self::ConnectionFailure
            | Self::HostNotFound
            | Self::RequestTimeout
            | Self::ServiceUnavailable
            | Self::UnknownError
            | Self::CredentialsTimedOut
            | Self::CredentialsFailure
            | Self::CredentialsRenewed => ErrorKind::Unavailable,
            Self::RequestThrottled => ErrorKind::Throttled,
            Self::MalformedAnswer | Self::UnexpectedDryRun => ErrorKind::MalformedAnswer,
            Self::NoCredentials => ErrorKind::Credentials,
            Self::RequestNotSent => ErrorKind::UnknownRefusal,
        }
    }

    /// The meaning, as docs/errors.md prints it.
    #[must_use]
    pub fn meaning(self) -> &'static str {
        match self {
            Self::ConnectionFailure => {
                "EC2 cannot be reached, or the connection ended before the answer did"
            }
            Self::HostNotFound => {
                "the host name of EC2's endpoint does not resolve; the region may be wrong, and is asked for once in 30 s until it was found"
            }
            Self::RequestTimeout => "EC2 did not answer within the attempt timeout",
            Self::ServiceUnavailable => {
                "HTTP status 5xx without an error code: the answer of a proxy on the way"
            }
            Self::UnknownError => {
                "HTTP status 4xx without an error code: the answer of a proxy on the way"
            }
            Self::RequestThrottled => {
                "HTTP status 429 without an error code, taken as EC2's throttling"
            }
            Self::MalformedAnswer => {
                "HTTP status 2xx without a whole XML document of `DescribeStoreImageTasks`"
            }
            Self::UnexpectedDryRun => "EC2 answered as if to a dry run",
            Self::CredentialsTimedOut => {
                "the provider of the gateway's AWS credentials did not answer in time"
            }
            Self::CredentialsFailure => "the provider of the gateway's AWS credentials failed",
            Self::CredentialsRenewed => {
                "EC2 refused the gateway's AWS credentials as expired or unknown, and they were read again"
            }
            Self::NoCredentials => "the gateway has no AWS credentials",
            Self::RequestNotSent => {
                "the request to EC2 could not be built: the gateway's region or endpoint is wrong"
            }
        }
    }
}

impl Deref for ErrorCode {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            Self::Ec2(code) => code,
            Self::Gateway(code) => code.as_str(),
        }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self)
    }
}

/// A text is a code of EC2's.
impl From<&str> for ErrorCode {
    fn from(code: &str) -> Self {
        Self::Ec2(code.into())
    }
}

impl From<GatewayCode> for ErrorCode {
    fn from(code: GatewayCode) -> Self {
        Self::Gateway(code)
    }
}
