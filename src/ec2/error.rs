//! Classifies each failed call once, and keeps secrets out of messages.

use std::time::Duration;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_ec2::{
    error::{ProvideErrorMetadata as _, SdkError},
    operation::{RequestId as _, describe_store_image_tasks::DescribeStoreImageTasksError},
};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use tower::BoxError;

use super::{
    cause::{self, Causes},
    codes::kind_of_code,
    response_integrity::IncompleteResponse,
};
use crate::domain::{DescribeResponse, ErrorKind, UpstreamError};

/// The code of EC2's answer to a dry run that is permitted. EC2 gives that answer as an error.
const DRY_RUN_PERMITTED: &str = "DryRunOperation";

type Failed = SdkError<DescribeStoreImageTasksError, HttpResponse>;

/// Maps the SDK's error to the gateway's, or to a response if it stands for a permitted dry run.
pub(super) fn classify(
    failed: &Failed,
    host: Option<&str>,
) -> Result<DescribeResponse, UpstreamError> {
    if failed.code() == Some(DRY_RUN_PERMITTED) {
        return Ok(DescribeResponse::Permitted);
    }
    let mut error = match failed {
        _ if cause::find::<IncompleteResponse>(failed).is_some() => without_code(status(failed)),
        SdkError::ServiceError(_) => of_service(failed),
        SdkError::ResponseError(_) => of_response(failed),
        SdkError::TimeoutError(_) => timed_out(),
        _ => of_dispatch(failed),
    };
    // An error that EC2 answered is complete without its causes, and they may quote the request.
    if !matches!(failed, SdkError::ServiceError(_)) {
        error.cause = cause::joined(failed, host);
    }
    error.request_id = failed.request_id().map(Into::into);
    error.retry_after = failed.raw_response().and_then(retry_after);
    Err(error)
}

/// Maps the error of a tower layer. Only the timeout layer makes errors of its own.
pub(super) fn from_layer(error: BoxError) -> UpstreamError {
    match error.downcast::<UpstreamError>() {
        Ok(error) => *error,
        Err(error) if error.is::<tower::timeout::error::Elapsed>() => timed_out(),
        Err(error) => failure(ErrorKind::Unavailable, "InternalFailure", &error.to_string()),
    }
}

/// Classifies an error that EC2 answered.
fn of_service(failed: &Failed) -> UpstreamError {
    let status = status(failed);
    let code = failed.code().unwrap_or_default();
    if code.is_empty() {
        return without_code(status);
    }
    let kind = match kind_of_code(code) {
        Some(kind) => kind,
        None if (500..=599).contains(&status) => ErrorKind::Unavailable,
        None => ErrorKind::UnknownRefusal,
    };
    let message = match failed.message() {
        // EC2 quotes the request whose signature it cannot verify, including the session token.
        _ if kind == ErrorKind::Credentials => {
            "EC2 does not accept the gateway's credentials; check its AWS configuration and clock"
        }
        Some(text) if !text.is_empty() => text,
        _ => "EC2 gave no reason",
    };
    failure(kind, code, message)
}

/// Classifies an answer that cannot be read.
fn of_response(failed: &Failed) -> UpstreamError {
    if broke_off(failed) {
        return failure(
            ErrorKind::Unavailable,
            "ConnectionFailure",
            "the connection to EC2 broke off in the middle of an answer",
        );
    }
    without_code(status(failed))
}

/// Returns whether the connection ended before the answer did.
fn broke_off(failed: &Failed) -> bool {
    for cause in Causes::of(failed) {
        // The SDK has no type for a body that breaks off.
        if cause.is::<std::io::Error>() || cause.to_string().contains("error reading a body") {
            return true;
        }
    }
    false
}

/// Classifies an answer without an error code: a truncated one, or one from a proxy on the way.
fn without_code(status: u16) -> UpstreamError {
    match status {
        500..=599 => failure(
            ErrorKind::Unavailable,
            "ServiceUnavailable",
            &format!("EC2 answered with HTTP status {status} and no error code"),
        ),
        429 => failure(
            ErrorKind::Throttled,
            "RequestThrottled",
            "EC2 answered with HTTP status 429 and no error code",
        ),
        400..=499 => failure(
            ErrorKind::UnknownRefusal,
            "UnknownError",
            &format!("EC2 answered with HTTP status {status} and no error code"),
        ),
        _ => failure(
            ErrorKind::MalformedAnswer,
            "MalformedAnswer",
            "EC2's answer cannot be read as XML of DescribeStoreImageTasks",
        ),
    }
}

/// Classifies a call without an answer. The SDK may not even have sent the request.
fn of_dispatch(failed: &Failed) -> UpstreamError {
    match cause::find::<CredentialsError>(failed) {
        Some(CredentialsError::ProviderTimedOut(_)) => failure(
            ErrorKind::Unavailable,
            "CredentialsTimedOut",
            "the provider of the gateway's AWS credentials did not answer in time",
        ),
        Some(_) => failure(
            ErrorKind::Credentials,
            "NoCredentials",
            "no usable AWS credentials: set up the environment, a profile or a role of the gateway",
        ),
        None if matches!(failed, SdkError::ConstructionFailure(_)) => failure(
            ErrorKind::UnknownRefusal,
            "RequestNotSent",
            "the request to EC2 could not be built; check the region and endpoint of the gateway",
        ),
        None => failure(
            ErrorKind::Unavailable,
            "ConnectionFailure",
            "EC2 cannot be reached, or the connection broke off",
        ),
    }
}

fn timed_out() -> UpstreamError {
    failure(ErrorKind::Unavailable, "RequestTimeout", "EC2 did not answer in time")
}

fn failure(kind: ErrorKind, code: &str, message: &str) -> UpstreamError {
    UpstreamError {
        kind,
        code: code.into(),
        message: cause::cut(message).into(),
        cause: None,
        request_id: None,
        retry_after: None,
    }
}

fn status(failed: &Failed) -> u16 {
    match failed.raw_response() {
        Some(response) => response.status().as_u16(),
        None => 0,
    }
}

/// `x-amz-retry-after` is in milliseconds (as aws-runtime reads it), `retry-after` in seconds.
fn retry_after(response: &HttpResponse) -> Option<Duration> {
    if let Some(millis) = header_number(response, "x-amz-retry-after") {
        return Some(Duration::from_millis(millis));
    }
    header_number(response, "retry-after").map(Duration::from_secs)
}

fn header_number(response: &HttpResponse, name: &str) -> Option<u64> {
    response.headers().get(name)?.parse().ok()
}
