//! The configuration: flags, then the environment, then the file, then the defaults.
//!
//! clap's definition of the command line is the one schema. A file's values become the defaults of
//! the flags that they are named after, so that they pass the same parsers and the same errors.

use std::{ffi::OsString, fs, path::PathBuf, time::Duration};

use clap::{
    Arg, ArgAction, ArgMatches, Command,
    error::{ContextKind, ContextValue, ErrorKind},
};

/// What is wrong with the configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// clap says it, help and version included.
    #[error(transparent)]
    Usage(#[from] clap::Error),
    /// The file cannot be read.
    #[error("cannot read the configuration file {path}: {error}", path = path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// The file is not TOML.
    #[error("{path} is not TOML: {error}", path = path.display())]
    NotToml {
        /// The file.
        path: PathBuf,
        /// Why.
        error: Box<toml::de::Error>,
    },
    /// Keys or values that are not right, each with what is allowed.
    #[error("{}", .0.join("\n"))]
    Wrong(Vec<String>),
}

/// The prefix of our environment variables.
const PREFIX: &str = "AMISTORE_";
/// The flag of the file, which is not a key in it.
const CONFIG: &str = "config";

/// Reads the command line with the environment and the file behind it.
///
/// # Errors
/// With all that is wrong in the environment or the file, or the first thing that is wrong on the
/// command line.
pub fn read(
    command: Command,
    args: impl IntoIterator<Item = OsString>,
    environment: impl Iterator<Item = (OsString, OsString)>,
) -> Result<ArgMatches, ConfigError> {
    let args: Vec<OsString> = args.into_iter().collect();
    let environment: Vec<_> = environment
        .filter_map(|(key, value)| Some((key.into_string().ok()?, value)))
        .filter(|(key, _)| key.starts_with(PREFIX))
        .collect();
    check_environment(&command, &environment)?;
    let Some(path) = config_path(&args, &environment) else {
        return Ok(command.try_get_matches_from(args)?);
    };
    let text = fs::read_to_string(&path)
        .map_err(|error| ConfigError::Unreadable { path: path.clone(), error })?;
    let file: toml::Table = text
        .parse()
        .map_err(|error| ConfigError::NotToml { path: path.clone(), error: Box::new(error) })?;
    let mut behind = FileValues { path, used: Vec::new(), wrong: Vec::new() };
    let command = behind.put_behind(command, &file);
    if !behind.wrong.is_empty() {
        return Err(ConfigError::Wrong(behind.wrong));
    }
    command.try_get_matches_from(args).map_err(|error| behind.explain(error))
}

/// The file's path, needed before the command line is parsed for good.
fn config_path(args: &[OsString], environment: &[(String, OsString)]) -> Option<PathBuf> {
    let flag = args.iter().enumerate().find_map(|(index, arg)| {
        let arg = arg.to_str()?;
        match arg.strip_prefix("--config")? {
            "" => args.get(index + 1).cloned(),
            rest => rest.strip_prefix('=').map(OsString::from),
        }
    });
    let variable = || {
        let (_, value) = environment.iter().find(|(key, _)| key == "AMISTORE_CONFIG")?;
        Some(value.clone()).filter(|value| !value.is_empty())
    };
    flag.or_else(variable).map(PathBuf::from)
}

/// A variable with our prefix that nothing reads is a typing error.
fn check_environment(
    command: &Command,
    environment: &[(String, OsString)],
) -> Result<(), ConfigError> {
    let own = command.get_arguments();
    let known: Vec<String> = own
        .chain(command.get_subcommands().flat_map(Command::get_arguments))
        .filter_map(|arg| arg.get_env()?.to_str().map(str::to_owned))
        .collect();
    let unknown = environment
        .iter()
        .map(|(key, _)| key)
        .filter(|key| !known.contains(key) && !is_service_link(key));
    let wrong: Vec<_> = unknown
        .map(|key| {
            format!(
                "unknown environment variable {key}; known are {}",
                listed(known.iter().map(String::as_str))
            )
        })
        .collect();
    if wrong.is_empty() { Ok(()) } else { Err(ConfigError::Wrong(wrong)) }
}

/// Kubernetes tells each container of the services beside it: one that is called amistore-gateway
/// becomes `AMISTORE_GATEWAY_SERVICE_HOST`, `AMISTORE_GATEWAY_PORT_50051_TCP_ADDR` and the like
/// (Kubernetes documentation, "Service", "Environment variables").
fn is_service_link(key: &str) -> bool {
    ["_SERVICE_HOST", "_SERVICE_PORT", "_PORT"].iter().any(|end| key.ends_with(end))
        || ["_SERVICE_PORT_", "_TCP", "_UDP", "_SCTP"].iter().any(|part| key.contains(part))
}

