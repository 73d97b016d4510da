//! Environment variables with the gateway's prefix: their values become defaults of the flags that
//! name them.

use std::ffi::{OsStr, OsString};

use clap::{Arg, Command};

use super::{
    error::ConfigError,
    values::{refusal, texts_in},
};

/// Prefix of the gateway's variables.
const PREFIX: &str = "AMISTORE_";

/// Name and value of an environment variable.
pub(super) type Variable = (String, OsString);

/// Returns the variables with the gateway's prefix.
pub(super) fn own_variables(all: impl Iterator<Item = (OsString, OsString)>) -> Vec<Variable> {
    let mut own = Vec::new();
    for (key, value) in all {
        if let Ok(key) = key.into_string()
            && key.starts_with(PREFIX)
        {
            own.push((key, value));
        }
    }
    own
}

/// The command with the values of the variables as defaults.
///
/// clap itself does not read the environment: it would take an empty variable for a value, and compose
/// files set a variable to nothing if it is unset.
///
/// # Errors
/// All bad values, those of other commands included, as for the file.
pub(super) fn set_defaults(
    variables: &[Variable],
    command: Command,
) -> Result<Command, ConfigError> {
    let mut problems = Vec::new();
    for variable in variables {
        problems.extend(problem_of(&command, variable));
    }
    if !problems.is_empty() {
        return Err(ConfigError::Invalid(problems));
    }
    let command = set_flags(variables, command);
    Ok(command.mut_subcommands(|subcommand| set_flags(variables, subcommand)))
}

fn set_flags(variables: &[Variable], command: Command) -> Command {
    command.mut_args(|arg| {
        let found = variables.iter().find(|(key, _)| arg.get_env() == Some(key.as_ref()));
        let arg = arg.env(None::<&'static str>);
        match found.and_then(|(_, value)| texts_of(&arg, value)) {
            Some(texts) if !texts.is_empty() => arg.required(false).default_values(texts),
            Some(_) | None => arg,
        }
    })
}

/// The problem of a variable whose value a flag does not take.
fn problem_of(command: &Command, (variable, value): &Variable) -> Option<String> {
    let of_commands = command.get_subcommands().flat_map(Command::get_arguments);
    for arg in command.get_arguments().chain(of_commands) {
        if arg.get_env() == Some(variable.as_ref())
            && let Some(refusal) = refusal_of(arg, value)
        {
            return Some(format!("{variable}: {refusal}"));
        }
    }
    None
}

/// The reason for which a flag does not take a value. None if it takes it.
fn refusal_of(arg: &Arg, value: &OsStr) -> Option<String> {
    match texts_of(arg, value) {
        Some(texts) if texts.is_empty() => None,
        Some(texts) => refusal(arg, &texts),
        None => Some("expected UTF-8".to_owned()),
    }
}

/// The texts in a value. None if it is not UTF-8.
fn texts_of(arg: &Arg, value: &OsStr) -> Option<Vec<String>> {
    Some(texts_in(arg, value.to_str()?))
}
