//! Which kind of failure an EC2 error code is.
//!
//! AWS's own lists of throttling and transient codes are imported; what stands here is what they
//! lack. Sources: EC2 API reference, "Error codes for the Amazon EC2 API"; "Common errors" of the
//! AWS query APIs.

use aws_runtime::retries::classifiers::{THROTTLING_ERRORS, TRANSIENT_ERRORS};

use crate::domain::ErrorKind;

/// The codes that are classed here on purpose, beside AWS's own two lists.
pub const KNOWN_CODES: &[(ErrorKind, &[&str])] = &[
    (
        ErrorKind::InvalidRequest,
        &[
            "FilterLimitExceeded",
            "IdempotentParameterMismatch",
            "InvalidAMIID.Malformed",
            "InvalidCharacter",
            "InvalidFilter",
            "InvalidNextToken",
            "InvalidPaginationToken",
            "InvalidParameter",
            "InvalidParameterCombination",
            "InvalidParameterValue",
            "InvalidQueryParameter",
            "MalformedQueryString",
            "MissingParameter",
            "UnknownParameter",
            "ValidationError",
        ],
    ),
    (ErrorKind::NotFound, &["InvalidAMIID.NotFound", "InvalidBucketName", "NoSuchBucket"]),
    (ErrorKind::Denied, &["AccessDenied", "AccessDeniedException", "UnauthorizedOperation"]),
    (
        ErrorKind::Credentials,
        &[
            "AuthFailure",
            "ExpiredToken",
            "ExpiredTokenException",
            "IncompleteSignature",
            "InvalidAccessKeyId",
            "InvalidClientTokenId",
            "InvalidSecurity",
            "InvalidSignatureException",
            "MissingAuthenticationToken",
            "RequestExpired",
            // Clock skew: the SDK corrects its clock only between the attempts of one of its own
            // operations, and ours has one, so another attempt would fail alike.
            "RequestInTheFuture",
            "RequestTimeTooSkewed",
            "SignatureDoesNotMatch",
            "TokenRefreshRequired",
            "UnrecognizedClientException",
        ],
    ),
    (
        ErrorKind::AccountState,
        &[
            "Blocked",
            "IncorrectState",
            "InvalidAMIID.Unavailable",
            "OptInRequired",
            "PendingVerification",
        ],
    ),
    (ErrorKind::Throttled, &["RequestLimitExceeded"]),
    (
        ErrorKind::Unsupported,
        &[
            "InvalidAction",
            "MissingAction",
            "Unsupported",
            "UnsupportedOperation",
            "UnsupportedProtocol",
        ],
    ),
    (
        ErrorKind::Unavailable,
        &["InternalError", "InternalFailure", "ServiceUnavailable", "Unavailable"],
    ),
];

/// The kind of a code that is known; None for the hundreds that belong to other resources.
#[must_use]
pub fn kind_of_code(code: &str) -> Option<ErrorKind> {
    let here = KNOWN_CODES.iter().find(|(_, codes)| codes.contains(&code)).map(|(kind, _)| *kind);
    here.or_else(|| THROTTLING_ERRORS.contains(&code).then_some(ErrorKind::Throttled))
        .or_else(|| TRANSIENT_ERRORS.contains(&code).then_some(ErrorKind::Unavailable))
}
