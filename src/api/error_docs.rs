//! Generates docs/errors.md from the error table.

use std::{fmt::Write as _, time::Duration};

use strum::VariantArray as _;

use super::{
    GatewayReason, StatusCode,
    error::{retry_delay, status_code},
};
use crate::domain::ErrorKind;

const INTRODUCTION: &str = "# Errors

Generated from the tables in `src/api/error.rs`, `src/api/reason.rs` and `src/ec2/codes.rs`. The test \
`errors::the_document_is_the_table` compares the two; \
`AMISTORE_BLESS=1 cargo test the_document_is_the_table` writes the document again.

Every status carries exactly one `google.rpc.ErrorInfo`. A status that can be retried also carries \
`google.rpc.RetryInfo` and the `grpc-retry-pushback-ms` trailer; the delay is EC2's own if EC2 named one.

## Errors that EC2 reports

`ErrorInfo.domain` is `ec2.amazonaws.com`, or `amistore` if EC2 gave no code; `reason` is the code, and `metadata` has `account`, `region` and, \
if EC2 answered, `request_id`.

| kind | codes | gRPC | retry after |
|---|---|---|---|
";

const GATEWAY_PART: &str = "
`DryRunOperation` is not an error: it is EC2's answer to a dry run that is permitted.

## Errors that the gateway reports

`ErrorInfo.domain` is `amistore`.

| reason | meaning | gRPC | retry after |
|---|---|---|---|
";

/// The text of docs/errors.md. `codes` returns EC2's codes of a kind.
#[must_use]
pub fn errors_markdown(codes: impl Fn(ErrorKind) -> Vec<&'static str>) -> String {
    let mut text = String::from(INTRODUCTION);
    for &kind in ErrorKind::ALL {
        let codes = codes_cell(kind, &codes(kind));
        push_row(&mut text, kind.as_str(), &codes, status_code(kind), retry_delay(kind));
    }
    text.push_str(GATEWAY_PART);
    for reason in GatewayReason::VARIANTS {
        let spec = reason.spec();
        let name = format!("`{}`", reason.name());
        push_row(&mut text, &name, spec.meaning, spec.code, spec.retry_after);
    }
    text
}

/// The codes in the row of a kind: EC2's own, then the failures for which EC2 gives no code.
fn codes_cell(kind: ErrorKind, codes: &[&str]) -> String {
    let mut cells: Vec<String> = Vec::new();
    for code in codes {
        cells.push(format!("`{code}`"));
    }
    let codes = cells.join(", ");
    match kind {
        ErrorKind::UnknownRefusal => {
            "any other code with a 4xx status; `RequestNotSent`".to_owned()
        }
        ErrorKind::Unavailable => format!(
            "{codes}; any other code with status 408 or 5xx, or none with 4xx or 5xx; `ConnectionFailure`, `CredentialsTimedOut`, `CredentialsFailure`"
        ),
        ErrorKind::Credentials => format!("{codes}, `NoCredentials`"),
        ErrorKind::MalformedAnswer => "`MalformedAnswer`".to_owned(),
        _ => codes,
    }
}

fn push_row(
    text: &mut String,
    first: &str,
    second: &str,
    code: StatusCode,
    delay: Option<Duration>,
) {
    let delay = match delay {
        Some(delay) => humantime::format_duration(delay).to_string(),
        None => "no".to_owned(),
    };
    // Writing to a String does not fail.
    let _ = writeln!(text, "| {first} | {second} | {} | {delay} |", code.name());
}
