//! Lists on the command line: `--flag "a, b"` means what `--flag a,b` means.

use std::ffi::OsString;

use clap::{Arg, Command};

use super::values::texts_in;

/// The arguments without blanks around the entries of lists.
pub(super) fn trim_lists(command: &Command, args: Vec<OsString>) -> Vec<OsString> {
    let mut trimmed = Vec::with_capacity(args.len());
    let mut list = None;
    for arg in args {
        let Some(text) = arg.to_str() else {
            list = None;
            trimmed.push(arg);
            continue;
        };
        let (next_list, text) = match (list, text.strip_prefix("--")) {
            (Some(list), _) => (None, join(list, text)),
            (None, Some(flag)) => trim_flag(command, flag),
            (None, None) => (None, text.to_owned()),
        };
        list = next_list;
        trimmed.push(text.into());
    }
    trimmed
}

/// The text of a flag, and its definition if its list is the next argument.
fn trim_flag<'a>(command: &'a Command, flag: &str) -> (Option<&'a Arg>, String) {
    match flag.split_once('=') {
        None => (find_list(command, flag), format!("--{flag}")),
        Some((name, value)) => match find_list(command, name) {
            Some(list) => (None, format!("--{name}={}", join(list, value))),
            None => (None, format!("--{flag}")),
        },
    }
}

fn find_list<'a>(command: &'a Command, flag: &str) -> Option<&'a Arg> {
    let mut args = command.get_subcommands().flat_map(Command::get_arguments);
    args.find(|arg| arg.get_long() == Some(flag) && arg.get_value_delimiter().is_some())
}

fn join(list: &Arg, value: &str) -> String {
    let delimiter = list.get_value_delimiter().unwrap_or(',');
    texts_in(list, value).join(&delimiter.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_entries_of_lists_are_trimmed() {
        let regions = Arg::new("regions").long("regions").value_delimiter(',');
        let serve = Command::new("serve").args([regions, Arg::new("name").long("name")]);
        let command = Command::new("gateway").subcommand(serve);
        for (given, expected) in [
            (vec!["serve", "--regions", "a, b ,c"], vec!["serve", "--regions", "a,b,c"]),
            (vec!["--regions=a, b,", "--name=a, b"], vec!["--regions=a,b", "--name=a, b"]),
            (vec!["--name", " a, b", " c "], vec!["--name", " a, b", " c "]),
        ] {
            let args = given.into_iter().map(OsString::from).collect();
            assert_eq!(trim_lists(&command, args), expected);
        }
    }
}
