//! The address of the admin listener, and its binding.

use std::{fmt, str::FromStr};

use super::{listen::listen_on_all, output::Failure};
use crate::server::{BindError, ListenAddress, Listeners};

/// Default address of the admin listener.
pub(super) const ADMIN_ADDRESS: &str = "127.0.0.1:9464";

/// The word for no admin listener.
const NONE: &str = "none";

/// The address of an admin listener, or none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum AdminAddress {
    /// There is no admin listener.
    None,
    At(ListenAddress),
}

/// A text that is no address of an admin listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected HOST:PORT, such as {ADMIN_ADDRESS} or [::]:9464, unix:PATH, or none")]
pub(super) struct NoAdminAddress;

impl FromStr for AdminAddress {
    type Err = NoAdminAddress;

    fn from_str(text: &str) -> Result<Self, NoAdminAddress> {
        if text.trim() == NONE {
            return Ok(Self::None);
        }
        text.parse().map(Self::At).map_err(|_| NoAdminAddress)
    }
}

impl fmt::Display for AdminAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str(NONE),
            Self::At(address) => address.fmt(f),
        }
    }
}

/// The address at which the admin listener is if no other one is asked for.
pub(super) fn default_address() -> ListenAddress {
    ListenAddress::Tcp(ADMIN_ADDRESS.to_owned())
}

/// Binds the address that the user asks for.
pub(super) async fn listen(
    address: &AdminAddress,
    flag: &str,
) -> Result<Option<Listeners>, Failure> {
    match address {
        AdminAddress::None => Ok(None),
        AdminAddress::At(address) => {
            Ok(Some(listen_on_all(std::slice::from_ref(address), flag).await?))
        }
    }
}

/// Binds the default address. A gateway can do without an admin listener that no one has asked for.
pub(super) async fn listen_by_default() -> Result<Listeners, BindError> {
    Listeners::bind(&[default_address()]).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_or_none() {
        assert_eq!("none".parse(), Ok(AdminAddress::None));
        assert_eq!(ADMIN_ADDRESS.parse(), Ok(AdminAddress::At(default_address())));
        let unix = ListenAddress::Unix("/run/admin.sock".into());
        assert_eq!("unix:/run/admin.sock".parse(), Ok(AdminAddress::At(unix)));
        for bad in ["", "None", "off", "9464", ":9464"] {
            assert_eq!(bad.parse::<AdminAddress>(), Err(NoAdminAddress), "{bad}");
        }
    }
}
