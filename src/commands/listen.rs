//! Listening sockets of the commands, and the addresses that they use by default.

use std::io;

use tokio::net::TcpListener;

use super::output::Failure;

/// Default address of a gateway, for the server and for its clients.
pub(super) const GATEWAY_ADDRESS: &str = "127.0.0.1:50051";
/// Default address of a simulator.
pub(super) const SIMULATOR_ADDRESS: &str = "127.0.0.1:50052";

/// Binds `address`, which the user sets by `flag`.
pub(super) async fn listen(address: &str, flag: &str) -> Result<TcpListener, Failure> {
    let error = match TcpListener::bind(address).await {
        Ok(listener) => return Ok(listener),
        Err(error) => error,
    };
    let remedy = if error.kind() == io::ErrorKind::AddrInUse {
        format!(
            "stop the process that listens there, perhaps another amistore-gateway, or choose \
             another port with {flag} HOST:PORT (port 0 takes a free port)"
        )
    } else {
        format!("choose another address with {flag} HOST:PORT")
    };
    Err(Failure::Message(format!("cannot listen on {address}: {error}; {remedy}")))
}
