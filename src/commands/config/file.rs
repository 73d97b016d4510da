//! The configuration file: its values become defaults of the flags of the same name.

use std::{collections::HashMap, fs, path::PathBuf};

use clap::{Arg, ArgAction, Command};
use toml::{Table, Value};

use super::{
    error::ConfigError,
    values::{refusal, texts_in},
};

/// Flags that are not keys of the file.
const NOT_KEYS: [&str; 3] = ["config", "help", "version"];

/// Reads the file, and returns the command with its values as defaults. Keys outside of a section are
/// flags of all commands; the keys of a section are flags of one.
///
/// # Errors
/// All unknown keys and bad values, those of other commands included: a file is written once for
/// several commands.
pub(super) fn set_defaults(path: PathBuf, command: Command) -> Result<Command, ConfigError> {
    let table = read_table(&path)?;
    let mut reader = Reader { path, problems: Vec::new() };
    let command = reader.set_all(command, &table);
    if reader.problems.is_empty() {
        Ok(command)
    } else {
        Err(ConfigError::Invalid(reader.problems))
    }
}

/// The reading of a file, with the problems that it has found.
struct Reader {
    path: PathBuf,
    problems: Vec<String>,
}

impl Reader {
    fn set_all(&mut self, mut command: Command, table: &Table) -> Command {
        // The names are read before the loop, since clap moves a subcommand to the end when its
        // defaults are set.
        let sections: Vec<_> = command.get_subcommands().map(Command::get_name).collect();
        let sections = sections.join(", ");
        self.report_duplicates("", table);
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
        self.report_duplicates(&format!("{name}."), section);
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
        let Some(texts) = texts_of(value, arg) else {
            self.report(place, &format!("expected a text, a number, true or false, got {value}"));
            return command;
        };
        if let Some(refusal) = refusal(arg, &texts) {
            self.report(place, &refusal);
            return command;
        }
        let id = arg.get_id().clone();
        command.mut_arg(id, |arg| arg.required(false).default_values(texts))
    }

    /// Reports keys that differ only in `_` and `-`.
    fn report_duplicates(&mut self, section: &str, table: &Table) {
        let mut seen = HashMap::new();
        for key in table.keys() {
            if let Some(other) = seen.insert(key.replace('_', "-"), key) {
                let place = format!("{section}{key}");
                self.report(&place, &format!("expected each key once, got also {other}"));
            }
        }
    }

    fn report(&mut self, place: &str, problem: &str) {
        self.problems.push(format!("{}, {place}: {problem}", self.path.display()));
    }
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
fn texts_of(value: &Value, arg: &Arg) -> Option<Vec<String>> {
    match (value, arg.get_action()) {
        (Value::Array(values), ArgAction::Append) => values.iter().map(text_of).collect(),
        (Value::String(list), ArgAction::Append) => Some(texts_in(arg, list)),
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
