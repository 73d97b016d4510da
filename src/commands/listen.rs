//! Listening sockets of the commands, and the addresses that they use by default.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use tokio::net::TcpListener;

use super::output::Failure;
use crate::server::{BindError, ListenAddress, Listeners, bind_tcp};

/// Default address of a gateway, for the server and for its clients.
pub(super) const GATEWAY_ADDRESS: &str = "127.0.0.1:50051";
/// Default address of a simulator.
pub(super) const SIMULATOR_ADDRESS: &str = "127.0.0.1:50052";

/// The address at which a client on this host reaches a server that listens on `address`. A server on
/// all addresses, of IPv6 too, takes connections to the loopback of IPv4.
pub(super) fn reachable(address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        return SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), address.port());
    }
    address
}

/// Binds HOST:PORT, which the user sets by `flag`.
pub(super) async fn listen(address: &str, flag: &str) -> Result<TcpListener, Failure> {
    let address = address.to_owned();
    match bind_tcp(&address).await {
        Ok(listener) => Ok(listener),
        Err(error) => {
            let address = ListenAddress::Tcp(address);
            Err(failure(&BindError { address, error }, flag))
        }
    }
}

/// Binds all addresses, which the user sets by `flag`.
pub(super) async fn listen_on_all(
    addresses: &[ListenAddress],
    flag: &str,
) -> Result<Listeners, Failure> {
    if addresses.is_empty() {
        return Err(Failure::message(format_args!("{flag}: expected at least one address")));
    }
    Listeners::bind(addresses).await.map_err(|error| failure(&error, flag))
}

/// Says what cannot be bound, and what the user can do.
fn failure(error: &BindError, flag: &str) -> Failure {
    let form = match error.address {
        ListenAddress::Tcp(_) => "HOST:PORT",
        ListenAddress::Unix(_) => "unix:PATH",
    };
    let is_in_use = error.error.kind() == io::ErrorKind::AddrInUse;
    let remedy = match error.address {
        ListenAddress::Tcp(_) if is_in_use => format!(
            "stop the process that listens there, perhaps another amistore-gateway, or choose \
             another port with {flag} {form} (port 0 takes a free port)"
        ),
        ListenAddress::Unix(_) if is_in_use => format!(
            "stop the process that listens there, perhaps another amistore-gateway, or choose \
             another path with {flag} {form}"
        ),
        _ => format!("choose another address with {flag} {form}"),
    };
    Failure::message(format_args!("{error}; {remedy}"))
}

/// The addresses of listeners as one text.
pub(super) fn addresses_text(listeners: &Listeners) -> io::Result<String> {
    let addresses = listeners.local_addresses()?;
    let texts: Vec<_> = addresses.iter().map(ListenAddress::to_string).collect();
    Ok(texts.join(","))
}
