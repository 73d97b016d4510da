//! Admission: what the headers of a request must be before anything else is read of it.

use http::{HeaderMap, Response, StatusCode, Uri, header::CONTENT_TYPE, request::Parts};
use tonic::body::Body;

use crate::{
    api::{ApiError, GatewayReason},
    grpc::{
        deadline::{self, Deadline},
        status::status,
    },
};

/// 16 KiB: the largest headers of a request, as HTTP/2 counts them, path and authority included. That is
/// twice what gRPC libraries themselves accept by default.
const MAX_HEADER_BYTES: usize = 16 << 10;

/// Bytes that HTTP/2 counts for a header beside its name and value (RFC 9113, section 10.5.1).
const HEADER_OVERHEAD: usize = 32;

/// A request that no service gets to see.
#[derive(Debug)]
pub(super) struct Refusal {
    http: StatusCode,
    error: ApiError,
}

impl Refusal {
    pub(super) fn response(self) -> Response<Body> {
        let mut response = status(self.error).into_http();
        *response.status_mut() = self.http;
        response
    }
}

impl From<ApiError> for Refusal {
    fn from(error: ApiError) -> Self {
        Self { http: StatusCode::OK, error }
    }
}

/// The deadline of a request whose headers are those of a gRPC request.
pub(super) fn admit(head: &Parts) -> Result<Option<Deadline>, Refusal> {
    check_content_type(&head.headers)?;
    check_size(head)?;
    let deadline = deadline::deadline(&head.headers)?;
    if deadline.is_some_and(Deadline::has_passed) {
        return Err(deadline::expired().into());
    }
    Ok(deadline)
}

/// HTTP status 415 is what gRPC asks for (gRPC over HTTP2, "Content-Type"). A browser reads it, too.
fn check_content_type(headers: &HeaderMap) -> Result<(), Refusal> {
    let content_type = headers.get(CONTENT_TYPE);
    if content_type.is_some_and(|value| is_grpc(value.as_bytes())) {
        return Ok(());
    }
    let error = ApiError::gateway(
        GatewayReason::UnsupportedContentType,
        format!("content-type must be application/grpc, got {content_type:?}"),
    );
    Err(Refusal { http: StatusCode::UNSUPPORTED_MEDIA_TYPE, error })
}

/// Whether a content type is `application/grpc` or `application/grpc+proto`, with any parameters.
fn is_grpc(content_type: &[u8]) -> bool {
    let Some(rest) = content_type.strip_prefix(b"application/grpc") else { return false };
    let parameters = rest.strip_prefix(b"+proto").unwrap_or(rest);
    matches!(parameters.first(), None | Some(b';' | b' '))
}

fn check_size(head: &Parts) -> Result<(), ApiError> {
    let mut bytes = uri_bytes(&head.uri);
    for (name, value) in &head.headers {
        bytes += name.as_str().len() + value.len() + HEADER_OVERHEAD;
    }
    if bytes <= MAX_HEADER_BYTES {
        return Ok(());
    }
    Err(ApiError::gateway(
        GatewayReason::HeadersTooLarge,
        format!("the headers must have at most {MAX_HEADER_BYTES} bytes, got {bytes}"),
    ))
}

/// The bytes of the two pseudo-headers that a client can make as long as it likes.
fn uri_bytes(uri: &Uri) -> usize {
    let path = uri.path_and_query().map_or(0, |path| path.as_str().len());
    let authority = uri.authority().map_or(0, |authority| authority.as_str().len());
    path + authority
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grpc_content_type_has_protobuf_and_any_parameters() {
        for good in ["application/grpc", "application/grpc+proto", "application/grpc;charset=utf-8"]
        {
            assert!(is_grpc(good.as_bytes()), "{good}");
        }
        for bad in ["", "text/plain", "application/grpc-web", "application/grpc+json"] {
            assert!(!is_grpc(bad.as_bytes()), "{bad}");
        }
    }
}
