//! Flags, environment, file and defaults together.

use std::{ffi::OsString, fs, process};

use crate::{
    commands::cli::{self, Cli, Commands},
    telemetry::logs::LogFormat,
};

fn parse_with(args: &[&str], environment: &[(&str, &str)]) -> Result<Cli, String> {
    let args = ["amistore-gateway"].iter().chain(args).map(OsString::from);
    let environment = environment.iter().map(|(key, value)| (key.into(), value.into()));
    cli::parse(args, environment).map_err(|error| error.to_string())
}

fn with_file(name: &str, text: &str, args: &[&str]) -> Result<Cli, String> {
    let path = std::env::temp_dir().join(format!("amistore-{}-{name}.toml", process::id()));
    fs::write(&path, text).expect("a temporary file");
    let path_text = path.to_str().expect("UTF-8");
    let result = parse_with(&[&["--config", path_text], args].concat(), &[]);
    fs::remove_file(&path).expect("removed");
    result
}

#[test]
fn flags_take_precedence_over_the_file() {
    let text = "log-format = \"json\"\n[serve]\nttl = \"7s\"\nlisten = \"127.0.0.1:1\"\nallowed_regions = [\"us-east-1\", \"eu-west-1\"]\n";
    let cli = with_file("behind", text, &["serve", "--listen", "127.0.0.1:2"]).expect("valid");
    assert!(matches!(cli.log_format, LogFormat::Json));
    let Commands::Serve(serve) = cli.command else { panic!("serve") };
    assert_eq!(serve.listen, "127.0.0.1:2");
    let settings = serve.gateway.settings().expect("valid");
    assert_eq!(settings.cache.ttl.as_secs(), 7);
    assert_eq!(settings.allowed_regions.len(), 2);
}

#[test]
fn unknown_keys_and_sections_are_all_named_with_the_known_ones() {
    let error =
        with_file("unknown", "[serve]\nttll = \"7s\"\n[sevre]\n", &["serve"]).expect_err("wrong");
    assert!(error.contains("serve.ttll: unknown key; expected one of"), "{error}");
    assert!(error.contains("sevre: unknown section; expected one of serve, demo"), "{error}");
}

#[test]
fn a_bad_value_in_the_file_is_named_with_the_expected_form() {
    let error = with_file("bad", "[serve]\nttl = \"soon\"\n", &["serve"]).expect_err("wrong");
    assert!(
        error.contains("serve.ttl: invalid value 'soon'") && error.contains("500ms"),
        "{error}"
    );
}

#[test]
fn an_unknown_variable_is_named_with_the_known_ones() {
    let error = parse_with(&["serve"], &[("AMISTORE_TTLL", "5s")]).expect_err("wrong");
    assert!(error.contains("AMISTORE_TTLL") && error.contains("AMISTORE_TTL,"), "{error}");
}

#[test]
fn a_bad_flag_is_named_with_the_expected_form() {
    let error = parse_with(&["serve", "--ttl", "soon"], &[]).expect_err("wrong");
    assert!(
        error.contains("--ttl") && error.contains("soon") && error.contains("500ms"),
        "{error}"
    );
}
