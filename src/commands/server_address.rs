//! Address of a gateway that a client command calls.

use std::{fmt, path::PathBuf, str::FromStr, time::Duration};

use tonic::transport::{Channel, Endpoint, Error, Uri};

use super::{
    causes::causes,
    client_tls::ClientTlsArgs,
    listen::{GATEWAY_ADDRESS, reachable},
    output::Failure,
};
use crate::server::ListenAddress;

/// Time limit of a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Interval at which a connection with a call in progress is probed with an HTTP/2 PING.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
/// Time after which a connection without an answer to a PING is given up: its host may have died without
/// a word.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// Where a gateway is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ServerAddress {
    /// HOST:PORT, or a URL with http or https and without a path.
    Url(Uri),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

/// A text that is no address of a gateway.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected HOST:PORT, such as {GATEWAY_ADDRESS} or [::1]:50051, unix:PATH, or a URL with http or https and without a path"
)]
pub(super) struct NoServerAddress;

impl FromStr for ServerAddress {
    type Err = NoServerAddress;

    fn from_str(text: &str) -> Result<Self, NoServerAddress> {
        let text = text.trim();
        if let Ok(ListenAddress::Unix(path)) = text.parse() {
            return Ok(Self::Unix(path));
        }
        let is_url = text.contains("://");
        let url = if is_url { text.to_owned() } else { format!("http://{text}") };
        let uri: Uri = url.parse().map_err(|_| NoServerAddress)?;
        let port_is_good = match port_text(&uri) {
            Some(port) => port.parse::<u16>().is_ok_and(|port| port > 0),
            None => is_url,
        };
        if port_is_good && is_http(&uri) && has_only_a_host(&uri) {
            Ok(Self::Url(uri))
        } else {
            Err(NoServerAddress)
        }
    }
}

fn is_http(uri: &Uri) -> bool {
    matches!(uri.scheme_str(), Some("http" | "https"))
}

/// Returns whether the URL has a host, and no user, path or query: gRPC's paths are those of its
/// services.
fn has_only_a_host(uri: &Uri) -> bool {
    let has_user = uri.authority().is_some_and(|authority| authority.as_str().contains('@'));
    let has_host = uri.host().is_some_and(|host| !host.is_empty());
    has_host && !has_user && uri.path() == "/" && uri.query().is_none()
}

/// The text after the host, if there is a colon.
fn port_text(uri: &Uri) -> Option<&str> {
    let (_, port) = uri.authority()?.as_str().strip_prefix(uri.host()?)?.split_once(':')?;
    Some(port)
}

impl ServerAddress {
    /// The address at which a client on this host reaches a server that listens on `listen`.
    pub(super) fn of_listener(listen: &ListenAddress) -> Result<Self, NoServerAddress> {
        let address = match listen {
            ListenAddress::Unix(path) => return Ok(Self::Unix(path.clone())),
            ListenAddress::Tcp(address) => address,
        };
        match address.parse() {
            Ok(address) => reachable(address).to_string().parse(),
            Err(_) => address.parse(),
        }
    }

    /// A channel to the gateway, which connects at its first use.
    ///
    /// # Errors
    /// If the files of TLS cannot be used, or are given for plaintext.
    pub(super) fn channel(&self, tls: &ClientTlsArgs) -> Result<Channel, Failure> {
        let endpoint = self
            .endpoint()
            .map_err(|error| Failure::message(causes(&error)))?
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT);
        if self.is_tls() {
            let endpoint = endpoint.tls_config(tls.config()?);
            return Ok(endpoint.map_err(|error| Failure::message(causes(&error)))?.connect_lazy());
        }
        if let Some(flag) = tls.given() {
            return Err(Failure::message(format_args!(
                "{flag}: expected an address with https:// in --server, found plaintext ({self})"
            )));
        }
        Ok(endpoint.connect_lazy())
    }

    fn endpoint(&self) -> Result<Endpoint, Error> {
        match self {
            Self::Url(uri) => Ok(Endpoint::from(uri.clone())),
            Self::Unix(path) => Endpoint::from_shared(format!("unix:{}", path.display())),
        }
    }

    /// Returns whether connections to the address are TLS.
    pub(super) fn is_tls(&self) -> bool {
        matches!(self, Self::Url(uri) if uri.scheme_str() == Some("https"))
    }
}

/// HOST:PORT if the port is known, without the scheme.
impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Url(uri) => match uri.authority() {
                Some(authority) => f.write_str(authority.as_str()),
                None => fmt::Display::fmt(uri, f),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_host_and_a_port_or_a_url_without_a_path() {
        for (good, shown) in [
            ("127.0.0.1:50051", "127.0.0.1:50051"),
            ("[::1]:50051", "[::1]:50051"),
            ("localhost:1\n", "localhost:1"),
            ("http://gateway", "gateway"),
            ("http://gateway:80/", "gateway:80"),
            ("unix:/run/gateway.sock", "unix:/run/gateway.sock"),
            ("HTTPS://gateway.example:443", "gateway.example:443"),
        ] {
            let address: ServerAddress = good.parse().expect(good);
            assert_eq!(address.to_string(), shown);
        }
        for bad in [
            "",
            ":50051",
            "localhost",
            "::1:50051",
            "localhost:",
            "localhost:0",
            "localhost:99999",
            "http://localhost:99999",
            "localhost:50051/path",
            "http://host/path",
            "http://host?query",
            "http://user:secret@host:1",
            "ftp://host:1",
            "unix:",
            "https://",
            "two words:1",
        ] {
            assert_eq!(bad.parse::<ServerAddress>(), Err(NoServerAddress), "{bad}");
        }
    }

    #[test]
    fn a_listener_on_all_addresses_is_reached_by_the_loopback() {
        for (listen, address) in [
            ("0.0.0.0:8080", "127.0.0.1:8080"),
            ("[::]:8080", "127.0.0.1:8080"),
            ("[::1]:8080", "[::1]:8080"),
            ("gateway.example:8080", "gateway.example:8080"),
            ("unix:/run/gateway.sock", "unix:/run/gateway.sock"),
        ] {
            let listen = listen.parse().expect(listen);
            let found = ServerAddress::of_listener(&listen).expect(address);
            assert_eq!(found.to_string(), address);
        }
        let free = ListenAddress::Tcp("127.0.0.1:0".to_owned());
        assert!(ServerAddress::of_listener(&free).is_err(), "the port is not known");
    }
}
