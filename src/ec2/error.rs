//! Classifies each failed call once, and keeps secrets out of messages.

use std::time::Duration;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_ec2::{
    error::{ProvideErrorMetadata as _, SdkError},
    operation::{RequestId as _, describe_store_image_tasks::DescribeStoreImageTasksError},
};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use http_body_util::LengthLimitError;
use tower::BoxError;

use super::{
    cause::{self, Causes},
    codes::kind_of_code,
    credentials::UnfitCredentials,
    response_integrity::IncompleteResponse,
    text_bounds,
};
use crate::domain::{DescribeResponse, ErrorKind, GatewayCode, Region, UpstreamError};

/// The code of EC2's answer to a dry run that is permitted. EC2 gives that answer as an error.
const DRY_RUN_PERMITTED: &str = "DryRunOperation";

/// Codes with which EC2 refuses credentials that were good once: they have expired, or their key was
/// deleted when a new one took its place.
const OLD_CREDENTIALS: [&str; 3] = ["ExpiredToken", "RequestExpired", "InvalidClientTokenId"];

pub(super) type Failed = SdkError<DescribeStoreImageTasksError, HttpResponse>;

/// The circumstances of a failed call, which its error does not tell.
pub(super) struct Circumstances<'a> {
    /// The host of the endpoint, if a request was ever sent.
    pub(super) host: Option<&'a str>,
    pub(super) region: &'a Region,
    /// Whether a request was ever signed.
    pub(super) had_credentials: bool,
}

/// Maps the SDK's error to the gateway's, or to a response if it stands for a permitted dry run.
pub(super) fn classify(
    failed: &Failed,
    circumstances: &Circumstances<'_>,
) -> Result<DescribeResponse, UpstreamError> {
    if failed.code() == Some(DRY_RUN_PERMITTED) {
        return Ok(DescribeResponse::Permitted);
    }
    let mut error = match failed {
        _ if cause::find::<IncompleteResponse>(failed).is_some() => without_code(status(failed)),
        SdkError::ServiceError(_) => of_service(failed),
        SdkError::ResponseError(_) => of_response(failed),
        SdkError::TimeoutError(_) => timed_out(),
        _ => of_dispatch(failed, circumstances),
    };
    // An error that EC2 answered is complete without its causes, and they may quote the request.
    if !matches!(failed, SdkError::ServiceError(_)) {
        error.cause = cause::joined(failed, circumstances.host);
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
        Err(error) => failure(GatewayCode::ConnectionFailure, &error.to_string()),
    }
}

/// Classifies an error that EC2 answered.
fn of_service(failed: &Failed) -> UpstreamError {
    let status = status(failed);
    let Some(code) = failed.code().filter(|code| text_bounds::is_code(code)) else {
        return without_code(status);
    };
    let kind = kind_of_answer(status, code);
    let message = match failed.message() {
        // EC2 quotes the request whose signature it cannot verify, including the session token.
        _ if kind == ErrorKind::Credentials => {
            "EC2 does not accept the gateway's credentials; check its AWS configuration and clock"
        }
        Some(text) if !text.is_empty() => text,
        _ => "EC2 gave no reason",
    };
    UpstreamError::new(kind, code.into(), &cause::cut(message))
}

/// An endpoint that lacks the action answers with status 501 and a code of its choice.
fn kind_of_answer(status: u16, code: &str) -> ErrorKind {
    if status == 501 {
        return ErrorKind::Unsupported;
    }
    match (kind_of_code(code), status) {
        (Some(kind), _) => kind,
        (None, 408 | 500..=599) => ErrorKind::Unavailable,
        (None, _) => ErrorKind::UnknownRefusal,
    }
}

