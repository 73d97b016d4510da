//! The table of `serve` flags in README.md equals clap's definition.

use std::{env, fs, path::Path};

use clap::{Arg, Command, CommandFactory as _};

use crate::commands::cli::Cli;

const BEGIN: &str = "<!-- serve-flags begin -->\n";
const END: &str = "<!-- serve-flags end -->";

fn expected_table() -> String {
    let mut command = Cli::command();
    // Hands the flags of all commands on to each command.
    command.build();
    let serve = command.find_subcommand("serve").expect("the command");
    let mut table = String::from(
        "| `serve` flag and key | variable | default | meaning |\n|---|---|---|---|\n",
    );
    for global in [false, true] {
        for arg in flags(serve) {
            if arg.is_global_set() == global {
                table.push_str(&row(arg));
            }
        }
    }
    table
}

/// The flags that are keys of the configuration file, too.
fn flags(command: &Command) -> impl Iterator<Item = &Arg> {
    command.get_arguments().filter(|arg| {
        arg.get_long().is_some_and(|flag| !matches!(flag, "config" | "help" | "version"))
    })
}

fn row(arg: &Arg) -> String {
    let flag = arg.get_long().expect("a flag");
    let section = if arg.is_global_set() { ", outside of sections" } else { "" };
    let variable = arg.get_env().expect("a variable").to_str().expect("UTF-8");
    let default = match arg.get_default_values() {
        [] => "unset".to_owned(),
        [default] => format!("`{}`", default.to_str().expect("UTF-8")),
        several => panic!("{flag} has several defaults: {several:?}"),
    };
    let meaning = arg.get_help().expect("a help text").to_string().replace('|', "\\|");
    format!("| `{flag}`{section} | `{variable}` | {default} | {meaning} |\n")
}

#[test]
fn readme_table_equals_the_flags() {
    let expected = expected_table();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = fs::read_to_string(&path).expect("README.md");
    let (before, rest) = readme.split_once(BEGIN).expect("the begin marker");
    let (table, after) = rest.split_once(END).expect("the end marker");
    if env::var_os("AMISTORE_BLESS").is_some() {
        let blessed = format!("{before}{BEGIN}{expected}{END}{after}");
        fs::write(&path, blessed).expect("written");
        return;
    }
    assert!(
        table == expected,
        "README.md's table of flags differs from clap's definition; \
         `AMISTORE_BLESS=1 cargo test readme_table` rewrites it"
    );
}
