//! Entry point of the binary: the library reads the command line and runs the command.

use std::process::ExitCode;

use tikv_jemallocator::Jemalloc;

/// Unlike glibc's allocator, it gives the memory of calls back to the system once they have ended.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> ExitCode {
    amistore_gateway::commands::run()
}
