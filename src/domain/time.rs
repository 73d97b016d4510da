//! The one clock: tokio's, so that a paused clock holds for everything that has a time.

use std::time::SystemTime;

use tokio::time::Instant;

/// When an EC2 call started: on the monotonic clock, which decides about freshness, and on the
/// wall clock, which is what callers are told.
#[derive(Clone, Copy, Debug)]
pub struct CallTime {
    /// Decides about freshness; never jumps.
    pub instant: Instant,
    /// The same moment as callers and EC2 write it.
    pub wall: SystemTime,
}

impl CallTime {
    /// This moment.
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

/// The wall clock at this moment.
#[must_use]
pub fn wall_clock() -> SystemTime {
    wall_at(Instant::now())
}

/// The wall clock at a moment of tokio's clock. Tokio's clock is the system's plus what a test
/// advanced it by, and that difference is what the wall clock is moved by too. It is zero in
/// production, where this is `SystemTime::now()`, steps of NTP included.
#[expect(clippy::disallowed_methods, reason = "the one place that may")]
fn wall_at(instant: Instant) -> SystemTime {
    let system = std::time::Instant::now();
    let instant = instant.into_std();
    let wall = SystemTime::now();
    match instant.checked_duration_since(system) {
        Some(ahead) => wall + ahead,
        None => wall.checked_sub(system.duration_since(instant)).unwrap_or(SystemTime::UNIX_EPOCH),
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
}