/// Classifies an answer that cannot be read.
fn of_response(failed: &Failed) -> UpstreamError {
    if cause::find::<LengthLimitError>(failed).is_some() {
        return failure(
            GatewayCode::MalformedAnswer,
            "EC2's answer is longer than 8 MiB, and a page of 200 tasks is never that long",
        );
    }
    if broke_off(failed) {
        return failure(
            GatewayCode::ConnectionFailure,
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

/// Classifies an answer without an error code: a truncated one, or one from a proxy on the way. EC2
/// has refused nothing then.
fn without_code(status: u16) -> UpstreamError {
    match status {
        500..=599 => failure(
            GatewayCode::ServiceUnavailable,
            &format!("EC2 answered with HTTP status {status} and no error code"),
        ),
        429 => failure(
            GatewayCode::RequestThrottled,
            "EC2 answered with HTTP status 429 and no error code",
        ),
        400..=499 => failure(
            GatewayCode::UnknownError,
            &format!("EC2 answered with HTTP status {status} and no error code"),
        ),
        _ => failure(
            GatewayCode::MalformedAnswer,
            "EC2's answer cannot be read as XML of DescribeStoreImageTasks",
        ),
    }
}

/// Returns whether EC2 refuses credentials that may have been replaced since they were read.
pub(super) fn refuses_old_credentials(failed: &Failed) -> bool {
    failed.code().is_some_and(|code| OLD_CREDENTIALS.contains(&code))
}

/// Returns whether no provider has usable credentials, as far as the SDK has read them.
pub(super) fn lacks_credentials(failed: &Failed) -> bool {
    matches!(
        cause::find::<CredentialsError>(failed),
        Some(CredentialsError::CredentialsNotLoaded(_) | CredentialsError::InvalidConfiguration(_))
    )
}

/// Returns whether the request was signed, so that there were credentials.
pub(super) fn was_signed(failed: &Failed) -> bool {
    failed.raw_response().is_some()
}

/// The error of a call whose credentials EC2 has refused and the gateway has read again. The next attempt
/// shows whether the new ones are better.
pub(super) fn renewed(failed: &Failed) -> UpstreamError {
    let code = failed.code().unwrap_or_default();
    let message = format!("EC2 refused the gateway's credentials ({code}); they were read again");
    failure(GatewayCode::CredentialsRenewed, &message)
}

/// Classifies a call without an answer. The SDK may not even have sent the request.
fn of_dispatch(failed: &Failed, circumstances: &Circumstances<'_>) -> UpstreamError {
    if let Some(error) = cause::find::<CredentialsError>(failed) {
        return of_credentials(error, circumstances.had_credentials);
    }
    if matches!(failed, SdkError::ConstructionFailure(_)) {
        return failure(
            GatewayCode::RequestNotSent,
            "the request to EC2 could not be built; check the region and endpoint of the gateway",
        );
    }
    if is_dns_error(failed) {
        let region = circumstances.region;
        let message = format!("the host of EC2 is not found; is the region {region} right?");
        return failure(GatewayCode::HostNotFound, &message);
    }
    failure(GatewayCode::ConnectionFailure, "EC2 cannot be reached, or the connection broke off")
}

/// Returns whether the host name of the endpoint, or of the proxy, did not resolve.
fn is_dns_error(failed: &Failed) -> bool {
    // hyper-util has no public type for it.
    Causes::of(failed).any(|cause| cause.to_string().starts_with("dns error"))
}

/// Classifies the failure of a credentials provider.
///
/// That no provider is configured is final at the start. Once a request was signed, it means that the
/// provider is away for a while: the instance metadata, for example, then looks as if there were none.
pub(super) fn of_credentials(error: &CredentialsError, had_credentials: bool) -> UpstreamError {
    if let Some(unfit) = cause::find::<UnfitCredentials>(error) {
        return failure(GatewayCode::NoCredentials, &unfit.to_string());
    }
    match error {
        CredentialsError::ProviderTimedOut(_) => failure(
            GatewayCode::CredentialsTimedOut,
            "the provider of the gateway's AWS credentials did not answer in time",
        ),
        CredentialsError::ProviderError(_) | CredentialsError::Unhandled(_) => failure(
            GatewayCode::CredentialsFailure,
            "the provider of the gateway's AWS credentials failed",
        ),
        _ if had_credentials => failure(
            GatewayCode::CredentialsFailure,
            "the gateway had AWS credentials, and now no provider has any",
        ),
        _ => no_credentials(),
    }
}

/// The error of a gateway without credentials.
pub(super) fn no_credentials() -> UpstreamError {
    failure(
        GatewayCode::NoCredentials,
        "no usable AWS credentials: set up the environment, a profile or a role of the gateway",
    )
}

fn timed_out() -> UpstreamError {
    failure(GatewayCode::RequestTimeout, "EC2 did not answer in time")
}

/// A failure that EC2 did not report.
fn failure(code: GatewayCode, message: &str) -> UpstreamError {
    UpstreamError::of_gateway(code, &cause::cut(message))
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

#[cfg(test)]
mod tests {
    use aws_sdk_ec2::error::ConnectorError;

    use super::*;
    use crate::domain::ErrorCode;

    fn region() -> Region {
        Region::parse("us-east-1").expect("valid")
    }

    fn circumstances(region: &Region, had_credentials: bool) -> Circumstances<'_> {
        Circumstances { host: None, region, had_credentials }
    }

    fn code_of(failed: &Failed) -> ErrorCode {
        classify(failed, &circumstances(&region(), false)).expect_err("an error").code
    }

    fn credentials(error: CredentialsError) -> Failed {
        SdkError::construction_failure(error)
    }

    #[test]
    fn a_call_that_was_not_sent_has_a_code_of_the_gateway() {
        let timeout = Duration::from_secs(1);
        for (failed, code) in [
            (
                credentials(CredentialsError::provider_timed_out(timeout)),
                GatewayCode::CredentialsTimedOut,
            ),
            (
                credentials(CredentialsError::provider_error("STS failed")),
                GatewayCode::CredentialsFailure,
            ),
            (credentials(CredentialsError::unhandled("a bug")), GatewayCode::CredentialsFailure),
            (credentials(CredentialsError::not_loaded("no profile")), GatewayCode::NoCredentials),
            (
                credentials(CredentialsError::invalid_configuration("bad profile")),
                GatewayCode::NoCredentials,
            ),
            (SdkError::construction_failure("no endpoint"), GatewayCode::RequestNotSent),
            (
                SdkError::dispatch_failure(ConnectorError::io("refused".into())),
                GatewayCode::ConnectionFailure,
            ),
            (SdkError::timeout_error("late"), GatewayCode::RequestTimeout),
        ] {
            assert_eq!(code_of(&failed), ErrorCode::Gateway(code));
        }
    }

    #[test]
    fn that_no_provider_is_configured_heals_if_credentials_were_had() {
        let failed = credentials(CredentialsError::not_loaded("no metadata"));
        let kind =
            |had| classify(&failed, &circumstances(&region(), had)).expect_err("an error").kind;
        assert_eq!(kind(false), ErrorKind::Credentials);
        assert_eq!(kind(true), ErrorKind::Unavailable);
    }

    #[test]
    fn a_failure_that_may_heal_is_transient_and_missing_credentials_are_not() {
        assert!(GatewayCode::CredentialsTimedOut.kind().is_transient());
        assert!(GatewayCode::CredentialsFailure.kind().is_transient());
        assert!(!GatewayCode::NoCredentials.kind().is_transient());
        assert!(!GatewayCode::RequestNotSent.kind().is_transient());
    }
}
