//! Trouble by the clock: what fails, from when on, and for how long.

use std::{str::FromStr, time::Duration};

use clap::ValueEnum as _;

use super::fault::FaultKind;
use crate::domain::parse_duration;

/// A window of the simulator's time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// The time since the start at which the window begins.
    pub begin: Duration,
    /// The length of the window.
    pub length: Duration,
}

impl Window {
    /// Whether a time since the start is in the window.
    #[must_use]
    pub fn contains(&self, at: Duration) -> bool {
        at.checked_sub(self.begin).is_some_and(|since| since < self.length)
    }
}

/// Parses a window such as `60s+30s`.
impl FromStr for Window {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some((begin, length)) = text.split_once('+') else {
            return Err(format!("expected BEGIN+LENGTH, such as 60s+30s, found {text:?}"));
        };
        Ok(Self { begin: parse_duration(begin)?, length: parse_duration(length)? })
    }
}

/// All calls fail in a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// The kind of the failures.
    pub kind: FaultKind,
    /// The time of the trouble.
    pub window: Window,
}

/// Parses trouble such as `throttling@60s+30s`.
impl FromStr for Trouble {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some((kind, window)) = text.split_once('@') else {
            return Err(format!(
                "expected KIND@BEGIN+LENGTH, such as throttling@60s+30s, found {text:?}"
            ));
        };
        let Ok(kind) = FaultKind::from_str(kind, true) else {
            let kinds: Vec<_> = FaultKind::value_variants()
                .iter()
                .filter_map(FaultKind::to_possible_value)
                .collect();
            let names: Vec<_> = kinds.iter().map(clap::builder::PossibleValue::get_name).collect();
            return Err(format!("expected one of {}, found {kind:?}", names.join(", ")));
        };
        Ok(Self { kind, window: window.parse()? })
    }
}

/// Stores into a bucket fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FailingBucket {
    /// The time after its start at which each store fails.
    pub after: Duration,
    /// The time at which the stores start that fail. None is always.
    pub window: Option<Window>,
}

/// Parses a time and a window such as `5s` or `5s@0s+30s`.
impl FromStr for FailingBucket {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (after, window) = match text.split_once('@') {
            Some((after, window)) => (after, Some(window.parse()?)),
            None => (text, None),
        };
        Ok(Self { after: parse_duration(after)?, window })
    }
}

impl FailingBucket {
    /// Whether a store that starts at this time since the start fails.
    #[must_use]
    pub fn fails_at(&self, at: Duration) -> bool {
        self.window.is_none_or(|window| window.contains(at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn trouble_is_a_kind_a_beginning_and_a_length() {
        let trouble: Trouble = "throttling@60s+1m".parse().expect("valid");
        assert_eq!(trouble.kind, FaultKind::Throttling);
        for (seconds, is_in) in [(59, false), (60, true), (119, true), (120, false)] {
            assert_eq!(trouble.window.contains(seconds * SECOND), is_in, "{seconds}");
        }
        for kind in ["AuthFailure", "UnauthorizedOperation", "stall", "expired"] {
            format!("{kind}@0s+8s").parse::<Trouble>().expect(kind);
        }
        for bad in [
            "throttling",
            "throttling@60s",
            "thirst@1s+1s",
            "throttling@1s+soon",
            "throttling@5M+1s",
            "throttling@1s+18446744073709551615s",
            "",
        ] {
            assert!(bad.parse::<Trouble>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_bucket_fails_always_or_for_stores_that_start_in_a_window() {
        let always: FailingBucket = "5s".parse().expect("valid");
        assert!(always.fails_at(Duration::ZERO) && always.fails_at(9999 * SECOND));
        let first: FailingBucket = "5s@0s+30s".parse().expect("valid");
        assert_eq!((first.after, first.fails_at(29 * SECOND)), (5 * SECOND, true));
        assert!(!first.fails_at(30 * SECOND));
        for bad in ["", "soon", "5s@30s", "1M", "18446744073709551615s", "5s@0s+32d"] {
            assert!(bad.parse::<FailingBucket>().is_err(), "{bad}");
        }
    }
}
