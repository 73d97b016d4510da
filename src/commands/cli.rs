//! The command line: clap's definition of it, and its parsing.

use std::{ffi::OsString, path::PathBuf};

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use super::{
    config::{self, ConfigError, UnknownVariable},
    demo::Demo,
    list::List,
    probe::Probe,
    serve::Serve,
    simulate::Simulate,
    watch::Watch,
};
use crate::telemetry::logs::{self, LogFormat};

/// A gRPC gateway in front of EC2's store-image tasks: ten thousand watchers cost what one costs.
///
/// Each flag can also be set by an environment variable, which the help of each command names, and
/// by a key of a TOML file, in a section named after the command. Flags take precedence over the
/// environment, and the environment over the file.
///
/// Each command exits with 2 if its standard output cannot be written, and with 0 if the reader has
/// closed it, as head does.
#[derive(Debug, Parser)]
#[command(
    version,
    propagate_version = true,
    subcommand_required = true,
    arg_required_else_help = true
)]
pub(super) struct Cli {
    /// TOML file with settings: a section for each command, a key for each flag.
    #[arg(
        long,
        global = true,
        env = "AMISTORE_CONFIG",
        value_name = "FILE",
        help_heading = GLOBAL
    )]
    config: Option<PathBuf>,

    /// Format of the log lines on standard error.
    #[arg(
        long,
        global = true,
        env = "AMISTORE_LOG_FORMAT",
        value_name = "FORMAT",
        default_value_t = LogFormat::Text,
        value_enum,
        help_heading = GLOBAL
    )]
    pub(super) log_format: LogFormat,

    /// Filter of the log lines: a level (error, warn, info, debug, trace), or directives such as
    /// amistore_gateway=debug.
    #[arg(
        long,
        global = true,
        env = "AMISTORE_LOG",
        value_name = "FILTER",
        value_parser = logs::parse_filter,
        default_value = logs::DEFAULT_FILTER,
        help_heading = GLOBAL
    )]
    pub(super) log: String,

    #[command(subcommand)]
    pub(super) command: Commands,
}

/// Heading of the flags that all commands have. Without it, clap mixes them with the command's own.
const GLOBAL: &str = "Options of all commands";

#[derive(Debug, Subcommand)]
pub(super) enum Commands {
    Serve(Serve),
    Demo(Demo),
    Simulate(Simulate),
    List(List),
    Watch(Watch),
    Probe(Probe),
}

/// Parses the command line, with the environment and the configuration file behind it. Returns also the
/// variables with the gateway's prefix that have no effect.
///
/// # Errors
/// Returns the problems of the environment, of the file or of the command line.
pub(super) fn parse(
    args: impl Iterator<Item = OsString>,
    environment: impl Iterator<Item = (OsString, OsString)>,
) -> Result<(Cli, Vec<UnknownVariable>), ConfigError> {
    let (matches, unknown) = config::read(Cli::command(), args, environment)?;
    Ok((Cli::from_arg_matches(&matches)?, unknown))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn clap_finds_no_fault_in_the_definition() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_flag_has_a_variable_of_its_own() {
        let command = Cli::command();
        for sub in command.get_subcommands() {
            let mut seen = HashMap::new();
            for arg in sub.get_arguments().filter(|arg| {
                arg.get_long().is_some_and(|long| !matches!(long, "help" | "version"))
            }) {
                let variable = arg
                    .get_env()
                    .unwrap_or_else(|| panic!("{} {} has none", sub.get_name(), arg.get_id()));
                assert!(variable.to_str().expect("UTF-8").starts_with("AMISTORE_"));
                assert!(
                    seen.insert(variable.to_owned(), arg.get_id()).is_none(),
                    "{variable:?} twice"
                );
            }
        }
    }
}
