//! The addresses on which a server listens, as users write them.

use std::{fmt, net::SocketAddr, path::PathBuf, str::FromStr};

/// What an address of a Unix socket begins with.
const UNIX: &str = "unix:";

/// An address on which a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    /// HOST:PORT. Port 0 takes a free port.
    Tcp(String),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

/// A text that is no address to listen on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected HOST:PORT, such as 127.0.0.1:50051 or [::]:50051, or unix:PATH")]
pub struct NoListenAddress;

impl FromStr for ListenAddress {
    type Err = NoListenAddress;

    fn from_str(text: &str) -> Result<Self, NoListenAddress> {
        let text = text.trim();
        if let Some(path) = text.strip_prefix(UNIX) {
            return if path.is_empty() {
                Err(NoListenAddress)
            } else {
                Ok(Self::Unix(path.into()))
            };
        }
        if text.parse::<SocketAddr>().is_ok() || has_name_and_port(text) {
            return Ok(Self::Tcp(text.to_owned()));
        }
        Err(NoListenAddress)
    }
}

/// Returns whether the text is the name of a host with a port.
fn has_name_and_port(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let is_name = |letter: char| letter.is_ascii_alphanumeric() || "-._".contains(letter);
    let port_is_number = port.bytes().all(|digit| digit.is_ascii_digit());
    let port_fits = port_is_number && port.parse::<u16>().is_ok();
    port_fits && !host.is_empty() && host.chars().all(is_name)
}

/// The text from which the address can be parsed.
impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => f.write_str(address),
            Self::Unix(path) => write!(f, "{UNIX}{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_host_and_a_port_or_a_path() {
        for good in [
            "127.0.0.1:50051",
            "[::]:0",
            "[fe80::1%2]:65535",
            "localhost:1",
            "gateway-1.example_x:8080",
        ] {
            assert_eq!(good.parse(), Ok(ListenAddress::Tcp(good.to_owned())));
            assert_eq!(good.parse::<ListenAddress>().expect(good).to_string(), good);
        }
        for path in ["/run/gateway.sock", "gateway.sock", "///run/gateway.sock", "/with blank"] {
            let text = format!("unix:{path}");
            assert_eq!(text.parse(), Ok(ListenAddress::Unix(path.into())));
            assert_eq!(text.parse::<ListenAddress>().expect(path).to_string(), text);
        }
        assert_eq!(" localhost:1\n".parse(), Ok(ListenAddress::Tcp("localhost:1".to_owned())));
        for bad in [
            "",
            "unix:",
            "localhost",
            ":50051",
            "50051",
            "localhost:",
            "localhost:+1",
            "localhost:65536",
            "::1:50051",
            "[::1]",
            "[localhost]:1",
            "http://localhost:1",
            "localhost:1/path",
            "two words:1",
            "user@host:1",
            "none",
        ] {
            assert_eq!(bad.parse::<ListenAddress>(), Err(NoListenAddress), "{bad}");
        }
    }
}
