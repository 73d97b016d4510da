//! Listening sockets of the commands, and the addresses that they use by default.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use tokio::net::TcpListener;

use super::output::Failure;

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

/// Binds `address`, which the user sets by `flag`.
pub(super) async fn listen(address: &str, flag: &str) -> Result<TcpListener, Failure> {
    let error = match bind(address).await {
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

/// Binds an address. All addresses of IPv6 include those of IPv4, so on a host without IPv6 these remain.
async fn bind(address: &str) -> io::Result<TcpListener> {
    let bound = TcpListener::bind(address).await;
    match (&bound, address.parse::<SocketAddr>()) {
        (Err(error), Ok(SocketAddr::V6(all)))
            if all.ip().is_unspecified() && error.kind() != io::ErrorKind::AddrInUse =>
        {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, all.port())).await
        }
        _ => bound,
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use tokio::net::TcpStream;

    use super::*;

    #[tokio::test]
    async fn a_listener_on_all_addresses_takes_connections_of_both_families() {
        let listener = listen("[::]:0", "--listen").await.expect("bound");
        let bound = listener.local_addr().expect("bound");
        let mut hosts = vec![IpAddr::V4(Ipv4Addr::LOCALHOST)];
        // A host without IPv6 listens on all addresses of IPv4.
        if bound.is_ipv6() {
            hosts.push(IpAddr::V6(Ipv6Addr::LOCALHOST));
        }
        for host in hosts {
            let connected = TcpStream::connect((host, bound.port())).await;
            assert!(connected.is_ok(), "{host}: {connected:?}");
        }
    }
}
