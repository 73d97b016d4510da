//! The command line's commands, one file each, and the files that they share.

mod admin_address;
mod bars;
mod causes;
mod check;
mod cli;
mod client;
mod client_tls;
mod config;
mod connection_args;
mod demo;
mod gateway_args;
mod list;
mod listen;
mod output;
mod printable;
mod probe;
mod progress;
mod readyz;
mod serve;
mod server_address;
mod signals;
mod simulate;
mod task_format;
#[cfg(test)]
mod tests;
mod tls_args;
mod tls_remedy;
mod values;
mod watch;

use std::process::ExitCode;

use tokio::runtime;

use crate::{server::HandedOver, telemetry::logs};
use cli::Commands;
use config::{ConfigError, UnknownVariable};
use output::{Failure, fail, fail_with, print_usage};

/// Reads the command line, the environment and the configuration file, and runs one command.
#[must_use]
pub fn run() -> ExitCode {
    let handed_over = HandedOver::take();
    let (cli, unknown) = match cli::parse(std::env::args_os(), std::env::vars_os()) {
        Ok(parsed) => parsed,
        Err(ConfigError::Usage(text)) => return print_usage(&text),
        Err(error) => return fail(&error),
    };
    let flush_log = match logs::start(cli.log_format, &cli.log) {
        Ok(flush_log) => flush_log,
        Err(error) => return fail(&error),
    };
    for UnknownVariable { name, nearest } in &unknown {
        tracing::warn!(name, nearest, "an unknown environment variable has no effect");
    }
    let runtime = match runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error),
    };
    let result = runtime.block_on(run_command(cli.command, &unknown, handed_over));
    // A failure is the last line.
    drop(flush_log);
    match result {
        Ok(code) => code,
        Err(failure) => fail_with(&failure),
    }
}

async fn run_command(
    command: Commands,
    unknown: &[UnknownVariable],
    handed_over: HandedOver,
) -> Result<ExitCode, Failure> {
    match command {
        // Boxed, since the other commands need not reserve the memory of a gateway.
        Commands::Serve(command) => Box::pin(command.run(unknown, handed_over)).await,
        Commands::Demo(command) => command.run().await,
        Commands::Simulate(command) => command.run().await,
        Commands::List(command) => command.run().await,
        Commands::Watch(command) => command.run().await,
        Commands::Probe(command) => command.run().await,
    }
}
