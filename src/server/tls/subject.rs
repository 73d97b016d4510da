//! The subject of a certificate as text, in the form of RFC 4514, which nginx and Envoy show, too:
//! `CN=client,O=Example`.
//!
//! x509-parser's own text has no escapes: a common name of `a,O=b` would look like two attributes.

use std::fmt::Write as _;

use x509_parser::{
    asn1_rs::ToDer as _,
    x509::{AttributeTypeAndValue, X509Name},
};

/// Short names of attributes, by their object identifier (RFC 4514, section 3).
const SHORT_NAMES: [(&str, &str); 9] = [
    ("2.5.4.3", "CN"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("2.5.4.6", "C"),
    ("2.5.4.9", "STREET"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("0.9.2342.19200300.100.1.1", "UID"),
];

/// The text of a subject, its last part first. Two different subjects have two different texts.
pub(super) fn subject_text(subject: &X509Name<'_>) -> String {
    let mut parts = Vec::new();
    for part in subject.iter() {
        let attributes: Vec<_> = part.iter().map(attribute_text).collect();
        parts.push(attributes.join("+"));
    }
    parts.reverse();
    parts.join(",")
}

fn attribute_text(attribute: &AttributeTypeAndValue<'_>) -> String {
    let identifier = attribute.attr_type().to_id_string();
    let short = SHORT_NAMES.iter().find(|(of, _)| *of == identifier);
    match (short, attribute.as_str()) {
        (Some((_, name)), Ok(value)) => format!("{name}={}", escaped(value)),
        (Some((_, name)), Err(_)) => format!("{name}=#{}", hex(attribute)),
        (None, _) => format!("{identifier}=#{}", hex(attribute)),
    }
}

/// The value with a backslash before each character that has a meaning in a subject.
fn escaped(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    let last = value.chars().count().saturating_sub(1);
    for (index, letter) in value.chars().enumerate() {
        let is_special = matches!(letter, '"' | '+' | ',' | ';' | '<' | '>' | '\\' | '=');
        let is_at_an_end =
            index == 0 && matches!(letter, ' ' | '#') || index == last && letter == ' ';
        if is_special || is_at_an_end {
            text.push('\\');
        }
        text.push(letter);
    }
    text
}

/// The DER encoding of a value that is no text, or of an attribute without a short name.
fn hex(attribute: &AttributeTypeAndValue<'_>) -> String {
    // Fails for no value that was read.
    let encoding = attribute.attr_value().to_der_vec().unwrap_or_default();
    let mut text = String::with_capacity(2 * encoding.len());
    for byte in encoding {
        // Writing to a String does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}
