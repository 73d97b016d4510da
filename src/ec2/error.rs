//! Classes each failure of a call once, and takes care that no message tells a secret.

use std::{error::Error as StdError, time::Duration};

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_ec2::{
    error::{ProvideErrorMetadata as _, SdkError},
    operation::{RequestId as _, describe_store_image_tasks::DescribeStoreImageTasksError},
};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use tower::BoxError;

use super::{codes::kind_of_code, response_integrity::IncompleteResponse};
use crate::domain::{DescribeResponse, ErrorKind, UpstreamError};

/// Longest message that is passed on: gRPC carries it in a header, which peers bound at 8 KiB.
const LONGEST_MESSAGE: usize = 2_000;

/// What EC2 answers to a dry run that is permitted: an error, by its form.
const DRY_RUN_PERMITTED: &str = "DryRunOperation";

type Failed = SdkError<DescribeStoreImageTasksError, HttpResponse>;

/// The answer or the error that a failed call stands for.
pub(super) fn classify(failed: &Failed) -> Result<DescribeResponse, UpstreamError> {
    if failed.code() == Some(DRY_RUN_PERMITTED) {
        return Ok(DescribeResponse::Permitted);
    }
    let mut error = match failed {
        _ if chain(failed).any(<dyn StdError>::is::<IncompleteResponse>) => {
            without_code(status(failed))
        }
        SdkError::ServiceError(_) => of_service(failed),
        SdkError::ResponseError(_) => of_response(failed),
        SdkError::TimeoutError(_) => timed_out(),
        _ => of_dispatch(failed),
    };
    error.request_id = failed.request_id().map(Into::into);
    error.retry_after = failed.raw_response().and_then(retry_after);
    Err(error)
}

/// An error of one of tower's own layers: the only one that makes any is the timeout.
pub(super) fn from_layer(error: BoxError) -> UpstreamError {
    match error.downcast::<UpstreamError>() {
        Ok(error) => *error,
        Err(error) if error.is::<tower::timeout::error::Elapsed>() => timed_out(),
        Err(error) => ours(ErrorKind::Unavailable, "InternalFailure", error.to_string()),
    }
}

/// EC2 answered with an error.
fn of_service(failed: &Failed) -> UpstreamError {
    let status = status(failed);
    let Some(code) = failed.code().filter(|code| !code.is_empty()) else {
        return without_code(status);
    };
    let kind = kind_of_code(code).unwrap_or(match status {
        500..=599 => ErrorKind::Unavailable,
        _ => ErrorKind::UnknownRefusal,
    });
    let message = match kind {
        // EC2 quotes the request that it could not verify, session token and all.
        ErrorKind::Credentials => {
            "EC2 does not accept the gateway's credentials; check its AWS configuration and clock"
                .to_owned()
        }
        _ => failed
            .message()
            .filter(|text| !text.is_empty())
            .unwrap_or("EC2 gave no reason")
            .to_owned(),
    };
    ours(kind, code, message)
}

/// An answer came, but it can't be read.
fn of_response(failed: &Failed) -> UpstreamError {
    if chain(failed).any(|cause| {
        cause.is::<std::io::Error>() || cause.to_string().contains("error reading a body")
    }) {
        return ours(
            ErrorKind::Unavailable,
            "ConnectionFailure",
            "the connection to EC2 broke off in the middle of an answer".to_owned(),
        );
    }
    without_code(status(failed))
}

/// An answer without an error code: from something on the way, or cut short.
fn without_code(status: u16) -> UpstreamError {
    match status {
        500..=599 => ours(
            ErrorKind::Unavailable,
            "ServiceUnavailable",
            format!("EC2 answered with HTTP status {status} and no error code"),
        ),
        429 => ours(
            ErrorKind::Throttled,
            "RequestThrottled",
            "EC2 answered with HTTP status 429 and no error code".to_owned(),
        ),
        400..=499 => ours(
            ErrorKind::UnknownRefusal,
            "UnknownError",
            format!("EC2 answered with HTTP status {status} and no error code"),
        ),
        _ => ours(
            ErrorKind::MalformedAnswer,
            "MalformedAnswer",
            "EC2's answer cannot be read as XML of DescribeStoreImageTasks".to_owned(),
        ),
    }
}

/// No answer came, or the request was never sent.
fn of_dispatch(failed: &Failed) -> UpstreamError {
    match chain(failed).find_map(|cause| cause.downcast_ref::<CredentialsError>()) {
        Some(CredentialsError::ProviderTimedOut(_)) => ours(
            ErrorKind::Unavailable,
            "CredentialsTimedOut",
            "the provider of the gateway's AWS credentials did not answer in time".to_owned(),
        ),
        Some(_) => ours(
            ErrorKind::Credentials,
            "NoCredentials",
            "no usable AWS credentials: set up the environment, a profile or a role of the gateway"
                .to_owned(),
        ),
        None if matches!(failed, SdkError::ConstructionFailure(_)) => ours(
            ErrorKind::UnknownRefusal,
            "RequestNotSent",
            "the request to EC2 could not be built; check the region and endpoint of the gateway"
                .to_owned(),
        ),
        None => ours(
            ErrorKind::Unavailable,
            "ConnectionFailure",
            "EC2 cannot be reached, or the connection broke off".to_owned(),
        ),
    }
}

fn timed_out() -> UpstreamError {
    ours(ErrorKind::Unavailable, "RequestTimeout", "EC2 did not answer in time".to_owned())
}

fn ours(kind: ErrorKind, code: &str, mut message: String) -> UpstreamError {
    if message.len() > LONGEST_MESSAGE {
        message.truncate(message.floor_char_boundary(LONGEST_MESSAGE));
        message.push('…');
    }
    UpstreamError {
        kind,
        code: code.into(),
        message: message.into(),
        request_id: None,
        retry_after: None,
    }
}

fn status(failed: &Failed) -> u16 {
    failed.raw_response().map_or(0, |response| response.status().as_u16())
}

/// `x-amz-retry-after` is in milliseconds (as aws-runtime reads it), `retry-after` in seconds.
fn retry_after(response: &HttpResponse) -> Option<Duration> {
    let number = |name| response.headers().get(name)?.parse::<u64>().ok();
    number("x-amz-retry-after")
        .map(Duration::from_millis)
        .or_else(|| number("retry-after").map(Duration::from_secs))
}

fn chain<'a>(
    error: &'a (dyn StdError + 'static),
) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |cause: &&'a (dyn StdError + 'static)| (*cause).source())
}
