//! Output of the commands: lines on standard output, failures and exit codes.

use std::{
    fmt,
    io::{self, Write as _},
    process::{self, ExitCode},
};

use clap::ValueEnum;

use super::printable::printable;
use crate::{
    ec2::StartError,
    server::{ServeError, tls::TlsError},
};

/// Exit code of a command that could not do its work, usage errors included.
pub(super) const CANNOT_RUN: u8 = 2;
/// Exit code of a gateway that cut calls off when it stopped.
pub(super) const CALLS_CUT: u8 = 3;
/// Exit code after Ctrl-C: 128 plus the number of SIGINT, as in shells.
pub(super) const INTERRUPTED: u8 = 130;

/// Format of a client command's output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Output {
    /// Text for people
    Table,
    /// JSON for programs
    Json,
}

/// Reason for a command's failure, printed to the user unchanged.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("{0}")]
    Message(String),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Serve(#[from] ServeError),
    #[error(transparent)]
    Start(#[from] StartError),
    #[error("a second signal ended the shutdown; calls in progress were cut off")]
    SecondSignal,
    #[error(transparent)]
    Tls(#[from] TlsError),
}

impl Failure {
    /// The exit code of a command that fails so.
    pub(super) fn exit_code(&self) -> u8 {
        match self {
            Self::Serve(ServeError::Undrained { .. }) | Self::SecondSignal => CALLS_CUT,
            _ => CANNOT_RUN,
        }
    }

    /// A failure with this text.
    pub(super) fn message(text: impl fmt::Display) -> Self {
        Self::Message(text.to_string())
    }
}

/// Prints an error to standard error, and returns the exit code of a command that could not do its
/// work.
pub(super) fn fail(error: &dyn fmt::Display) -> ExitCode {
    print_error_line(format_args!("error: {error}"));
    ExitCode::from(CANNOT_RUN)
}

/// Prints a failure to standard error, and returns its exit code.
pub(super) fn fail_with(failure: &Failure) -> ExitCode {
    print_error_line(format_args!("error: {failure}"));
    ExitCode::from(failure.exit_code())
}

/// Prints a line to standard error. If it cannot be written, the exit code has to tell.
pub(super) fn print_error_line(line: impl fmt::Display) {
    let line = line.to_string();
    let _ = writeln!(io::stderr().lock(), "{}", printable(&line));
}

/// Prints a line to standard output. Exits the process if the line cannot be written: with success
/// if the reader has closed the pipe (`… | head`), else with a message and [`CANNOT_RUN`].
pub(super) fn print_line(line: impl fmt::Display) {
    let line = line.to_string();
    let mut out = io::stdout().lock();
    let written = writeln!(out, "{}", printable(&line)).and_then(|()| out.flush());
    if let Err(error) = written {
        process::exit(unwritten(&error).into());
    }
}

/// Prints clap's text: help and the version to standard output, a usage error to standard error.
pub(super) fn print_usage(text: &clap::Error) -> ExitCode {
    match text.print() {
        Err(error) if !text.use_stderr() => ExitCode::from(unwritten(&error)),
        Ok(()) | Err(_) => ExitCode::from(u8::try_from(text.exit_code()).unwrap_or(CANNOT_RUN)),
    }
}

/// The exit code after standard output could not be written. Says why, unless its reader has gone.
fn unwritten(error: &io::Error) -> u8 {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return 0;
    }
    print_error_line(format_args!("error: cannot write to standard output: {error}"));
    CANNOT_RUN
}
