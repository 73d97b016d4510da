//! The configuration file: its values become defaults of the flags of the same name.

use std::{fs, path::PathBuf};

use clap::{
    Arg, ArgAction, Command,
    error::{ContextKind, ContextValue, ErrorKind},
};
use toml::{Table, Value};

use super::error::ConfigError;

/// Flags that are not keys of the file.
const NOT_KEYS: [&str; 3] = ["config", "help", "version"];

/// Defaults that a configuration file has set.
pub(super) struct FileDefaults {
    path: PathBuf,
    values: Vec<FileValue>,
    problems: Vec<String>,
}

/// A value from the file.
struct FileValue {
    /// The key with its section, such as `serve.ttl`.
    place: String,
    flag: String,
    text: String,
}

impl FileDefaults {
    /// Reads the file, and returns its values and the command with these values as defaults. Keys
    /// outside of a section are flags of all commands; the keys of a section are flags of one.
    pub(super) fn read(path: PathBuf, command: Command) -> Result<(Self, Command), ConfigError> {
        let table = read_table(&path)?;
        let mut defaults = Self { path, values: Vec::new(), problems: Vec::new() };
        let command = defaults.set_all(command, &table);
        if defaults.problems.is_empty() {
            Ok((defaults, command))
        } else {
            Err(ConfigError::Invalid(defaults.problems))
        }
    }

    fn set_all(&mut self, mut command: Command, table: &Table) -> Command {
        // The names are read before the loop, since clap moves a subcommand to the end when its
        // defaults are set.
        let sections: Vec<_> = command.get_subcommands().map(Command::get_name).collect();
        let sections = sections.join(", ");
        for (name, value) in table {
            command = match value {
                Value::Table(section) if command.find_subcommand(name).is_some() => {
                    self.set_section(command, name, section)
                }
                Value::Table(_) => {
                    self.report(name, &format!("unknown section; expected one of {sections}"));
                    command
                }
                value => self.set_flag(command, name, name, value),
            };
        }
        command
    }

    fn set_section(&mut self, command: Command, name: &str, section: &Table) -> Command {
        command.mut_subcommand(name, |mut subcommand| {
            for (key, value) in section {
                subcommand = self.set_flag(subcommand, &format!("{name}.{key}"), key, value);
            }
            subcommand
        })
    }

    fn set_flag(&mut self, command: Command, place: &str, key: &str, value: &Value) -> Command {
        let flag = key.replace('_', "-");
        let Some(arg) = find_flag(&command, &flag) else {
            let known = flag_names(&command).join(", ");
            self.report(place, &format!("unknown key; expected one of {known}"));
            return command;
        };
        let Some(texts) = texts_of(value, arg.get_action()) else {
            self.report(place, &format!("expected a text, a number, true or false, got {value}"));
            return command;
        };
        for text in &texts {
            self.values.push(FileValue {
                place: place.to_owned(),
                flag: flag.clone(),
                text: text.clone(),
            });
        }
        let id = arg.get_id().clone();
        command.mut_arg(id, |arg| arg.required(false).default_values(texts))
    }

    fn report(&mut self, place: &str, problem: &str) {
        self.problems.push(format!("{}, {place}: {problem}", self.path.display()));
    }

    /// Adds the file and the key to an error about a value from the file. clap names only the flag.
    pub(super) fn explain(&self, error: clap::Error) -> ConfigError {
        if matches!(error.kind(), ErrorKind::ValueValidation | ErrorKind::InvalidValue) {
            for value in &self.values {
                if value.is_rejected_by(&error) {
                    let place = format!("{}, {}", self.path.display(), value.place);
                    return ConfigError::Invalid(vec![format!("{place}: {}", reason(&error))]);
                }
            }
        }
        error.into()
    }
}

impl FileValue {
    fn is_rejected_by(&self, error: &clap::Error) -> bool {
        // clap gives the argument as in the usage: `--ttl <DURATION>`.
        let arg = context(error, ContextKind::InvalidArg);
        let flag = arg.split(' ').next().unwrap_or(arg);
        flag.strip_prefix("--") == Some(&self.flag)
            && context(error, ContextKind::InvalidValue) == self.text
    }
}

fn context(error: &clap::Error, kind: ContextKind) -> &str {
    match error.get(kind) {
        Some(ContextValue::String(text)) => text,
        _ => "",
    }
}

/// The text of an error without clap's prefix and its hint at `--help`.
fn reason(error: &clap::Error) -> String {
    let text = error.to_string();
    let text = text.trim_start_matches("error: ");
    let text = match text.split_once("\n\nFor more information") {
        Some((reason, _)) => reason,
        None => text,
    };
    text.trim_end().to_owned()
}

fn read_table(path: &PathBuf) -> Result<Table, ConfigError> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => return Err(ConfigError::Unreadable { path: path.clone(), error }),
    };
    match text.parse() {
        Ok(table) => Ok(table),
        Err(error) => Err(ConfigError::NotToml { path: path.clone(), error: Box::new(error) }),
    }
}

fn find_flag<'a>(command: &'a Command, flag: &str) -> Option<&'a Arg> {
    if NOT_KEYS.contains(&flag) {
        return None;
    }
    command.get_arguments().find(|arg| arg.get_long() == Some(flag))
}

fn flag_names(command: &Command) -> Vec<&str> {
    let mut names = Vec::new();
    for arg in command.get_arguments() {
        if let Some(flag) = arg.get_long()
            && !NOT_KEYS.contains(&flag)
        {
            names.push(flag);
        }
    }
    names
}

/// The texts that stand for a value on the command line. An array gives several texts if the flag
/// takes several values.
fn texts_of(value: &Value, action: &ArgAction) -> Option<Vec<String>> {
    match (value, action) {
        (Value::Array(values), ArgAction::Append) => values.iter().map(text_of).collect(),
        (value, _) => Some(vec![text_of(value)?]),
    }
}

fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Integer(number) => Some(number.to_string()),
        Value::Float(number) => Some(number.to_string()),
        Value::Boolean(truth) => Some(truth.to_string()),
        Value::Datetime(_) | Value::Array(_) | Value::Table(_) => None,
    }
}