/// The file's values on their way to become defaults.
struct FileValues {
    path: PathBuf,
    /// Section, flag, and value as a text.
    used: Vec<(String, String, String)>,
    wrong: Vec<String>,
}

impl FileValues {
    /// A key outside of any section belongs to all commands; a section is a command's.
    fn put_behind(&mut self, mut command: Command, file: &toml::Table) -> Command {
        let commands = listed(command.get_subcommands().map(Command::get_name));
        for (name, value) in file {
            let Some(table) = value.as_table() else {
                command = self.put_one(command, "", name, value);
                continue;
            };
            if command.find_subcommand(name).is_none() {
                self.complain(name, &format!("unknown section; known are {commands}"));
                continue;
            }
            command = command.mut_subcommand(name, |mut sub| {
                for (key, value) in table {
                    sub = self.put_one(sub, name, key, value);
                }
                sub
            });
        }
        command
    }

    fn put_one(
        &mut self,
        command: Command,
        section: &str,
        key: &str,
        value: &toml::Value,
    ) -> Command {
        let flag = key.replace('_', "-");
        let place = if section.is_empty() { key.to_owned() } else { format!("{section}.{key}") };
        let is_key = |arg: &&Arg| {
            arg.get_long().is_some_and(|long| !matches!(long, "help" | "version" | CONFIG))
        };
        let found =
            command.get_arguments().filter(is_key).find(|arg| arg.get_long() == Some(&flag));
        let Some(arg) = found.map(|arg| (arg.get_id().clone(), arg.get_action().clone())) else {
            let known = listed(command.get_arguments().filter(is_key).filter_map(Arg::get_long));
            self.complain(&place, &format!("unknown key; known are {known}"));
            return command;
        };
        let (id, action) = arg;
        let values = match value {
            toml::Value::Array(values) if matches!(action, ArgAction::Append) => {
                values.iter().map(text_of).collect::<Option<Vec<_>>>()
            }
            value => text_of(value).map(|text| vec![text]),
        };
        let Some(values) = values else {
            self.complain(&place, &format!("{value} is not a text, a number, true or false"));
            return command;
        };
        for value in &values {
            self.used.push((section.to_owned(), flag.clone(), value.clone()));
        }
        command.mut_arg(id, |arg| arg.required(false).default_values(values))
    }

    fn complain(&mut self, place: &str, what: &str) {
        self.wrong.push(format!("{}, {place}: {what}", self.path.display()));
    }

    /// clap names the flag; where the value came from the file, so does this.
    fn explain(&self, error: clap::Error) -> ConfigError {
        let context = |kind| match error.get(kind) {
            Some(ContextValue::String(text)) => text.as_str(),
            _ => "",
        };
        let (arg, value) = (context(ContextKind::InvalidArg), context(ContextKind::InvalidValue));
        let culprit = self.used.iter().find(|(_, flag, given)| {
            given == value && arg.split(' ').next() == Some(&format!("--{flag}"))
        });
        match culprit {
            Some((section, flag, _))
                if matches!(error.kind(), ErrorKind::ValueValidation | ErrorKind::InvalidValue) =>
            {
                let place =
                    if section.is_empty() { flag.clone() } else { format!("{section}.{flag}") };
                let said = error.to_string();
                let said = said.trim_start_matches("error: ").trim_end();
                let said = said.split("\n\nFor more information").next().unwrap_or(said);
                ConfigError::Wrong(vec![format!("{}, {place}: {said}", self.path.display())])
            }
            _ => error.into(),
        }
    }
}

fn text_of(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Float(number) => Some(number.to_string()),
        toml::Value::Boolean(truth) => Some(truth.to_string()),
        toml::Value::Datetime(_) | toml::Value::Array(_) | toml::Value::Table(_) => None,
    }
}

fn listed<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.collect::<Vec<_>>().join(", ")
}

/// A duration as people write it.
///
/// # Errors
/// When it is not one.
pub fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|_| "a duration is a number with a unit, such as 500ms, 5s, 2m or 1h".to_owned())
}

/// A duration that is not zero.
///
/// # Errors
/// When it is not one.
pub fn positive_duration(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("must be more than zero".to_owned()),
        duration => Ok(duration),
    }
}

/// A number above zero.
///
/// # Errors
/// When it is not one.
pub fn positive_number(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() && number > 0.0 => Ok(number),
        _ => Err("must be a number above zero, such as 0.4".to_owned()),
    }
}
