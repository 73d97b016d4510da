//! Writes panics as log lines.
//!
//! The standard library writes them to standard error itself. If that is a pipe that is full and not read,
//! the thread that panics would wait for the reader, and with it all that wait for the thread.

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    panic::{self, PanicHookInfo},
};

/// Logs each panic from now on. If the log is off, the standard library writes it.
pub(super) fn log_panics() {
    let standard = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        if tracing::enabled!(tracing::Level::ERROR) {
            log(panic);
        } else {
            standard(panic);
        }
    }));
}

fn log(panic: &PanicHookInfo<'_>) {
    let cause = panic.payload_as_str().unwrap_or("no text");
    let place = panic.location().map(ToString::to_string);
    let backtrace = Backtrace::capture();
    let is_captured = backtrace.status() == BacktraceStatus::Captured;
    let backtrace = is_captured.then(|| tracing::field::display(backtrace));
    tracing::error!(cause, place, backtrace, "a thread panicked");
}

#[cfg(test)]
mod tests {
    use std::{
        env,
        process::{self, Command, Stdio},
        thread,
        time::Duration,
    };

    use tokio::time::{sleep, timeout};

    use crate::telemetry::logs::{self, LogFormat};

    /// Set in the process that panics.
    const PANICS: &str = "PANICS_WITH_A_FULL_PIPE";

    const NAME: &str =
        "telemetry::panics::tests::a_panic_does_not_wait_for_the_reader_of_standard_error";

    /// The exit code of a process whose thread has panicked and ended.
    const ENDED: i32 = 7;

    #[tokio::test]
    async fn a_panic_does_not_wait_for_the_reader_of_standard_error() {
        if env::var_os(PANICS).is_some() {
            panic_with_a_full_pipe();
        }
        let mut child = Command::new(env::current_exe().expect("a path"))
            .args(["--exact", NAME, "--nocapture"])
            .env(PANICS, "1")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("started");
        let ended = timeout(Duration::from_secs(20), async {
            loop {
                if let Some(status) = child.try_wait().expect("a child") {
                    return status;
                }
                sleep(Duration::from_millis(10)).await;
            }
        });
        let ended = ended.await;
        if ended.is_err() {
            child.kill().expect("killed");
        }
        assert_eq!(ended.expect("the panic waits for the reader").code(), Some(ENDED));
    }

    fn panic_with_a_full_pipe() -> ! {
        let _flush = logs::start(LogFormat::Text, "debug").expect("a thread");
        // A pipe takes 64 KiB.
        for _ in 0..2_000 {
            tracing::debug!("{}", "x".repeat(100));
        }
        assert!(thread::spawn(|| panic!("on purpose")).join().is_err());
        process::exit(ENDED);
    }
}
