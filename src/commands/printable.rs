//! Texts for a terminal: EC2's texts and those of other servers may hold control characters, which a
//! terminal would obey.

use std::{
    borrow::Cow,
    fmt::{self, Write as _},
};

/// The text with escapes such as `\u001b` for its control characters. Line ends and tabs stay.
pub(super) fn printable(text: &str) -> Cow<'_, str> {
    escape(text, |letter| !matches!(letter, '\n' | '\t'))
}

/// The text on one line, for a cell of a table or the line of a task.
pub(super) fn one_line(text: &str) -> Cow<'_, str> {
    escape(text, |_| true)
}

fn escape(text: &str, escaped: fn(char) -> bool) -> Cow<'_, str> {
    let is_escaped = |letter: char| changes_the_display(letter) && escaped(letter);
    if !text.chars().any(is_escaped) {
        return text.into();
    }
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        if is_escaped(letter) {
            // Writing to a String does not fail.
            let _ = write_escape(&mut safe, letter);
        } else {
            safe.push(letter);
        }
    }
    safe.into()
}

/// Returns whether a character is a control character, or turns or hides the text around it.
fn changes_the_display(letter: char) -> bool {
    let turns = matches!(letter, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    letter.is_control() || turns || matches!(letter, '\u{2028}' | '\u{2029}')
}

/// Writes the escape that JSON has for a character, so that JSON stays JSON.
fn write_escape(text: &mut String, letter: char) -> fmt::Result {
    match letter {
        '\n' => text.write_str("\\n"),
        '\r' => text.write_str("\\r"),
        '\t' => text.write_str("\\t"),
        _ => write!(text, "\\u{:04x}", u32::from(letter)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_control_character_reaches_the_terminal() {
        for (text, expected) in [
            ("plain é 漢", "plain é 漢"),
            ("a\x1b[2Jb", "a\\u001b[2Jb"),
            ("a\u{9b}31mb", "a\\u009b31mb"),
            ("bell\x07, back\x08, delete\x7f", "bell\\u0007, back\\u0008, delete\\u007f"),
            ("\u{202e}txt", "\\u202etxt"),
            ("a\rb", "a\\rb"),
            ("a\nb\tc", "a\nb\tc"),
        ] {
            assert_eq!(printable(text), expected);
        }
        assert_eq!(one_line("a\nb\tc\r\n\u{2028}"), "a\\nb\\tc\\r\\n\\u2028");
    }

    #[test]
    fn json_stays_json() {
        let value = serde_json::json!({ "reason": "a\u{9b}b\u{7f}\n\u{202e}\x1b" });
        let read: serde_json::Value =
            serde_json::from_str(&printable(&value.to_string())).expect("JSON");
        assert_eq!(read, value);
    }
}
