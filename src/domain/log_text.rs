//! Texts of peers in log lines: without control characters, and no longer than a line should be.

/// 256 characters: the longest text of a peer in a log line.
const MAX_CHARACTERS: usize = 256;

/// The text with escapes for its control characters. A text of more than 256 characters is cut, and
/// ends in `…`.
#[must_use]
pub fn log_text(text: &str) -> String {
    let mut safe = String::with_capacity(text.len().min(MAX_CHARACTERS));
    for (count, letter) in text.chars().enumerate() {
        if count == MAX_CHARACTERS {
            safe.push('…');
            break;
        }
        if is_shown(letter) {
            safe.push(letter);
        } else {
            safe.extend(letter.escape_default());
        }
    }
    safe
}

/// Returns whether a log can hold a character as it is: no control character, and none that turns the
/// text around it or ends a line.
fn is_shown(letter: char) -> bool {
    let turns = matches!(letter, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    !letter.is_control() && !turns && !matches!(letter, '\u{2028}' | '\u{2029}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_escaped_and_others_are_kept() {
        assert_eq!(log_text("CN=é 漢, O=\"a\""), "CN=é 漢, O=\"a\"");
        assert_eq!(log_text("a\n\x1b[2J\u{202e}\u{9b}"), "a\\n\\u{1b}[2J\\u{202e}\\u{9b}");
    }

    #[test]
    fn a_long_text_is_cut_after_256_characters() {
        assert_eq!(log_text(&"漢".repeat(256)), "漢".repeat(256));
        assert_eq!(log_text(&"漢".repeat(5_000)), "漢".repeat(256) + "…");
    }
}
