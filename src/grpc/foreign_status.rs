//! Gives a status that no handler of the contract made its place in the error table. Such a status
//! comes from tonic, from health or from reflection, and has no details.

use http::HeaderMap;
use tonic::{Code, Status};

use super::status::status;
use crate::api::{ApiError, GatewayReason};

/// Header with which tonic says what encodings it takes. It stands only beside the refusal of one.
const ACCEPT_ENCODING: &str = "grpc-accept-encoding";

/// Adds the details to the status of a header block, if it has a status without them.
pub(super) fn complete(headers: &mut HeaderMap) {
    let Some(code) = headers.get(Status::GRPC_STATUS) else { return };
    if code == "0" || headers.contains_key(Status::GRPC_STATUS_DETAILS) {
        return;
    }
    let Some(foreign) = Status::from_header_map(headers) else { return };
    let completed = status(error(&foreign));
    // The gateway's own statuses are valid headers.
    let _ = completed.add_header(headers);
}

/// The row of the error table. The message says first what is expected, then what was found.
fn error(foreign: &Status) -> ApiError {
    let found = foreign.message();
    match foreign.code() {
        Code::Unimplemented if foreign.metadata().contains_key(ACCEPT_ENCODING) => {
            let expected = "grpc-encoding must be gzip or identity";
            ApiError::gateway(GatewayReason::UnsupportedEncoding, format!("{expected}: {found}"))
        }
        Code::Unimplemented => ApiError::gateway(
            GatewayReason::UnknownMethod,
            "the gateway has no such service or method; reflection lists those that it has",
        ),
        Code::NotFound => ApiError::gateway(GatewayReason::UnknownName, found),
        // tonic counts the bytes as sent (OUT_OF_RANGE) and as unpacked (RESOURCE_EXHAUSTED).
        Code::OutOfRange | Code::ResourceExhausted => ApiError::gateway(
            GatewayReason::RequestTooLarge,
            format!("the message of the request is too large: {found}"),
        ),
        // All else fails while tonic reads the request. If the caller went away meanwhile, the
        // status reaches no peer.
        _ => ApiError::gateway(
            GatewayReason::RequestUnreadable,
            format!("the message of the request cannot be read: {found}"),
        ),
    }
}
