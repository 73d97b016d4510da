//! Generates docs/errors.md from the error table.

use std::{fmt::Write as _, time::Duration};

use strum::VariantArray as _;

use super::{
    GatewayReason, StatusCode,
    error::{status_code, table_delay},
    retry_delay,
};
use crate::domain::{ErrorKind, GatewayCode, code_blames_an_image, code_blames_the_token};

const INTRODUCTION: &str = "# Errors

Generated from the tables in `src/api/error.rs`, `src/api/reason.rs`, `src/api/status_code.rs`, \
`src/domain/error_code.rs` and `src/ec2/codes.rs`. The test `errors::the_document_is_the_table` compares them; \
`AMISTORE_BLESS=1 cargo test the_document_is_the_table` writes the document again. The test \
`statuses::every_status_of_the_gateway_is_as_documented` provokes each row.

Every status that the gateway sends carries exactly one `google.rpc.ErrorInfo`, and a bad argument also a \
`google.rpc.BadRequest`. `ErrorInfo.domain` is `ec2.amazonaws.com` if EC2 reported the error, else `amistore`. \
The trailers of a status have less than 3 KiB together: a long message ends in `…`, and of many bad fields the \
first are listed in full and the others counted (\"and 17 more\").

## Codes

Each code has one meaning for a retry. A status to retry on carries `google.rpc.RetryInfo` and the trailer \
`grpc-retry-pushback-ms` with the same delay; no other status does. The delay is drawn for each answer, between the \
bounds of the table below, or between the delay that EC2 asks for and twice that; it is at least 1 s and at most 60 s.

| gRPC | meaning | retry |
|---|---|---|
";

const EC2_PART: &str = "
## Errors that EC2 reports

`ErrorInfo.domain` is `ec2.amazonaws.com`, `reason` is EC2's code, and `metadata` has `account`, `region` and \
`requestId`.

| kind | codes | gRPC | retry after |
|---|---|---|---|
";

const GATEWAY_CODES_PART: &str = "
`DryRunOperation` is not an error: it is EC2's answer to a dry run that is permitted. HTTP status 501 with any code \
counts as unsupported.

## Calls to EC2 that fail without an error of EC2's

`ErrorInfo.domain` is `amistore`, and `metadata` has `account` and `region`.

| reason | meaning | gRPC | retry after |
|---|---|---|---|
";

const GATEWAY_PART: &str = "
## Errors that the gateway reports

`ErrorInfo.domain` is `amistore`.

| reason | meaning | gRPC | retry after |
|---|---|---|---|
";

const IMAGE_PART: &str = "
## Codes that refuse one image or one token

With these codes EC2 refuses a single image ID or its own pagination token, and says nothing about the rest of the \
request. They are therefore no rows of the table above. The code of an image shows in the field that the contract has \
for it: `ec2_code` of a missing image in a List, `waiting` in a Watch. If the contract has no such field for the \
response, the code reaches the caller as the status in the last column, with the domain `ec2.amazonaws.com`. The same \
holds for a token that EC2 refuses again and again.

| code | shows in | else gRPC |
|---|---|---|
";

/// The text of docs/errors.md. `codes` returns EC2's codes of a kind.
#[must_use]
pub fn errors_markdown(codes: impl Fn(ErrorKind) -> Vec<&'static str>) -> String {
    let mut text = String::from(INTRODUCTION);
    for code in StatusCode::VARIANTS {
        let retry = if code.is_retryable() { "yes" } else { "no" };
        push_row(&mut text, &[code.name(), code.meaning(), retry]);
    }
    text.push_str(EC2_PART);
    for &kind in ErrorKind::ALL {
        push_kind(&mut text, kind, &codes(kind));
    }
    text.push_str(GATEWAY_CODES_PART);
    for code in GatewayCode::VARIANTS {
        let (name, kind) = (quoted(code.as_str()), code.kind());
        let delay = delay_cell(table_delay(kind));
        push_row(&mut text, &[&name, code.meaning(), status_code(kind).name(), &delay]);
    }
    text.push_str(GATEWAY_PART);
    for reason in GatewayReason::VARIANTS {
        let (name, spec) = (quoted(reason.name()), reason.spec());
        let delay = delay_cell(spec.retry_delay);
        push_row(&mut text, &[&name, spec.meaning, spec.code.name(), &delay]);
    }
    text.push_str(IMAGE_PART);
    for &kind in ErrorKind::ALL {
        push_image_and_token_codes(&mut text, kind, &codes(kind));
    }
    text
}

/// The row of a kind. A kind without codes of EC2's has none.
fn push_kind(text: &mut String, kind: ErrorKind, codes: &[&str]) {
    let mut cells: Vec<String> = Vec::new();
    for code in codes {
        if !refuses_a_part(code) {
            cells.push(quoted(code));
        }
    }
    match kind {
        ErrorKind::UnknownRefusal => cells.push("any other code with a 4xx status".to_owned()),
        ErrorKind::Unavailable => {
            cells.push("any other code with status 408 or 5xx".to_owned());
        }
        _ => {}
    }
    if !cells.is_empty() {
        let (codes, delay) = (cells.join(", "), delay_cell(table_delay(kind)));
        push_row(text, &[kind.as_str(), &codes, status_code(kind).name(), &delay]);
    }
}

fn push_image_and_token_codes(text: &mut String, kind: ErrorKind, codes: &[&str]) {
    for code in codes {
        if refuses_a_part(code) {
            let place = if code_blames_an_image(code) {
                "`missing_images`, `waiting`"
            } else {
                "nowhere: the gateway begins the listing again"
            };
            push_row(text, &[&quoted(code), place, status_code(kind).name()]);
        }
    }
}

/// Whether a code refuses one image or one token, not the request.
fn refuses_a_part(code: &str) -> bool {
    code_blames_an_image(code) || code_blames_the_token(code)
}

fn quoted(code: &str) -> String {
    format!("`{code}`")
}

/// For example `2 to 4 s`.
fn delay_cell(delay: Option<Duration>) -> String {
    let Some(delay) = delay else { return "no".to_owned() };
    let (shortest, longest) = retry_delay::bounds(delay);
    format!("{} to {} s", shortest.as_secs(), longest.as_secs())
}

fn push_row(text: &mut String, cells: &[&str]) {
    // Writing to a String does not fail.
    let _ = writeln!(text, "| {} |", cells.join(" | "));
}
