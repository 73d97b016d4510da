//! Renders the shared errors as gRPC statuses with their details, small enough for every peer.
//!
//! All trailers of a status together stay below 3 KiB on the wire. grpc-java and grpcio accept 8 KiB
//! of metadata, and nginx has 4 KiB for the headers of an answer. A status above a peer's limit
//! reaches the caller as another code: RESOURCE_EXHAUSTED, INTERNAL or UNAVAILABLE.

use std::{collections::HashMap, time::Duration};

use http::HeaderMap;
use tonic::{
    Code, Status,
    metadata::{MetadataMap, MetadataValue},
};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt as _};

use crate::api::{ApiError, Violation, Violations};

/// Trailer with the milliseconds after which gRPC clients try again by themselves (gRFC A6,
/// "Pushback").
const PUSHBACK: &str = "grpc-retry-pushback-ms";

/// Name of the header that RFC 9211 defines.
const CACHE_STATUS: &str = "cache-status";

/// 2,816 bytes: the largest trailers of a status. 3 KiB, without 256 bytes for the headers that a
/// status without a message has beside them: `:status`, `content-type` and `date`.
const MAX_TRAILER_BYTES: usize = (3 << 10) - 256;

/// Bytes that HTTP/2 counts for a header beside its name and value (RFC 9113, section 10.5.1).
const HEADER_OVERHEAD: usize = 32;

/// 128 bytes: the longest reason and the longest value of `ErrorInfo.metadata`. An endpoint that is
/// not AWS may send codes and request IDs of any length.
const MAX_NAME_BYTES: usize = 128;

/// 1,000 bytes: the longest description of a field. The gateway's own have at most 800.
const MAX_DESCRIPTION_BYTES: usize = 1_000;

/// Most bytes on the wire for one byte of a message: 3 percent-encoded in `grpc-message`, and 4 for
/// 3 in base64 in `grpc-status-details-bin`. So this many thirds of a byte.
const THIRDS_PER_MESSAGE_BYTE: usize = 13;

/// The status of a failed call, with as many violations in full as there is room for, at least one.
pub(super) fn status(error: ApiError) -> Status {
    let violations = error.violations.first().len();
    if violations < 2 {
        return shortened(error);
    }
    let mut fitting = error.keep_violations(1);
    for count in 2..=violations {
        let longer = error.keep_violations(count);
        if excess(&render(&longer)) > 0 {
            break;
        }
        fitting = longer;
    }
    shortened(fitting)
}

/// The response to a call that is refused.
#[must_use]
pub fn refusal(error: ApiError) -> http::Response<tonic::body::Body> {
    status(error).into_http()
}

/// The status, with its message cut so far that it fits.
fn shortened(error: ApiError) -> Status {
    let mut error = error;
    let message = error.message;
    let mut longest = message.len();
    loop {
        error.message = cut(&message, longest);
        let status = render(&error);
        let excess = excess(&status);
        if excess == 0 || longest == 0 {
            return status;
        }
        longest = longest.saturating_sub((excess * 3).div_ceil(THIRDS_PER_MESSAGE_BYTE));
    }
}

/// Bytes by which the trailers of a status exceed [`MAX_TRAILER_BYTES`].
fn excess(status: &Status) -> usize {
    let mut trailers = HeaderMap::new();
    // A status whose message or details were no valid header would not leave tonic either.
    let _ = status.add_header(&mut trailers);
    let mut bytes = 0;
    for (name, value) in &trailers {
        bytes += name.as_str().len() + value.len() + HEADER_OVERHEAD;
    }
    bytes.saturating_sub(MAX_TRAILER_BYTES)
}

fn render(error: &ApiError) -> Status {
    let mut metadata = MetadataMap::new();
    if let Some(delay) = error.retry_delay {
        metadata.insert(PUSHBACK, millis(delay).into());
    }
    if let Some(text) = &error.cache_status
        && let Ok(value) = MetadataValue::try_from(text)
    {
        metadata.insert(CACHE_STATUS, value);
    }
    let code = Code::from(error.code.number());
    Status::with_error_details_and_metadata(code, &error.message, details(error), metadata)
}

fn details(error: &ApiError) -> ErrorDetails {
    let mut metadata = HashMap::new();
    for (key, value) in &error.metadata {
        metadata.insert((*key).to_owned(), cut(value, MAX_NAME_BYTES));
    }
    let reason = cut(&error.reason, MAX_NAME_BYTES);
    let mut details = ErrorDetails::with_error_info(reason, error.domain, metadata);
    if !error.violations.is_empty() {
        details.set_bad_request(field_violations(&error.violations));
    }
    if let Some(delay) = error.retry_delay {
        details.set_retry_info(Some(delay));
    }
    details
}

fn field_violations(violations: &Violations) -> Vec<FieldViolation> {
    let mut rendered = Vec::new();
    for Violation { field, description } in violations.first() {
        rendered.push(FieldViolation::new(field, cut(description, MAX_DESCRIPTION_BYTES)));
    }
    rendered
}

