//! Flags, environment, file and defaults together.

use std::{ffi::OsString, fs, process};

use crate::{
    commands::{
        cli::{self, Cli, Commands},
        serve::Serve,
    },
    server::ListenAddress,
    telemetry::logs::{self, LogFormat},
};

fn parse_with(args: &[&str], environment: &[(&str, &str)]) -> Result<Cli, String> {
    let args = ["amistore-gateway"].iter().chain(args).map(OsString::from);
    let environment = environment.iter().map(|(key, value)| (key.into(), value.into()));
    let parsed = cli::parse(args, environment).map_err(|error| error.to_string());
    parsed.map(|(cli, _)| cli)
}

fn serve_with(environment: &[(&str, &str)]) -> Result<Serve, String> {
    let cli = parse_with(&["serve"], environment)?;
    let Commands::Serve(serve) = cli.command else { panic!("serve") };
    Ok(serve)
}

fn tcp(address: &str) -> ListenAddress {
    ListenAddress::Tcp(address.to_owned())
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
    assert_eq!(serve.listen, [tcp("127.0.0.1:2")]);
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
fn a_bad_value_of_another_command_is_refused_beside_all_other_problems() {
    let text =
        "[serve]\nttl = \"soon\"\n[simulate]\nspeed = \"fast\"\n[demo]\nexit = \"perhaps\"\n";
    let error = with_file("others", text, &["serve"]).expect_err("wrong");
    for place in ["serve.ttl: ", "simulate.speed: ", "demo.exit: "] {
        assert!(error.contains(place), "{place}: {error}");
    }
    let good = "[simulate]\nspeed = 8\n[demo]\nexit = true\n[watch]\nimage = [\"ami-1\"]\n";
    assert!(with_file("good", good, &["serve"]).is_ok());
}

#[test]
fn the_images_of_a_watch_may_come_from_a_variable_or_the_file() {
    let text = "[watch]\nimage = \"ami-1,ami-2\"\n";
    for cli in [
        with_file("images", text, &["watch"]),
        parse_with(&["watch"], &[("AMISTORE_WATCH_IMAGE", "ami-1,ami-2")]),
    ] {
        let Commands::Watch(watch) = cli.expect("valid").command else { panic!("watch") };
        assert!(format!("{watch:?}").contains("image: [\"ami-1\", \"ami-2\"]"), "{watch:?}");
    }
}

#[test]
fn a_key_in_both_spellings_is_refused() {
    for text in [
        "[serve]\ncall-rate = 0.3\ncall_rate = 0.2\n",
        "log-format = \"json\"\nlog_format = \"text\"\n",
        "[serve]\nmax-answer_bytes = 1\nmax_answer-bytes = 2\n",
    ] {
        let error = with_file("twice", text, &["serve"]).expect_err("wrong");
        assert!(error.contains("expected each key once"), "{error}");
    }
}

#[test]
fn an_empty_variable_is_unset() {
    for value in ["", " ", "\n"] {
        let variables = [
            "AMISTORE_CONFIG",
            "AMISTORE_LOG",
            "AMISTORE_TTL",
            "AMISTORE_LISTEN",
            "AMISTORE_ALLOWED_REGIONS",
            "AMISTORE_DEFAULT_REGION",
            "AMISTORE_MAX_WATCHES",
        ];
        let environment: Vec<_> = variables.iter().map(|variable| (*variable, value)).collect();
        let serve = serve_with(&environment).expect("as if unset");
        assert_eq!(serve.listen, [tcp("127.0.0.1:50051")]);
        let defaults = format!("{:?}", serve_with(&[]).expect("valid").gateway);
        assert_eq!(format!("{:?}", serve.gateway), defaults);
        assert_eq!(parse_with(&["serve"], &environment).expect("valid").log, logs::DEFAULT_FILTER);
    }
}

#[test]
fn blanks_around_values_and_entries_are_trimmed() {
    let serve = serve_with(&[
        ("AMISTORE_LISTEN", " 127.0.0.1:1\n"),
        ("AMISTORE_TTL", "7s\n"),
        ("AMISTORE_DEFAULT_REGION", "us-east-1\n"),
        ("AMISTORE_ALLOWED_REGIONS", "us-east-1, eu-west-1 ,"),
    ]);
    let serve = serve.expect("valid");
    assert_eq!(serve.listen, [tcp("127.0.0.1:1")]);
    let settings = serve.gateway.settings().expect("valid");
    assert_eq!(settings.cache.ttl.as_secs(), 7);
    assert_eq!(settings.allowed_regions.len(), 2);
    let flags = ["serve", "--allowed-regions", "us-east-1, eu-west-1"];
    let Commands::Serve(serve) = parse_with(&flags, &[]).expect("valid").command else {
        panic!("serve")
    };
    assert_eq!(serve.gateway.settings().expect("valid").allowed_regions.len(), 2);
}

#[test]
fn switches_are_words_or_digits() {
    for (text, expected) in
        [("1", true), ("true", true), ("yes", true), ("0", false), ("false", false), ("no", false)]
    {
        let variable = [("AMISTORE_DEMO_EXIT", text)];
        let Commands::Demo(demo) = parse_with(&["demo"], &variable).expect(text).command else {
            panic!("demo")
        };
        assert_eq!(demo.exits(), expected, "{text}");
    }
    let error = parse_with(&["demo"], &[("AMISTORE_DEMO_EXIT", "maybe")]).expect_err("wrong");
    assert!(error.contains("AMISTORE_DEMO_EXIT: "), "{error}");
}

#[test]
fn a_bad_variable_is_named_with_the_expected_form() {
    for (variable, value, expected) in [
        ("AMISTORE_TTL", "soon", "500ms"),
        ("AMISTORE_ALLOWED_REGIONS", "us-east-1,mars", "us-east-1"),
        ("AMISTORE_MAX_WATCHES", "many", "invalid"),
        ("AMISTORE_LOG_FORMAT", "xml", "json"),
    ] {
        let error = serve_with(&[(variable, value)]).expect_err("wrong");
        let begins = format!("{variable}: invalid value");
        assert!(error.starts_with(&begins) && error.contains(expected), "{error}");
    }
}

#[test]
fn a_bad_variable_of_another_command_is_refused_beside_all_other_problems() {
    let variables = [
        ("AMISTORE_TTL", "soon"),
        ("AMISTORE_SIMULATE_SPEED", "fast"),
        ("AMISTORE_WATCH_WAIT", "5M"),
        ("AMISTORE_DEMO_EXIT", "perhaps"),
        ("AMISTORE_LOG_FORMAT", "xml"),
        ("AMISTORE_SERVER", "ftp://host"),
    ];
    for command in ["serve", "probe", "demo"] {
        let error = parse_with(&[command], &variables).expect_err("wrong");
        for (variable, value) in variables {
            assert!(error.contains(&format!("{variable}: invalid value '{value}'")), "{error}");
        }
    }
    let good = [
        ("AMISTORE_SIMULATE_SPEED", "8"),
        ("AMISTORE_WATCH_IMAGE", "ami-1, ami-2"),
        ("AMISTORE_DEMO_EXIT", "yes"),
    ];
    assert!(serve_with(&good).is_ok());
}

#[test]
fn flags_take_precedence_over_variables_and_variables_over_the_file() {
    let path = std::env::temp_dir().join(format!("amistore-{}-order.toml", process::id()));
    fs::write(&path, "[serve]\nttl = \"7s\"\nmax-watches = 7\n").expect("a temporary file");
    let config = path.to_str().expect("UTF-8");
    let variables =
        [("AMISTORE_CONFIG", config), ("AMISTORE_TTL", "8s"), ("AMISTORE_REFUSAL_TTL", "8s")];
    let cli = parse_with(&["serve", "--refusal-ttl", "9s"], &variables);
    fs::remove_file(&path).expect("removed");
    let Commands::Serve(serve) = cli.expect("valid").command else { panic!("serve") };
    let settings = serve.gateway.settings().expect("valid");
    assert_eq!(settings.watch.max_watches, 7);
    assert_eq!(settings.cache.ttl.as_secs(), 8);
    assert_eq!(settings.cache.refusal_ttl.as_secs(), 9);
}

#[test]
fn help_and_the_version_work_whatever_the_environment_says() {
    let variables = [("AMISTORE_STRAY", "1"), ("AMISTORE_TTL", "soon"), ("AMISTORE_CONFIG", "/no")];
    for (args, expected) in [
        (vec!["--help"], "Usage"),
        (vec!["--version"], env!("CARGO_PKG_VERSION")),
        (vec!["serve", "--help"], "--ttl"),
        (vec!["help", "serve"], "--ttl"),
        (vec!["serve", "--version"], env!("CARGO_PKG_VERSION")),
    ] {
        let text = parse_with(&args, &variables).expect_err("clap's text");
        assert!(text.contains(expected), "{args:?}: {text}");
    }
}

#[test]
fn an_unknown_variable_is_no_error() {
    let args = ["amistore-gateway", "serve"].map(OsString::from);
    let environment = [(OsString::from("AMISTORE_TTLL"), OsString::from("5s"))];
    let (_, unknown) = cli::parse(args.into_iter(), environment.into_iter()).expect("valid");
    assert_eq!(unknown.len(), 1);
    assert_eq!((&*unknown[0].name, &*unknown[0].nearest), ("AMISTORE_TTLL", "AMISTORE_TTL"));
}

#[test]
fn a_bad_flag_is_named_with_the_expected_form() {
    let error = parse_with(&["serve", "--ttl", "soon"], &[]).expect_err("wrong");
    assert!(
        error.contains("--ttl") && error.contains("soon") && error.contains("500ms"),
        "{error}"
    );
}

#[test]
fn a_gateway_listens_on_several_addresses() {
    let expected =
        [tcp("127.0.0.1:1"), tcp("[::]:2"), ListenAddress::Unix("/run/gateway.sock".into())];
    let text = "127.0.0.1:1, [::]:2,unix:/run/gateway.sock";
    let flags = ["serve", "--listen", "127.0.0.1:1", "--listen", "[::]:2, unix:/run/gateway.sock"];
    let file = "[serve]\nlisten = [\"127.0.0.1:1\", \"[::]:2\", \"unix:/run/gateway.sock\"]\n";
    for cli in [
        parse_with(&flags, &[]),
        parse_with(&["serve"], &[("AMISTORE_LISTEN", text)]),
        with_file("listen", file, &["serve"]),
    ] {
        let Commands::Serve(serve) = cli.expect("valid").command else { panic!("serve") };
        assert_eq!(serve.listen, expected);
    }
    for bad in ["50051", "unix:", "127.0.0.1:1,localhost", "http://localhost:1"] {
        let error = serve_with(&[("AMISTORE_LISTEN", bad)]).expect_err(bad);
        let begins = "AMISTORE_LISTEN: invalid value";
        assert!(error.starts_with(begins) && error.contains("unix:PATH"), "{error}");
    }
}
