//! Bounds of the texts in EC2's answers, so that a page of 1,000 tasks fits gRPC's default limit of 4 MiB
//! whatever an endpoint answers, and the memory of a task is bounded.

/// 1,024 bytes: the longest key of an object (S3 user guide, "Creating object key names").
const MAX_KEY_BYTES: usize = 1 << 10;

/// 64 bytes: longer than each word that EC2 has for a state.
const MAX_STATE_BYTES: usize = 64;

/// 128 bytes: longer than each error code of EC2.
const MAX_CODE_BYTES: usize = 128;

/// EC2's word for a state. A longer text than any word of EC2 is cut.
pub(super) fn state(text: &str) -> String {
    cut(text, MAX_STATE_BYTES)
}

/// Returns whether a text can be the key of an object.
pub(super) fn is_object_key(text: &str) -> bool {
    (1..=MAX_KEY_BYTES).contains(&text.len())
}

/// Returns whether a text can be an error code of EC2. Anything else comes from something on the way.
pub(super) fn is_code(text: &str) -> bool {
    (1..=MAX_CODE_BYTES).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// The text in at most `max_bytes` bytes. A longer text is cut at a character, and ends in `…`.
pub(super) fn cut(text: &str, max_bytes: usize) -> String {
    const ELLIPSIS: &str = "…";
    if text.len() <= max_bytes {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(max_bytes.saturating_sub(ELLIPSIS.len()));
    format!("{}{ELLIPSIS}", &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_at_a_character_within_its_bound() {
        assert_eq!(cut(&"a".repeat(64), 64), "a".repeat(64));
        for letter in ["a", "é", "漢", "😀"] {
            let cut = state(&letter.repeat(5_000));
            assert!(cut.len() <= 64 && cut.len() > 58, "{}", cut.len());
            assert!(cut.ends_with('…') && cut.starts_with(letter), "{cut}");
        }
    }

    #[test]
    fn a_key_has_at_most_1024_bytes() {
        assert!(is_object_key("ami-1.bin") && is_object_key(&"k".repeat(1_024)));
        assert!(!is_object_key("") && !is_object_key(&"k".repeat(1_025)));
    }

    #[test]
    fn a_code_is_a_visible_word() {
        assert!(is_code("InvalidAMIID.NotFound"));
        for bad in ["", "two words", "line\nend", "\x1b[2J", &"x".repeat(200)] {
            assert!(!is_code(bad), "{bad:?}");
        }
    }
}
