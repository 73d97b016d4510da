//! Logs when a bound begins to refuse requests, and when it no longer does.

use std::{
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
    time::Duration,
};

use tokio::time::Instant;
use tracing::{field::display, info, warn};

use super::name::Scope;

/// Time without a refusal after which a bound counts as no longer reached. At a full bound each
/// freed place is taken at once, so without this pause each request would log two lines.
const CALM: Duration = Duration::from_secs(10);

/// Value of [`BoundLog::last_refusal`] while the bound is not reached.
const NOT_REACHED: u64 = 0;

/// Logs once when a bound is reached and once when it is no longer reached, however many requests
/// it refuses in between. While the bound is not reached, an admission costs one atomic load.
#[derive(Debug)]
pub struct BoundLog {
    bound: &'static str,
    scope: Option<Scope>,
    created: Instant,
    /// Milliseconds from `created` to the last refusal, plus 1 to differ from [`NOT_REACHED`].
    last_refusal: AtomicU64,
    /// The limit at the last refusal, for the log line at the end of the refusals.
    limit: AtomicUsize,
}

impl BoundLog {
    /// Creates the log of a bound that is not reached. `bound` names the counted things in the
    /// plural, such as "watches". `scope` is None if the bound applies to the whole process.
    #[must_use]
    pub fn new(bound: &'static str, scope: Option<Scope>) -> Self {
        Self {
            bound,
            scope,
            created: Instant::now(),
            last_refusal: AtomicU64::new(NOT_REACHED),
            limit: AtomicUsize::new(0),
        }
    }

    /// Records a refusal. Logs it at `warn` if it is the first one, or the first one after 10 s
    /// without any: if nothing was admitted since, no line has said that the bound was left.
    pub fn refused(&self, limit: usize) {
        self.limit.store(limit, Ordering::Relaxed);
        let now = self.now();
        let before = self.last_refusal.swap(now, Ordering::Relaxed);
        if before == NOT_REACHED || now >= before + millis(CALM) {
            let scope = self.scope.as_ref().map(display);
            warn!(bound = self.bound, scope, limit, "a bound is reached; requests are refused");
        }
    }

    /// Records an admission. Logs it at `info` if it is the first one after refusals that ended at
    /// least 10 s ago.
    pub fn admitted(&self) {
        let last_refusal = self.last_refusal.load(Ordering::Relaxed);
        if last_refusal == NOT_REACHED || self.now() < last_refusal + millis(CALM) {
            return;
        }
        // Fails if another caller was refused, or has logged the line, since the load.
        let over = self.last_refusal.compare_exchange(
            last_refusal,
            NOT_REACHED,
            Ordering::Relaxed,
            Ordering::Relaxed,
        );
        if over.is_ok() {
            let scope = self.scope.as_ref().map(display);
            let limit = self.limit.load(Ordering::Relaxed);
            info!(bound = self.bound, scope, limit, "a bound is no longer reached");
        }
    }

    fn now(&self) -> u64 {
        millis(self.created.elapsed()) + 1
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX / 2)
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;
    use crate::domain::{AccountName, Region, log_capture::LogCapture};

    const REACHED: &str = "WARN a bound is reached; requests are refused bound=\"watches\" limit=3";
    const OVER: &str = "INFO a bound is no longer reached bound=\"watches\" limit=3";

    fn watches() -> BoundLog {
        BoundLog::new("watches", None)
    }

    #[tokio::test(start_paused = true)]
    async fn a_bound_that_is_not_reached_logs_nothing() {
        let log = LogCapture::start();
        let bound = watches();
        for _ in 0..100 {
            bound.admitted();
            advance(Duration::from_secs(1)).await;
        }
        assert!(log.lines().is_empty(), "{:?}", log.lines());
    }

    #[tokio::test(start_paused = true)]
    async fn a_bound_logs_once_that_it_refuses_and_once_that_it_admits_again() {
        let log = LogCapture::start();
        let bound = watches();
        for _ in 0..100 {
            bound.refused(3);
        }
        assert_eq!(log.lines(), [REACHED]);
        advance(CALM).await;
        assert_eq!(log.lines(), [REACHED], "the line waits for an admission");
        for _ in 0..100 {
            bound.admitted();
        }
        assert_eq!(log.lines(), [REACHED, OVER]);
        bound.refused(3);
        assert_eq!(log.lines(), [REACHED, OVER, REACHED]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_bound_that_refuses_and_admits_by_turns_logs_one_line() {
        let log = LogCapture::start();
        let bound = watches();
        for _ in 0..100 {
            bound.refused(3);
            advance(CALM * 9 / 10).await;
            bound.admitted();
        }
        assert_eq!(log.lines(), [REACHED]);
    }

    #[tokio::test(start_paused = true)]
    async fn refusals_after_a_pause_without_admissions_log_again() {
        let log = LogCapture::start();
        let bound = watches();
        bound.refused(3);
        advance(Duration::from_hours(1)).await;
        bound.refused(3);
        bound.refused(3);
        assert_eq!(log.lines(), [REACHED, REACHED]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_bound_of_a_scope_names_the_scope() {
        let log = LogCapture::start();
        let region = Region::parse("us-east-1").expect("valid");
        let scope = Scope { account: AccountName::default(), region };
        BoundLog::new("pending queries", Some(scope)).refused(7);
        let expected = "WARN a bound is reached; requests are refused \
            bound=\"pending queries\" scope=default/us-east-1 limit=7";
        assert_eq!(log.lines(), [expected]);
    }
}