/// The text in at most `max_bytes` bytes. A longer text is cut at a character, and ends in `…`.
fn cut(text: &str, max_bytes: usize) -> String {
    const ELLIPSIS: &str = "…";
    if text.len() <= max_bytes {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(max_bytes.saturating_sub(ELLIPSIS.len()));
    format!("{}{ELLIPSIS}", &text[..end])
}

fn millis(delay: Duration) -> u64 {
    u64::try_from(delay.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        api::GatewayReason,
        domain::{AccountName, ErrorKind, Region, Scope, UpstreamError},
    };

    /// 3 KiB: what docs/errors.md promises for all trailers of a status.
    const PROMISED_BYTES: usize = 3 << 10;

    fn wire_bytes(status: &Status) -> usize {
        let response = status.clone().into_http::<()>();
        let mut bytes = ":status200".len() + "date".len() + 29 + 2 * HEADER_OVERHEAD;
        for (name, value) in response.headers() {
            bytes += name.as_str().len() + value.len() + HEADER_OVERHEAD;
        }
        bytes
    }

    fn invalid(descriptions: &[String]) -> ApiError {
        let mut violations = Violations::default();
        for (index, description) in descriptions.iter().enumerate() {
            violations.add(format!("image_ids[{index}]"), description);
        }
        ApiError::invalid(violations)
    }

    fn from_ec2(code: &str, message: &str, request_id: &str) -> ApiError {
        let scope = Scope {
            account: AccountName::parse(&"a".repeat(64)).expect("valid"),
            region: Region::parse("ap-southeast-1").expect("valid"),
        };
        let error = UpstreamError {
            kind: ErrorKind::Throttled,
            code: code.into(),
            message: message.into(),
            cause: None,
            request_id: Some(request_id.into()),
            retry_after: None,
        };
        ApiError::upstream(&error, &scope)
    }

    /// Texts with the characters that take most bytes on the wire.
    fn texts() -> impl Strategy<Value = String> {
        "([ -~]|[\"%<>]|[\u{1}-\u{8}]|[é漢😀]){0,900}"
    }

    proptest! {
        #[test]
        fn the_trailers_of_bad_arguments_stay_below_3_kib(
            descriptions in prop::collection::vec(texts(), 1..40),
        ) {
            let error = invalid(&descriptions);
            let status = status(error);
            prop_assert!(wire_bytes(&status) < PROMISED_BYTES, "{status:?}");
            let bad = status.get_details_bad_request().expect("a BadRequest").field_violations;
            let kept = bad.len();
            prop_assert!(kept >= 1);
            for (index, violation) in bad.iter().enumerate() {
                prop_assert_eq!(&violation.field, &format!("image_ids[{index}]"));
                let whole = cut(&descriptions[index], MAX_DESCRIPTION_BYTES);
                prop_assert_eq!(&violation.description, &whole);
            }
            if !status.message().ends_with('…') {
                let counted = format!("; and {} more", descriptions.len() - kept);
                let left_out = kept < descriptions.len();
                prop_assert_eq!(status.message().ends_with(&counted), left_out);
            }
        }

        #[test]
        fn the_trailers_of_an_error_of_ec2_stay_below_3_kib(
            code in texts(), message in texts(), request_id in texts(),
        ) {
            let error = from_ec2(&code, &message.repeat(3), &request_id);
            let whole = error.message.clone();
            let status = status(error);
            prop_assert!(wire_bytes(&status) < PROMISED_BYTES, "{status:?}");
            match status.message().strip_suffix('…') {
                Some(begin) if status.message() != whole => prop_assert!(whole.starts_with(begin)),
                _ => prop_assert_eq!(status.message(), whole),
            }
        }
    }

    #[test]
    fn of_many_violations_the_first_are_in_full_and_the_others_counted() {
        let quoted = "\"ami-\" is not an AMI ID: \"ami-\" and 8 to 17 lower-case digits";
        let status = status(invalid(&vec![quoted.to_owned(); 1_000]));
        let kept = status.get_details_bad_request().expect("a BadRequest").field_violations.len();
        assert!((3..20).contains(&kept), "{kept}");
        let counted = format!("; and {} more", 1_000 - kept);
        assert!(status.message().ends_with(&counted), "{}", status.message());
    }

    #[test]
    fn a_short_message_is_left_as_it_is() {
        let error = ApiError::gateway(GatewayReason::NoTask, "no task");
        assert_eq!(status(error).message(), "no task");
    }

    #[test]
    fn a_long_message_is_cut_at_a_character_and_fills_the_room() {
        let status = status(from_ec2("UnauthorizedOperation", &"é".repeat(20_000), "id"));
        assert!(status.message().ends_with("é…"), "{}", status.message());
        assert!(wire_bytes(&status) > PROMISED_BYTES - 300, "{}", wire_bytes(&status));
    }
}
