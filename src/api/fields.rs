//! Parses fields of requests into types that hold only valid values. An invalid field is added to
//! the request's violations.

use std::{
    collections::BTreeSet,
    time::{Duration, SystemTime},
};

use super::{ApiError, violations::Violations};
use crate::{
    domain::{NameError, TASK_LISTED_FOR, TaskStateKind, wall_clock},
    proto::store_image_task::State,
};

/// Time by which `started_after` may lie in the gateway's future, for the sake of its clock.
const CLOCK_TOLERANCE: Duration = Duration::from_mins(15);

/// Nanoseconds in a second: `google.protobuf.Duration.nanos` must be less.
const NANOS_PER_SECOND: u32 = 1_000_000_000;

/// Parses one name.
pub(super) fn name<T>(
    violations: &mut Violations,
    field: &str,
    text: &str,
    parse: fn(&str) -> Result<T, NameError>,
) -> Option<T> {
    match parse(text) {
        Ok(name) => Some(name),
        Err(error) => {
            violations.add(field, error);
            None
        }
    }
}

/// Parses a list of at most `most` names, and keeps its order.
pub(super) fn names<T>(
    violations: &mut Violations,
    field: &str,
    texts: &[String],
    most: usize,
    parse: fn(&str) -> Result<T, NameError>,
) -> Vec<T> {
    let mut names = Vec::new();
    if texts.len() > most {
        let found = texts.len();
        violations.add(field, format_args!("must have at most {most} entries, got {found}"));
        return names;
    }
    for (index, text) in texts.iter().enumerate() {
        match parse(text) {
            Ok(name) => names.push(name),
            Err(error) => violations.add(format!("{field}[{index}]"), error),
        }
    }
    names
}

/// Parses a time.
pub(super) fn time(
    violations: &mut Violations,
    field: &str,
    given: prost_types::Timestamp,
) -> Option<SystemTime> {
    if let Ok(nanos) = u32::try_from(given.nanos)
        && nanos < NANOS_PER_SECOND
        && let Ok(time) = SystemTime::try_from(given)
    {
        return Some(time);
    }
    violations.add(
        field,
        format_args!(
            "must be a time with 0 to 999,999,999 ns, got {} s and {} ns",
            given.seconds, given.nanos
        ),
    );
    None
}

/// Refuses a `started_after` in the future. `newest` is the latest start time that EC2 has shown of the
/// scope: EC2's clock may be ahead of the gateway's.
pub(super) fn check_started_after(
    started_after: Option<SystemTime>,
    newest: Option<SystemTime>,
) -> Result<(), ApiError> {
    let Some(started_after) = started_after else { return Ok(()) };
    let ahead = started_after.duration_since(wall_clock()).unwrap_or_default();
    if ahead <= CLOCK_TOLERANCE || newest.is_some_and(|newest| started_after <= newest) {
        return Ok(());
    }
    let mut violations = Violations::default();
    let minutes = ahead.as_secs() / 60;
    violations.add(
        "started_after",
        format_args!(
            "must be the start time of a task, or at most 15 minutes in the future, got {minutes} minutes in the future"
        ),
    );
    Err(ApiError::invalid(violations))
}

/// Parses states from their enum numbers.
pub(super) fn states(violations: &mut Violations, numbers: &[i32]) -> BTreeSet<TaskStateKind> {
    let mut states = BTreeSet::new();
    for (index, number) in numbers.iter().enumerate() {
        let state = match State::try_from(*number) {
            Ok(State::InProgress) => TaskStateKind::InProgress,
            Ok(State::Completed) => TaskStateKind::Completed,
            Ok(State::Failed) => TaskStateKind::Failed,
            Ok(State::Unspecified | State::Other) | Err(_) => {
                violations.add(
                    format!("states[{index}]"),
                    format_args!(
                        "must be IN_PROGRESS (1), COMPLETED (2) or FAILED (3), got {number}"
                    ),
                );
                continue;
            }
        };
        states.insert(state);
    }
    states
}

/// Parses a duration from `least` to 31 days, the time for which EC2 lists a task.
pub(super) fn duration(
    violations: &mut Violations,
    field: &str,
    given: prost_types::Duration,
    least: Duration,
) -> Option<Duration> {
    let parsed = parse_duration(given);
    if let Some(duration) = parsed
        && (least..=TASK_LISTED_FOR).contains(&duration)
    {
        return parsed;
    }
    violations.add(
        field,
        format_args!(
            "must be between {} s and {} s (31 days) with 0 to 999,999,999 ns, got {} s and {} ns",
            least.as_secs(),
            TASK_LISTED_FOR.as_secs(),
            given.seconds,
            given.nanos,
        ),
    );
    None
}

fn parse_duration(given: prost_types::Duration) -> Option<Duration> {
    let seconds = u64::try_from(given.seconds).ok()?;
    let nanos = u32::try_from(given.nanos).ok()?;
    if nanos >= NANOS_PER_SECOND {
        return None;
    }
    Some(Duration::new(seconds, nanos))
}
