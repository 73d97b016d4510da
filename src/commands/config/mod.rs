//! Configuration: flags take precedence over the environment, the environment over the file, and
//! the file over the defaults.
//!
//! clap's definition of the command line is the only schema. A value of the file or of the environment
//! becomes the default of the flag that it stands for, so it passes the same parser.

mod environment;
mod error;
mod file;
mod lists;
mod unknown;
mod values;

use std::{
    ffi::{OsStr, OsString},
    path::PathBuf,
};

use clap::{ArgAction, ArgMatches, Command, builder::BoolishValueParser, error::ErrorKind};

use environment::Variable;
pub(super) use error::ConfigError;
pub(super) use unknown::UnknownVariable;

/// Reads the command line, the environment and the file that one of them names. Returns also the
/// variables with the gateway's prefix that have no effect.
///
/// # Errors
/// Returns all unknown keys and bad values of the file, or else all bad values of the environment, or else
/// the first bad flag.
pub(super) fn read(
    command: Command,
    args: impl Iterator<Item = OsString>,
    environment: impl Iterator<Item = (OsString, OsString)>,
) -> Result<(ArgMatches, Vec<UnknownVariable>), ConfigError> {
    let command = with_switches(command);
    let args = lists::trim_lists(&command, args.collect());
    if let Some(help) = help_or_version(&command, &args) {
        return Err(help.into());
    }
    let variables = environment::own_variables(environment);
    let unknown = unknown::unknown_variables(&command, &variables);
    let command = match file_path(&args, &variables) {
        Some(path) => file::set_defaults(path, command)?,
        None => command,
    };
    let command = environment::set_defaults(&variables, command)?;
    Ok((command.try_get_matches_from(args)?, unknown))
}

/// The command, whose switches take 1, 0, yes and no beside true and false from the environment and the
/// file.
fn with_switches(command: Command) -> Command {
    command.mut_subcommands(|subcommand| {
        subcommand.mut_args(|arg| match arg.get_action() {
            ArgAction::SetTrue => arg.value_parser(BoolishValueParser::new()),
            _ => arg,
        })
    })
}

/// clap's text if the arguments ask for help or the version. That works whatever the environment and the
/// file say.
fn help_or_version(command: &Command, args: &[OsString]) -> Option<clap::Error> {
    let error = command.clone().try_get_matches_from(args).err()?;
    match error.kind() {
        ErrorKind::DisplayHelp
        | ErrorKind::DisplayVersion
        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => Some(error),
        _ => None,
    }
}

/// Path of the configuration file, which is needed before clap parses the command line.
fn file_path(args: &[OsString], variables: &[Variable]) -> Option<PathBuf> {
    if let Some(path) = file_flag(args) {
        return Some(path.into());
    }
    let (_, value) = variables.iter().find(|(key, _)| key == "AMISTORE_CONFIG")?;
    match value.to_str() {
        Some(path) if path.trim().is_empty() => None,
        Some(path) => Some(path.trim().into()),
        None => Some(value.into()),
    }
}

/// Value of the first `--config FILE` or `--config=FILE`.
fn file_flag(args: &[OsString]) -> Option<&OsStr> {
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        if arg == "--config" {
            return Some(args.next()?);
        }
        let Some(text) = arg.to_str() else { continue };
        if let Some(path) = text.strip_prefix("--config=") {
            return Some(path.as_ref());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flag_names_the_file_before_the_variable_does() {
        let variables = [("AMISTORE_CONFIG".to_owned(), OsString::from("variable.toml"))];
        let path = |args: &[&str]| {
            let args: Vec<_> = args.iter().map(OsString::from).collect();
            file_path(&args, &variables)
        };
        assert_eq!(path(&["gateway", "--config", "flag.toml", "serve"]), Some("flag.toml".into()));
        assert_eq!(path(&["gateway", "serve", "--config=flag.toml"]), Some("flag.toml".into()));
        assert_eq!(path(&["gateway", "serve"]), Some("variable.toml".into()));
        assert_eq!(file_path(&[], &[("AMISTORE_CONFIG".to_owned(), OsString::from(" "))]), None);
    }
}
