//! Renders the shared errors as gRPC statuses with their details.

use std::{collections::HashMap, time::Duration};

use tonic::{
    Code, Status,
    metadata::{MetadataMap, MetadataValue},
};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt as _};

use crate::api::{ApiError, Violation};

/// Trailer with the milliseconds after which gRPC clients try again by themselves (gRFC A6,
/// "Pushback").
const PUSHBACK: &str = "grpc-retry-pushback-ms";

/// Name of the header that RFC 9211 defines.
const CACHE_STATUS: &str = "cache-status";

/// The status of a failed call.
pub(super) fn status(error: ApiError) -> Status {
    let mut metadata = MetadataMap::new();
    if let Some(delay) = error.retry_after {
        metadata.insert(PUSHBACK, millis(delay).into());
    }
    if let Some(text) = &error.cache_status
        && let Ok(value) = MetadataValue::try_from(text)
    {
        metadata.insert(CACHE_STATUS, value);
    }
    let code = Code::from(error.code.number());
    let details = details(&error);
    Status::with_error_details_and_metadata(code, error.message, details, metadata)
}

fn details(error: &ApiError) -> ErrorDetails {
    let mut metadata = HashMap::new();
    for (key, value) in &error.metadata {
        metadata.insert((*key).to_owned(), value.clone());
    }
    let mut details = ErrorDetails::with_error_info(&error.reason, error.domain, metadata);
    if !error.violations.is_empty() {
        details.set_bad_request(field_violations(&error.violations));
    }
    if let Some(delay) = error.retry_after {
        details.set_retry_info(Some(delay));
    }
    details
}

fn field_violations(violations: &[Violation]) -> Vec<FieldViolation> {
    let mut rendered = Vec::with_capacity(violations.len());
    for Violation { field, description } in violations {
        rendered.push(FieldViolation::new(field, description));
    }
    rendered
}

fn millis(delay: Duration) -> u64 {
    u64::try_from(delay.as_millis()).unwrap_or(u64::MAX)
}
