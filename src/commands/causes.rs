//! Texts of errors with their causes.

use std::error::Error;

/// Text of an error and its causes.
pub(super) fn causes(error: &dyn Error) -> String {
    match error.source() {
        Some(source) => joined(error.to_string(), source),
        None => error.to_string(),
    }
}

/// Adds an error and its causes to a text, unless it already has their words.
pub(super) fn joined(text: String, error: &dyn Error) -> String {
    let mut text = text;
    let mut next = Some(error);
    while let Some(error) = next {
        let words = error.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        next = error.source();
    }
    text
}
