//! Maps EC2's error codes to kinds of failure.
//!
//! AWS's own lists of throttling and transient codes are imported. The table has the codes that
//! these lists lack. Sources: EC2 API reference, "Error codes for the Amazon EC2 API"; "Common
//! errors" of the AWS query APIs.

use aws_runtime::retries::classifiers::{THROTTLING_ERRORS, TRANSIENT_ERRORS};

use crate::domain::ErrorKind;

/// The codes of each kind that are on neither of AWS's two lists.
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
            // Clock skew. The SDK corrects its clock only between the attempts of one operation.
            // The gateway's operations have one attempt, so a retry would fail in the same way.
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

/// The kind of a known code. None for the hundreds of codes that belong to other resources.
#[must_use]
pub fn kind_of_code(code: &str) -> Option<ErrorKind> {
    for (kind, codes) in KNOWN_CODES {
        if codes.contains(&code) {
            return Some(*kind);
        }
    }
    if THROTTLING_ERRORS.contains(&code) {
        return Some(ErrorKind::Throttled);
    }
    if TRANSIENT_ERRORS.contains(&code) {
        return Some(ErrorKind::Unavailable);
    }
    None
}
