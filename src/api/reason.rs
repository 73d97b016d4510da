//! The gateway's own reasons for an error: a table with the code, retry delay and meaning of each.

use std::time::Duration;

use strum::{IntoStaticStr, VariantArray};

use super::StatusCode;

/// The gateway's own reason for refusing a call or ending a watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "SCREAMING_SNAKE_CASE")]
pub enum GatewayReason {
    /// A field of the request is out of bounds.
    InvalidArgument,
    /// The message of the request is larger than the gateway reads.
    RequestTooLarge,
    /// The message of the request cannot be read.
    RequestUnreadable,
    /// The headers of the request are larger than the gateway takes.
    HeadersTooLarge,
    /// The `grpc-timeout` of the request cannot be read.
    InvalidTimeout,
    /// The request is not one of gRPC.
    UnsupportedContentType,
    /// The request is compressed in another way than gzip.
    UnsupportedEncoding,
    /// The service or the method does not exist.
    UnknownMethod,
    /// Health or reflection does not know the name that it was asked for.
    UnknownName,
    /// No task to watch has appeared in time.
    NoTask,
    /// EC2 no longer lists the watched task.
    TaskGone,
    /// The request needs tasks that are older than those that the gateway keeps.
    TooManyTasks,
    /// Too many requests or distinct queries of the scope wait for EC2.
    TooManyWaiting,
    /// Requests that are not answered yet have too many bytes.
    TooManyBytes,
    /// The maximum number of watches is open.
    TooManyWatches,
    /// The maximum number of unary calls is in progress.
    TooManyRequests,
    /// The call gave its place at a bound to another caller, since its own caller held most.
    Preempted,
    /// The maximum number of streams of health and reflection is open.
    TooManyStreams,
    /// The refresher of the scope panicked.
    RequestLost,
    /// The gateway's own request timeout passed.
    RequestTimedOut,
    /// The gateway still searches for its default region.
    RegionUnknown,
    /// The gateway drains.
    ShuttingDown,
    /// The caller's deadline passed.
    DeadlineExceeded,
    /// The gateway has a bug.
    Internal,
}

/// A row of the table.
#[derive(Clone, Copy, Debug)]
pub(super) struct ReasonSpec {
    pub(super) code: StatusCode,
    /// Delay before a retry. None if the caller must not retry the unchanged call.
    pub(super) retry_delay: Option<Duration>,
    /// The meaning, as docs/errors.md prints it.
    pub(super) meaning: &'static str,
}

impl ReasonSpec {
    const fn last(code: StatusCode, meaning: &'static str) -> Self {
        Self { code, retry_delay: None, meaning }
    }

    /// `UNAVAILABLE`, since a failure of the gateway's own that may heal has no other code.
    const fn retry(seconds: u64, meaning: &'static str) -> Self {
        let retry_delay = Some(Duration::from_secs(seconds));
        Self { code: StatusCode::Unavailable, retry_delay, meaning }
    }
}

impl GatewayReason {
    /// The reason as `ErrorInfo` carries it, for example `NO_TASK`.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.into()
    }

    pub(super) fn spec(self) -> ReasonSpec {
        use StatusCode as Code;
        match self {
            Self::InvalidArgument => ReasonSpec::last(
                Code::InvalidArgument,
                "a field is out of bounds; `BadRequest` names it, and EC2 was not asked",
            ),
            Self::RequestTooLarge => ReasonSpec::last(
                Code::InvalidArgument,
                "the message of the request has over 1 MiB, unpacked; health and reflection: over 4 KiB",
            ),
            Self::RequestUnreadable => ReasonSpec::last(
                Code::InvalidArgument,
                "the message of the request is missing, truncated or not in protobuf's encoding",
            ),
            Self::HeadersTooLarge => ReasonSpec::last(
                Code::InvalidArgument,
                "the headers of the request have over 16 KiB; over 64 KiB, HTTP/2 answers with status 431 or ends the connection",
            ),
            Self::InvalidTimeout => ReasonSpec::last(
                Code::InvalidArgument,
                "`grpc-timeout` is not 1 to 8 digits and a unit (`H`, `M`, `S`, `m`, `u` or `n`)",
            ),
            Self::UnsupportedContentType => ReasonSpec::last(
                Code::InvalidArgument,
                "`content-type` is not `application/grpc`; the HTTP status is 415",
            ),
            Self::UnsupportedEncoding => ReasonSpec::last(
                Code::Unimplemented,
                "`grpc-encoding` is neither `gzip` nor `identity`",
            ),
            Self::UnknownMethod => {
                ReasonSpec::last(Code::Unimplemented, "the gateway has no such service or method")
            }
            Self::UnknownName => ReasonSpec::last(
                Code::NotFound,
                "health or reflection: the gateway has no such service or symbol",
            ),
            Self::NoTask => ReasonSpec::last(
                Code::NotFound,
                "Watch: no such task has appeared within `wait_for_task`; `metadata` has what was waited for, and `ec2Code`, `latestStartTime` and `knownSince` as far as they apply",
            ),
            Self::TaskGone => ReasonSpec::last(
                Code::NotFound,
                "Watch: EC2 has not listed the unfinished task for five minutes, or the task is older than 31 days",
            ),
            Self::TooManyTasks => ReasonSpec::last(
                Code::FailedPrecondition,
                "the account and region has more tasks than the gateway keeps, and the request needs older ones; a Watch goes on, and shows it as `degraded`",
            ),
            Self::TooManyWaiting => {
                ReasonSpec::retry(1, "too many requests of the account and region wait for EC2")
            }
            Self::TooManyBytes => ReasonSpec::retry(
                1,
                "the requests that the gateway has not answered yet have too many bytes, and most of them came on this connection",
            ),
            Self::TooManyWatches => ReasonSpec::retry(10, "too many watches are open"),
            Self::TooManyRequests => ReasonSpec::retry(
                1,
                "too many calls that need EC2 are in progress; another replica may have room",
            ),
            Self::Preempted => ReasonSpec::retry(
                5,
                "a bound was reached, the caller held most of its places, and another caller needed one; watches end with this, too",
            ),
            Self::TooManyStreams => {
                ReasonSpec::retry(10, "too many streams of health and reflection are open")
            }
            Self::RequestLost => {
                ReasonSpec::retry(1, "the gateway lost the request by a fault of its own")
            }
            Self::RequestTimedOut => ReasonSpec::retry(
                2,
                "the gateway's own request timeout passed before the whole request had arrived, or before EC2 answered; a call to EC2 goes on and fills the cache",
            ),
            Self::RegionUnknown => ReasonSpec::retry(
                1,
                "the gateway has just started and still searches for its default region",
            ),
            Self::ShuttingDown => ReasonSpec::retry(
                1,
                "Watch: the gateway shuts down; another replica, or the next process, goes on",
            ),
            Self::DeadlineExceeded => {
                ReasonSpec::last(Code::DeadlineExceeded, "the caller's own deadline passed")
            }
            Self::Internal => {
                ReasonSpec::last(Code::Internal, "a bug of the gateway, which logs it at `error`")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_unavailable_has_a_delay() {
        for reason in GatewayReason::VARIANTS {
            let spec = reason.spec();
            let retryable = spec.code == StatusCode::Unavailable;
            assert_eq!(spec.retry_delay.is_some(), retryable, "{reason:?}");
            assert_ne!(spec.code, StatusCode::ResourceExhausted, "{reason:?}: EC2's throttling");
        }
    }
}
