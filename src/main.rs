//! Entry point of the binary: the library reads the command line and runs the command.

use std::process::ExitCode;

/// Unlike glibc's allocator, it gives the memory of calls back to the system once they have ended.
#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    amistore_gateway::commands::run()
}
