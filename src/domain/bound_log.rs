//! The log lines of a bound: one when it begins to refuse, and one when that is over.

use std::{
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
    time::Duration,
};

use tokio::time::Instant;
use tracing::{info, warn};

/// Time without a refusal after which a bound counts as no longer reached. At a bound, each place
/// that is given back is taken at once: without this pause, that would be two lines per request.
const CALM: Duration = Duration::from_secs(10);

/// Value of [`BoundLog::last_refusal`] while the bound is not reached.
const NOT_REACHED: u64 = 0;

/// Logs that a bound is reached, and that it is no longer reached, however many requests it
/// refuses meanwhile. An admission costs one atomic load while the bound is not reached.
#[derive(Debug)]
pub struct BoundLog {
    name: &'static str,
    created: Instant,
    /// Milliseconds from `created` to the last refusal, plus 1.
    last_refusal: AtomicU64,
    /// The limit at the last refusal, for the line that says it is over.
    limit: AtomicUsize,
}

impl BoundLog {
    /// Creates the log of a bound that is not reached. `name` is what the bound counts, in the
    /// plural: "watches".
    #[must_use]
    pub fn new(name: &'static str) -> Self {
        Self {
            name,
            created: Instant::now(),
            last_refusal: AtomicU64::new(NOT_REACHED),
            limit: AtomicUsize::new(0),
        }
    }

    /// Records a refusal, and logs it at `warn` if it is the first one.
    pub fn refused(&self, limit: usize) {
        self.limit.store(limit, Ordering::Relaxed);
        let before = self.last_refusal.swap(self.now(), Ordering::Relaxed);
        if before == NOT_REACHED {
            warn!(limit, "too many {} are open", self.name);
        }
    }

    /// Records an admission, and logs it at `info` if it is the first one after refusals that
    /// ended at least 10 s ago.
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
            info!(limit = self.limit.load(Ordering::Relaxed), "{} are admitted again", self.name);
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
    use std::{
        io,
        sync::{Arc, Mutex},
    };

    use tokio::time::advance;

    use super::*;

    const BEGINS: &str = " WARN too many watches are open limit=3\n";
    const IS_OVER: &str = " INFO watches are admitted again limit=3\n";

    /// The log of this thread.
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl Log {
        fn capture() -> (Self, tracing::subscriber::DefaultGuard) {
            let log = Self::default();
            let writer = log.clone();
            let subscriber = tracing_subscriber::fmt()
                .without_time()
                .with_target(false)
                .with_ansi(false)
                .with_writer(move || writer.clone())
                .finish();
            (log, tracing::subscriber::set_default(subscriber))
        }

        fn text(&self) -> String {
            String::from_utf8(self.0.lock().expect("no panic").clone()).expect("UTF-8")
        }
    }

    impl io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("no panic").write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_bound_that_is_not_reached_logs_nothing() {
        let (log, _guard) = Log::capture();
        let bound = BoundLog::new("watches");
        for _ in 0..100 {
            bound.admitted();
            advance(Duration::from_secs(1)).await;
        }
        assert_eq!(log.text(), "");
    }

    #[tokio::test(start_paused = true)]
    async fn a_bound_logs_once_that_it_refuses_and_once_that_it_admits_again() {
        let (log, _guard) = Log::capture();
        let bound = BoundLog::new("watches");
        for _ in 0..100 {
            bound.refused(3);
        }
        assert_eq!(log.text(), BEGINS);
        advance(CALM).await;
        assert_eq!(log.text(), BEGINS, "the line waits for an admission");
        for _ in 0..100 {
            bound.admitted();
        }
        assert_eq!(log.text(), [BEGINS, IS_OVER].concat());
        bound.refused(3);
        assert_eq!(log.text(), [BEGINS, IS_OVER, BEGINS].concat());
    }

    #[tokio::test(start_paused = true)]
    async fn a_bound_that_refuses_and_admits_by_turns_logs_one_line() {
        let (log, _guard) = Log::capture();
        let bound = BoundLog::new("watches");
        for _ in 0..100 {
            bound.refused(3);
            advance(CALM * 9 / 10).await;
            bound.admitted();
        }
        assert_eq!(log.text(), BEGINS);
    }
}
