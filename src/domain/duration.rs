//! Durations as text, such as `5s` and `1h30m`.

use std::time::Duration;

use super::limits::TASK_LISTED_FOR;

/// 31 days: the longest duration, the time for which EC2 lists a task. No timer can overflow from it.
const MAX_DURATION: Duration = TASK_LISTED_FOR;

/// Said of a duration in months or years.
pub const CALENDAR_UNIT: &str = "expected a duration in ms, s, m, h or d, such as 5m: 5m is minutes, and \
                                 months and years are no unit here";

/// Parses a duration such as `5s`, of at most 31 days.
///
/// # Errors
/// If the text is none, or has months or years. The error states the expected form.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    if has_calendar_unit(text) {
        return Err(CALENDAR_UNIT.to_owned());
    }
    match humantime::parse_duration(text) {
        Ok(duration) if duration <= MAX_DURATION => Ok(duration),
        Ok(_) => Err("expected at most 31d".to_owned()),
        Err(_) => Err("expected a duration such as 500ms, 5s, 2m or 1h".to_owned()),
    }
}

/// Returns whether a unit is a month or a year. humantime's `M` is a month, and `5M` is meant as five
/// minutes.
#[must_use]
pub fn has_calendar_unit(text: &str) -> bool {
    text.split(|letter: char| !letter.is_ascii_alphabetic())
        .any(|unit| unit == "M" || unit.starts_with("month") || unit.starts_with('y'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_unit_and_a_bound() {
        assert_eq!(parse_duration("31d"), Ok(MAX_DURATION));
        for long in ["31d1ms", "18446744073709551615s", "100000000000000h", "53w"] {
            assert!(parse_duration(long).is_err(), "{long}");
        }
        for bad in ["soon", "5", "", "-5s"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn months_and_years_are_refused_with_a_hint_at_minutes() {
        for text in ["5M", "1h 5M", "1month", "2months", "1y", "1yr", "2years"] {
            let error = parse_duration(text).expect_err(text);
            assert!(error.contains("5m is minutes"), "{text}: {error}");
        }
        for (text, seconds) in [("5m", 300), ("5min", 300), ("2days", 172_800), ("1w", 604_800)] {
            assert_eq!(parse_duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
    }
}
