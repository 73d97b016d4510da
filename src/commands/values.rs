//! Values of flags: parsers, and the texts of their defaults.

use std::{
    ops::RangeInclusive,
    time::{Duration, SystemTime},
};

use bytesize::{ByteSize, GIB, KIB, MIB};

pub(super) use crate::domain::parse_duration as duration;
use crate::domain::{CALENDAR_UNIT, has_calendar_unit, wall_clock};

/// 100 ms: the shortest interval of a watch. A shorter one keeps a processor busy for nothing, since
/// EC2 grants a call every two seconds.
const MIN_INTERVAL: Duration = Duration::from_millis(100);

/// Attempts or calls per second, in the long run. At the lowest rate a call waits for a quarter of an
/// hour.
const RATES: RangeInclusive<f64> = 0.001..=1_000.0;

/// Factors by which simulated tasks run faster. A task takes minutes at 1.
const SPEEDS: RangeInclusive<f64> = 0.001..=10_000.0;

/// Parses a time: one such as `2026-01-31T12:00:00Z`, or how long ago it was, such as `2h`.
pub(super) fn past_time(text: &str) -> Result<SystemTime, String> {
    if let Ok(time) = humantime::parse_rfc3339_weak(text) {
        return Ok(time);
    }
    if has_calendar_unit(text) {
        return Err(CALENDAR_UNIT.to_owned());
    }
    match humantime::parse_duration(text) {
        Ok(ago) => Ok(wall_clock().checked_sub(ago).unwrap_or(SystemTime::UNIX_EPOCH)),
        Err(_) => {
            Err("expected a time such as 2026-01-31T12:00:00Z, or how long ago it was, such as 2h"
                .to_owned())
        }
    }
}

/// Parses a duration that is not zero.
pub(super) fn positive_duration(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("expected more than zero, such as 500ms".to_owned()),
        duration => Ok(duration),
    }
}

/// A duration in protobuf's form. A duration that is too long for protobuf becomes the longest one.
pub(super) fn protobuf_duration(duration: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        // Never fails: the number is below a billion.
        nanos: i32::try_from(duration.subsec_nanos()).unwrap_or(0),
    }
}

/// Parses the interval of a watch, of at least [`MIN_INTERVAL`].
pub(super) fn interval(text: &str) -> Result<Duration, String> {
    let interval = duration(text)?;
    if interval < MIN_INTERVAL {
        return Err(format!("expected at least {}", duration_text(MIN_INTERVAL)));
    }
    Ok(interval)
}

/// Text of a duration such as `2s500ms`, without spaces, so that a shell needs no quotes.
pub(super) fn duration_text(duration: Duration) -> String {
    humantime::format_duration(duration).to_string().replace(' ', "")
}

/// Parses a number of calls per second.
pub(super) fn rate(text: &str) -> Result<f64, String> {
    number_in(&RATES, text)
}

/// Parses a factor by which simulated tasks run faster.
pub(super) fn speed(text: &str) -> Result<f64, String> {
    number_in(&SPEEDS, text)
}

fn number_in(bounds: &RangeInclusive<f64>, text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if bounds.contains(&number) => Ok(number),
        _ => Err(format!("expected a number from {} to {}", bounds.start(), bounds.end())),
    }
}

/// Parses a share from 0 to 1.
pub(super) fn share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if (0.0..=1.0).contains(&number) => Ok(number),
        _ => Err("expected a number from 0 to 1, such as 0.05".to_owned()),
    }
}

/// Parses a whole number of bytes, with or without a unit.
pub(super) fn byte_size(text: &str) -> Result<u64, String> {
    match parse_byte_size(text) {
        Some(bytes) => Ok(bytes),
        None => {
            Err("expected a whole number of bytes, or a number with a unit, such as 64MiB"
                .to_owned())
        }
    }
}

/// bytesize itself takes `.1B`, drops a part of a byte, and lowers a number that is too large.
fn parse_byte_size(text: &str) -> Option<u64> {
    let unit = text.trim_start_matches(|letter: char| letter.is_ascii_digit() || letter == '.');
    let number = text.strip_suffix(unit)?;
    let (whole, fraction) = match number.split_once('.') {
        Some(("", _) | (_, "")) => return None,
        Some(parts) => parts,
        None => (number, ""),
    };
    let factor: ByteSize = format!("1{unit}").parse().ok()?;
    let digits: u128 = format!("{whole}{fraction}").parse().ok()?;
    let scaled = digits.checked_mul(factor.as_u64().into())?;
    let scale = 10_u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    if scaled.is_multiple_of(scale) { u64::try_from(scaled / scale).ok() } else { None }
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
        assert!(positive_duration("0s").is_err());
    }

    #[test]
    fn a_past_time_is_a_time_or_how_long_ago_it_was() {
        let time = past_time("1970-01-01T00:01:40Z").expect("a time");
        assert_eq!(time, SystemTime::UNIX_EPOCH + Duration::from_secs(100));
        let ago = wall_clock().duration_since(past_time("2h").expect("ago")).expect("past");
        assert!(ago.abs_diff(Duration::from_hours(2)) < Duration::from_secs(60), "{ago:?}");
        assert!(past_time("yesterday").is_err() && past_time("").is_err());
        assert_eq!(past_time("5M"), Err(CALENDAR_UNIT.to_owned()));
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
        assert_eq!(byte_size("0.5 MB"), Ok(500_000));
        assert_eq!(byte_size("2.3MB"), Ok(2_300_000));
        for text in [
            "",
            "MiB",
            "-1",
            "+1",
            "64 apples",
            ".1B",
            ".5MiB",
            ".",
            "1.",
            "1.B",
            "1.5",
            "0.1B",
            "1.0001KiB",
            "1.2.3MB",
            "1e3",
            "0x10",
            "1_000",
            "18446744073709551616",
            "16EiB",
            "1e30MiB",
        ] {
            assert!(byte_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn intervals_have_a_least_length() {
        assert_eq!(interval("100ms"), Ok(MIN_INTERVAL));
        for short in ["0s", "1ns", "99ms"] {
            assert!(interval(short).is_err(), "{short}");
        }
    }

    #[test]
    fn numbers_have_bounds() {
        assert_eq!((rate("0.4"), rate("0.001"), rate("1000")), (Ok(0.4), Ok(0.001), Ok(1000.0)));
        for text in ["0", "-1", "1e-30", "1e300", "0.0009", "inf", "NaN", "many"] {
            let error = rate(text).expect_err(text);
            assert!(error.contains("from 0.001 to 1000"), "{error}");
            assert!(speed(text).is_err(), "{text}");
        }
        assert_eq!((speed("0.001"), speed("10000")), (Ok(0.001), Ok(10_000.0)));
        assert_eq!((share("0"), share("1")), (Ok(0.0), Ok(1.0)));
        for text in ["-0.1", "1.1", "NaN"] {
            assert!(share(text).is_err(), "{text}");
        }
    }
}
