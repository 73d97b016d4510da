//! Entry point of the binary: the library reads the command line and runs the command.

use std::process::ExitCode;

fn main() -> ExitCode {
    amistore_gateway::commands::run()
}
