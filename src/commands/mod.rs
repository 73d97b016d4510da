//! The commands, one file each.

mod client;
mod config;
mod demo;
mod list;
mod probe;
mod progress;
mod serve;
mod simulate;
mod values;
mod watch;

use std::{
    ffi::OsString,
    fmt,
    io::{self, Write as _},
    process::ExitCode,
};

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand, ValueEnum};
use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
};

use crate::telemetry::logs::{self, LogFormat};
use config::ConfigError;

/// EC2's store-image tasks over gRPC: ten thousand watchers cost what one costs.
///
/// Each flag can also be given as an environment variable (AMISTORE_…, see the commands' help) and
/// as a key of a TOML file, in a section named after the command. Flags win over the environment,
/// and the environment over the file.
#[derive(Debug, Parser)]
#[command(
    version,
    propagate_version = true,
    subcommand_required = true,
    arg_required_else_help = true
)]
struct Cli {
    /// A TOML file with settings: a section for each command, a key for each flag.
    #[arg(long, global = true, env = "AMISTORE_CONFIG", value_name = "FILE")]
    config: Option<std::path::PathBuf>,

    /// How log lines look; they go to standard error.
    #[arg(
        long,
        global = true,
        env = "AMISTORE_LOG_FORMAT",
        value_name = "FORMAT",
        default_value = "text"
    )]
    log_format: LogFormat,

    /// What is logged: a level (error, warn, info, debug, trace) or tracing's filter directives.
    #[arg(long, global = true, env = "AMISTORE_LOG", value_name = "FILTER", value_parser = logs::parse_filter, default_value = "info")]
    log: String,

    #[command(subcommand)]
    command: Commands,
}

#[derive(Debug, Subcommand)]
enum Commands {
    Serve(serve::Serve),
    Demo(demo::Demo),
    Simulate(simulate::Simulate),
    List(list::List),
    Watch(watch::Watch),
    Probe(probe::Probe),
}

/// How a client command says what it has to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people.
    Table,
    /// For programs.
    Json,
}

/// Why a command failed: told to the user as it is.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Message(String),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Serve(#[from] crate::server::ServeError),
}

impl Failure {
    fn message(text: impl fmt::Display) -> Self {
        Self::Message(text.to_string())
    }
}

/// Reads the command line and runs one command.
#[must_use]
pub fn run() -> ExitCode {
    let cli = match parse(std::env::args_os(), std::env::vars_os()) {
        Ok(cli) => cli,
        Err(ConfigError::Usage(error)) => error.exit(),
        Err(error) => return fail(&error),
    };
    logs::start(cli.log_format, &cli.log);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error),
    };
    let ended = runtime.block_on(async {
        match cli.command {
            Commands::Serve(command) => command.run().await,
            Commands::Demo(command) => command.run().await,
            Commands::Simulate(command) => command.run().await,
            Commands::List(command) => command.run().await,
            Commands::Watch(command) => command.run().await,
            Commands::Probe(command) => command.run().await,
        }
    });
    ended.unwrap_or_else(|failure| fail(&failure))
}

fn parse(
    args: impl Iterator<Item = OsString>,
    environment: impl Iterator<Item = (OsString, OsString)>,
) -> Result<Cli, ConfigError> {
    let matches = config::read(Cli::command(), args, environment)?;
    Ok(Cli::from_arg_matches(&matches)?)
}

/// Usage and everything else that keeps a command from doing its work: exit code 2.
fn fail(error: &dyn fmt::Display) -> ExitCode {
    eprintln!("error: {error}");
    ExitCode::from(2)
}

/// A line on standard output. Where nobody reads on (`… | head`), there is nothing left to do.
fn print_line(line: impl fmt::Display) {
    if let Err(error) = writeln!(io::stdout().lock(), "{line}") {
        let code = if error.kind() == io::ErrorKind::BrokenPipe { 0 } else { 2 };
        std::process::exit(code);
    }
}

/// Listens, or says what to do where the port is taken.
async fn listen(address: &str, flag: &str) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).await.map_err(|error| {
        let hint = match error.kind() {
            io::ErrorKind::AddrInUse => format!(
                "another process has it, perhaps another amistore-gateway: stop that one, or choose another port with {flag} HOST:PORT (port 0 takes a free one)"
            ),
            _ => format!("choose another address with {flag} HOST:PORT"),
        };
        Failure::Message(format!("cannot listen on {address}: {error}; {hint}"))
    })
}

