//! The gateway's clock, which is tokio's: a test that pauses tokio's clock pauses the whole
//! gateway.

use std::time::SystemTime;

use tokio::time::Instant;

/// The time at which an EC2 call started, on the monotonic clock and on the wall clock.
///
/// Comparisons use the monotonic clock alone.
#[derive(Clone, Copy, Debug)]
pub struct CallTime {
    /// The time on the monotonic clock. It decides about freshness, since it never jumps.
    pub instant: Instant,
    /// The same moment on the wall clock. Answers carry this time.
    pub wall: SystemTime,
}

impl CallTime {
    /// The current time.
    #[must_use]
    pub fn now() -> Self {
        let instant = Instant::now();
        Self { instant, wall: wall_at(instant) }
    }
}

impl PartialEq for CallTime {
    fn eq(&self, other: &Self) -> bool {
        self.instant == other.instant
    }
}

impl Eq for CallTime {}

impl PartialOrd for CallTime {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for CallTime {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.instant.cmp(&other.instant)
    }
}

/// The current time of the wall clock.
#[must_use]
pub fn wall_clock() -> SystemTime {
    wall_at(Instant::now())
}

/// The wall clock's time at a moment of tokio's clock.
///
/// Tokio's clock is the system's monotonic clock plus the time by which a test has advanced it.
/// The wall clock moves by the same difference. In production the difference is zero and this is
/// `SystemTime::now()`, including NTP's steps.
#[expect(clippy::disallowed_methods, reason = "the one place that reads the system's clocks")]
fn wall_at(instant: Instant) -> SystemTime {
    let system = std::time::Instant::now();
    let instant = instant.into_std();
    let wall = SystemTime::now();
    #[cfg(test)]
    let wall = wall_offset::apply(wall);
    match instant.checked_duration_since(system) {
        Some(ahead) => wall + ahead,
        None => wall.checked_sub(system.duration_since(instant)).unwrap_or(SystemTime::UNIX_EPOCH),
    }
}

/// The offset by which a test moves the wall clock of its thread, as a step of NTP would.
#[cfg(test)]
pub(crate) mod wall_offset {
    use std::{
        cell::Cell,
        time::{Duration, SystemTime},
    };

    thread_local! {
        static MILLISECONDS: Cell<i64> = const { Cell::new(0) };
    }

    /// Moves the wall clock by this many milliseconds, counted from the system's clock.
    pub(crate) fn set(milliseconds: i64) {
        MILLISECONDS.set(milliseconds);
    }

    /// Moves the wall clock by this many milliseconds more.
    pub(crate) fn leap(milliseconds: i64) {
        MILLISECONDS.set(MILLISECONDS.get() + milliseconds);
    }

    pub(super) fn apply(wall: SystemTime) -> SystemTime {
        let offset = MILLISECONDS.get();
        let distance = Duration::from_millis(offset.unsigned_abs());
        if offset < 0 { wall - distance } else { wall + distance }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_wall_clock_moves_with_the_paused_clock() {
        let before = CallTime::now();
        tokio::time::advance(Duration::from_secs(3600)).await;
        let after = CallTime::now();
        assert!(after > before);
        let moved = after.wall.duration_since(before.wall).expect("forward");
        assert!(
            moved.abs_diff(Duration::from_secs(3600)) < Duration::from_millis(100),
            "{moved:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_step_of_the_wall_clock_leaves_the_monotonic_clock_alone() {
        let before = CallTime::now();
        wall_offset::set(-3_600_000);
        let after = CallTime::now();
        wall_offset::set(0);
        assert_eq!(after.instant, before.instant);
        let back = before.wall.duration_since(after.wall).expect("an hour back");
        assert!(back.abs_diff(Duration::from_secs(3600)) < Duration::from_millis(100), "{back:?}");
    }
}
