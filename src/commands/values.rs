//! Values of flags: parsers, and the texts of their defaults.

use std::time::Duration;

use bytesize::{ByteSize, GIB, KIB, MIB};

/// Parses a duration such as `5s`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(duration) => Ok(duration),
        Err(_) => Err("expected a duration such as 500ms, 5s, 2m or 1h".to_owned()),
    }
}

/// Parses a duration that is not zero.
pub(super) fn positive_duration(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("expected more than zero, such as 500ms".to_owned()),
        duration => Ok(duration),
    }
}

/// Text of a duration such as `2s500ms`, without spaces, so that a shell needs no quotes.
pub(super) fn duration_text(duration: Duration) -> String {
    humantime::format_duration(duration).to_string().replace(' ', "")
}

/// Parses a finite number above zero.
pub(super) fn positive_number(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() && number > 0.0 => Ok(number),
        _ => Err("expected a number above zero, such as 0.4".to_owned()),
    }
}

/// Parses a share from 0 to 1.
pub(super) fn share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if (0.0..=1.0).contains(&number) => Ok(number),
        _ => Err("expected a number from 0 to 1, such as 0.05".to_owned()),
    }
}

/// Parses a number of bytes, with or without a unit.
pub(super) fn byte_size(text: &str) -> Result<u64, String> {
    match text.parse::<ByteSize>() {
        // bytesize lowers larger numbers to the largest one.
        Ok(size) if size.as_u64() < u64::MAX => Ok(size.as_u64()),
        Ok(_) | Err(_) => {
            Err("expected a number of bytes, or one with a unit, such as 64MiB".to_owned())
        }
    }
}

/// Text of a number of bytes in the largest unit that divides it, for example `64MiB`. bytesize's
/// own text is rounded to one decimal.
pub(super) fn byte_size_text(bytes: u64) -> String {
    for (unit, name) in [(GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")] {
        if bytes >= unit && bytes.is_multiple_of(unit) {
            return format!("{}{name}", bytes / unit);
        }
    }
    bytes.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_printed_as_they_are_parsed() {
        for (millis, text) in [(0, "0s"), (500, "500ms"), (2500, "2s500ms"), (5_400_000, "1h30m")] {
            let value = Duration::from_millis(millis);
            assert_eq!(duration_text(value), text);
            assert_eq!(duration(text), Ok(value));
        }
        assert!(duration("soon").is_err() && duration("5").is_err() && duration("").is_err());
        assert!(positive_duration("0s").is_err());
    }

    #[test]
    fn byte_sizes_have_a_unit_or_none() {
        for (bytes, text) in
            [(0, "0"), (1000, "1000"), (1536, "1536"), (64 << 20, "64MiB"), (3 << 30, "3GiB")]
        {
            assert_eq!(byte_size_text(bytes), text);
            assert_eq!(byte_size(text), Ok(bytes));
        }
        assert_eq!(byte_size("67108864"), Ok(64 << 20));
        assert_eq!(byte_size("1.5KiB"), Ok(1536));
        for text in ["", "MiB", "-1", "64 apples"] {
            assert!(byte_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn numbers_have_bounds() {
        assert_eq!(positive_number("0.4"), Ok(0.4));
        for text in ["0", "-1", "inf", "NaN", "many"] {
            assert!(positive_number(text).is_err(), "{text}");
        }
        assert_eq!((share("0"), share("1")), (Ok(0.0), Ok(1.0)));
        for text in ["-0.1", "1.1", "NaN"] {
            assert!(share(text).is_err(), "{text}");
        }
    }
}