/// SIGTERM and Ctrl-C. Listened for from the beginning, so that none is missed once a command has
/// said that it is there.
struct ShutdownSignal {
    terminate: Signal,
    interrupt: Signal,
}

impl ShutdownSignal {
    fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn requested(mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_with(args: &[&str], environment: &[(&str, &str)]) -> Result<Cli, String> {
        let args = ["amistore-gateway"].iter().chain(args).map(OsString::from);
        let environment = environment.iter().map(|(key, value)| (key.into(), value.into()));
        parse(args, environment).map_err(|error| error.to_string())
    }

    fn file(name: &str, text: &str) -> std::path::PathBuf {
        let path =
            std::env::temp_dir().join(format!("amistore-{}-{name}.toml", std::process::id()));
        let mut file = std::fs::File::create(&path).expect("a temporary file");
        file.write_all(text.as_bytes()).expect("written");
        path
    }

    fn with_file(name: &str, text: &str, args: &[&str]) -> Result<Cli, String> {
        let path = file(name, text);
        let path_text = path.to_str().expect("UTF-8");
        let result = parse_with(&[&["--config", path_text], args].concat(), &[]);
        std::fs::remove_file(&path).expect("removed");
        result
    }

    #[test]
    fn clap_finds_no_fault_in_the_definition() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_flag_has_a_variable_of_its_own() {
        let command = Cli::command();
        for sub in command.get_subcommands() {
            let mut seen = std::collections::HashMap::new();
            for arg in sub.get_arguments().filter(|arg| {
                arg.get_long().is_some_and(|long| !matches!(long, "help" | "version"))
            }) {
                let variable = arg
                    .get_env()
                    .unwrap_or_else(|| panic!("{} {} has none", sub.get_name(), arg.get_id()));
                assert!(variable.to_str().expect("UTF-8").starts_with("AMISTORE_"));
                assert!(
                    seen.insert(variable.to_owned(), arg.get_id()).is_none(),
                    "{variable:?} twice"
                );
            }
        }
    }

    #[test]
    fn a_file_stands_behind_the_flags() {
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
    fn unknown_keys_and_sections_are_all_named_with_what_is_known() {
        let error = with_file("unknown", "[serve]\nttll = \"7s\"\n[sevre]\n", &["serve"])
            .expect_err("wrong");
        assert!(error.contains("serve.ttll: unknown key; expected one of"), "{error}");
        assert!(error.contains("sevre: unknown section; expected one of serve, demo"), "{error}");
    }

    #[test]
    fn a_bad_value_in_the_file_is_named_with_what_is_allowed() {
        let error = with_file("bad", "[serve]\nttl = \"soon\"\n", &["serve"]).expect_err("wrong");
        assert!(
            error.contains("serve.ttl: invalid value 'soon'") && error.contains("500ms"),
            "{error}"
        );
    }

    #[test]
    fn an_unknown_variable_is_named_with_what_is_known() {
        let error = parse_with(&["serve"], &[("AMISTORE_TTLL", "5s")]).expect_err("wrong");
        assert!(error.contains("AMISTORE_TTLL") && error.contains("AMISTORE_TTL,"), "{error}");
    }

    #[test]
    fn a_bad_flag_is_named_with_what_is_allowed() {
        let error = parse_with(&["serve", "--ttl", "soon"], &[]).expect_err("wrong");
        assert!(
            error.contains("--ttl") && error.contains("soon") && error.contains("500ms"),
            "{error}"
        );
    }

    #[test]
    fn what_does_not_go_together_is_reported_together() {
        let cli = parse_with(
            &[
                "serve",
                "--watch-min-interval",
                "1m",
                "--watch-max-interval",
                "1s",
                "--default-region",
                "us-east-1",
                "--allowed-regions",
                "eu-west-1",
            ],
            &[],
        )
        .expect("valid one by one");
        let Commands::Serve(serve) = cli.command else { panic!("serve") };
        let error = serve.gateway.settings().expect_err("wrong together");
        assert!(
            error.contains("--watch-min-interval") && error.contains("--default-region"),
            "{error}"
        );
    }
}
