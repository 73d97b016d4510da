//! Log lines on standard error: their filter and their format.

use std::{
    env,
    io::{self, IsTerminal as _},
};

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

use super::{
    log_writer::{FlushOnDrop, LogWriter},
    panics,
};

/// Format of the log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Plain text for people
    Text,
    /// One JSON object per line for programs
    Json,
}

/// Checks that a text is a log filter, and returns it unchanged.
///
/// # Errors
/// If the text is neither a level nor a list of directives. The error states the expected form.
pub fn parse_filter(text: &str) -> Result<String, String> {
    // An empty filter would silence the log. `off` says so.
    if text.trim().is_empty() {
        return Err(
            "expected a level (off, error, warn, info, debug, trace) or directives".to_owned()
        );
    }
    match text.parse::<EnvFilter>() {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(format!(
            "expected a level (error, warn, info, debug, trace) or directives such as \
             amistore_gateway=debug: {error}"
        )),
    }
}

/// The default filter: `info`, but only errors of aws-config. It warns at each call without
/// credentials, which is one `EC2 cannot be asked` of the gateway's own.
pub const DEFAULT_FILTER: &str = "info,aws_config=error";

/// Starts writing the log lines that pass the filter. The process calls this at most once, and keeps
/// the result until its end.
///
/// A line that cannot be written, or is not read in time, is lost. By default tracing-subscriber would
/// report that with `eprintln!`, which panics if standard error is gone.
///
/// # Errors
/// If the system gives no thread for the lines.
pub fn start(format: LogFormat, filter: &str) -> io::Result<FlushOnDrop> {
    let filter = EnvFilter::new(filter);
    let writer = LogWriter::start(io::stderr())?;
    let flush = FlushOnDrop(writer.clone());
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(move || writer.clone())
        .log_internal_errors(false);
    match format {
        LogFormat::Text => builder.with_ansi(has_colours()).init(),
        LogFormat::Json => builder.json().init(),
    }
    panics::log_panics();
    Ok(flush)
}

/// Returns whether standard error shows colours: a terminal that has them, unless the user declines
/// (<https://no-color.org>).
fn has_colours() -> bool {
    let declined = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let has_none = env::var_os("TERM").is_none_or(|value| value.is_empty() || value == "dumb");
    io::stderr().is_terminal() && !declined && !has_none
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_a_level_or_directives() {
        assert_eq!(parse_filter("debug").as_deref(), Ok("debug"));
        assert_eq!(
            parse_filter("warn,amistore_gateway=debug").as_deref(),
            Ok("warn,amistore_gateway=debug")
        );
        let error = parse_filter("amistore_gateway=loud").expect_err("no such level");
        assert!(error.contains("expected a level"), "{error}");
        assert!(parse_filter("").is_err() && parse_filter(" ").is_err());
        assert_eq!(parse_filter("off").as_deref(), Ok("off"));
    }
}
