//! Environment variables with the gateway's prefix: their values become defaults of the flags that
//! name them.

use std::ffi::{OsStr, OsString};

use clap::{Arg, Command, error::ContextKind};

use super::{
    error::ConfigError,
    values::{context, reason, refusal, texts_in},
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

/// Defaults that the environment has set.
pub(super) struct EnvironmentDefaults {
    values: Vec<EnvironmentValue>,
}

/// A value from the environment.
struct EnvironmentValue {
    variable: String,
    flag: String,
    text: String,
}

impl EnvironmentDefaults {
    /// Returns the values of the variables, and the command with these values as defaults.
    ///
    /// clap itself does not read the environment: it would take an empty variable for a value, and
    /// compose files set a variable to nothing if it is unset.
    ///
    /// # Errors
    /// All bad values, those of other commands included, as for the file.
    pub(super) fn set(
        variables: &[Variable],
        command: Command,
    ) -> Result<(Self, Command), ConfigError> {
        let mut problems = Vec::new();
        for variable in variables {
            problems.extend(problem_of(&command, variable));
        }
        if !problems.is_empty() {
            return Err(ConfigError::Invalid(problems));
        }
        let mut defaults = Self { values: Vec::new() };
        let mut command = defaults.set_flags(variables, command);
        let names: Vec<_> =
            command.get_subcommands().map(|sub| sub.get_name().to_owned()).collect();
        for name in names {
            command = command.mut_subcommand(name, |sub| defaults.set_flags(variables, sub));
        }
        Ok((defaults, command))
    }

    fn set_flags(&mut self, variables: &[Variable], command: Command) -> Command {
        command.mut_args(|arg| {
            let found = variables.iter().find(|(key, _)| arg.get_env() == Some(key.as_ref()));
            let arg = arg.env(None::<&'static str>);
            match found {
                Some((variable, value)) => self.set_flag(arg, variable, value),
                None => arg,
            }
        })
    }

    fn set_flag(&mut self, arg: Arg, variable: &str, value: &OsStr) -> Arg {
        let Some(texts) = texts_of(&arg, value) else { return arg };
        if texts.is_empty() {
            return arg;
        }
        for text in &texts {
            self.values.push(EnvironmentValue {
                variable: variable.to_owned(),
                flag: arg.get_long().unwrap_or_default().to_owned(),
                text: text.clone(),
            });
        }
        arg.required(false).default_values(texts)
    }

    /// Adds the variable to an error about a value from the environment. clap names only the flag.
    pub(super) fn explain(&self, error: clap::Error) -> ConfigError {
        for value in &self.values {
            if value.is_rejected_by(&error) {
                return ConfigError::Invalid(vec![format!(
                    "{}: {}",
                    value.variable,
                    reason(&error)
                )]);
            }
        }
        error.into()
    }
}

impl EnvironmentValue {
    fn is_rejected_by(&self, error: &clap::Error) -> bool {
        // clap gives the argument as in the usage: `--ttl <DURATION>`.
        let arg = context(error, ContextKind::InvalidArg);
        let flag = arg.split(' ').next().unwrap_or(arg);
        flag.strip_prefix("--") == Some(&self.flag)
            && context(error, ContextKind::InvalidValue) == self.text
    }
}

/// The problem of a variable whose value no flag takes. Several commands may have a flag of it, and some
/// may take less than others.
fn problem_of(command: &Command, (variable, value): &Variable) -> Option<String> {
    let of_commands = command.get_subcommands().flat_map(Command::get_arguments);
    let mut problem = None;
    for arg in command.get_arguments().chain(of_commands) {
        if arg.get_env() == Some(variable.as_ref()) {
            problem = Some(refusal_of(arg, value)?);
        }
    }
    Some(format!("{variable}: {}", problem?))
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

#[cfg(test)]
mod tests {
    use clap::value_parser;

    use super::*;

    fn listens(name: &'static str, least: i64) -> Command {
        let port = Arg::new("port").long("port").env("AMISTORE_PORT");
        Command::new(name).arg(port.value_parser(value_parser!(u16).range(least..)))
    }

    #[test]
    fn a_value_that_one_command_takes_is_an_error_only_of_another() {
        let command =
            Command::new("gateway").subcommands([listens("serve", 0), listens("probe", 1)]);
        let variables = [("AMISTORE_PORT".to_owned(), OsString::from("0"))];
        let set = EnvironmentDefaults::set(&variables, command.clone());
        let (defaults, with_defaults) = set.expect("serve takes it");
        assert!(with_defaults.clone().try_get_matches_from(["gateway", "serve"]).is_ok());
        let error = with_defaults.try_get_matches_from(["gateway", "probe"]).expect_err("0");
        let error = defaults.explain(error).to_string();
        assert!(error.starts_with("AMISTORE_PORT: invalid value '0'"), "{error}");
        let none = [("AMISTORE_PORT".to_owned(), OsString::from("many"))];
        assert!(EnvironmentDefaults::set(&none, command).is_err(), "no command takes it");
    }
}
