//! The caller of a request, as far as fairness tells callers apart.

use std::net::IpAddr;

use super::peer_identity::PeerIdentity;

/// The caller of a request: who it has proved to be by its certificate, or else the address that it calls
/// from. Behind a proxy, many clients are one caller.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Caller(Key);

#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Key {
    #[default]
    Local,
    Address(IpAddr),
    Identity(PeerIdentity),
}

impl Caller {
    /// All processes that call over a Unix socket.
    #[must_use]
    pub fn local() -> Self {
        Self(Key::Local)
    }

    /// All clients at an address, whatever their ports.
    #[must_use]
    pub fn at(address: IpAddr) -> Self {
        // A listener for both versions of IP shows an IPv4 client as `::ffff:192.0.2.1`.
        Self(Key::Address(address.to_canonical()))
    }

    /// All clients whose certificates have this identity.
    #[must_use]
    pub fn identified(identity: PeerIdentity) -> Self {
        Self(Key::Identity(identity))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::NameField;

    fn at(address: &str) -> Caller {
        Caller::at(address.parse().expect("an address"))
    }

    fn identified(name: &str) -> Caller {
        Caller::identified(PeerIdentity::new(NameField::Uri, name).expect("a name"))
    }

    #[test]
    fn a_caller_is_its_identity_or_its_address() {
        assert_eq!(at("192.0.2.1"), at("::ffff:192.0.2.1"));
        assert_ne!(at("192.0.2.1"), at("192.0.2.2"));
        assert_ne!(at("::1"), at("127.0.0.1"));
        assert_ne!(at("192.0.2.1"), identified("192.0.2.1"));
        assert_eq!(identified("spiffe://a/b"), identified("spiffe://a/b"));
        assert_ne!(Caller::local(), at("127.0.0.1"));
    }
}
