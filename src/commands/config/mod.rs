//! Configuration: flags take precedence over the environment, the environment over the file, and
//! the file over the defaults.
//!
//! clap's definition of the command line is the only schema. A value in the file becomes the
//! default of the flag of the same name, so it passes the same parser.

mod environment;
mod error;
mod file;

use std::{
    ffi::{OsStr, OsString},
    path::PathBuf,
};

use clap::{ArgMatches, Command};

use environment::Variable;
pub(super) use error::ConfigError;
use file::FileDefaults;

/// Reads the command line, the environment and the file that one of them names.
///
/// # Errors
/// Returns all unknown variables of the environment, or else all unknown keys of the file, or else
/// the first bad value of the flags, the environment and the file.
pub(super) fn read(
    command: Command,
    args: impl Iterator<Item = OsString>,
    environment: impl Iterator<Item = (OsString, OsString)>,
) -> Result<ArgMatches, ConfigError> {
    let args: Vec<OsString> = args.collect();
    let variables = environment::own_variables(environment);
    environment::check(&command, &variables)?;
    let Some(path) = file_path(&args, &variables) else {
        return Ok(command.try_get_matches_from(args)?);
    };
    let (defaults, command) = FileDefaults::read(path, command)?;
    match command.try_get_matches_from(args) {
        Ok(matches) => Ok(matches),
        Err(error) => Err(defaults.explain(error)),
    }
}

/// Path of the configuration file, which is needed before clap parses the command line.
fn file_path(args: &[OsString], variables: &[Variable]) -> Option<PathBuf> {
    if let Some(path) = file_flag(args) {
        return Some(path.into());
    }
    for (key, value) in variables {
        if key == "AMISTORE_CONFIG" && !value.is_empty() {
            return Some(value.into());
        }
    }
    None
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
        assert_eq!(file_path(&[], &[("AMISTORE_CONFIG".to_owned(), OsString::new())]), None);
    }
}
