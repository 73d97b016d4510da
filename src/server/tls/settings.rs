//! The settings of TLS: which files, and what is asked of clients.

use std::{path::PathBuf, time::Duration};

/// The settings of a server that speaks TLS.
#[derive(Clone, Debug)]
pub struct Settings {
    /// File of the server's certificate and of the intermediate certificates behind it, in PEM.
    pub certificate: PathBuf,
    /// File of the certificate's private key, in PEM.
    pub key: PathBuf,
    /// How clients prove who they are; None if they need not.
    pub clients: Option<ClientCertificates>,
    /// Interval at which the files are read again.
    pub reload_interval: Duration,
}

impl Settings {
    /// 30 s. An hour or more passes between a new certificate and the end of the old one, and a CA that
    /// was taken away should not be trusted much longer.
    pub const DEFAULT_RELOAD_INTERVAL: Duration = Duration::from_secs(30);
}

/// The certificates that clients present.
#[derive(Clone, Debug)]
pub struct ClientCertificates {
    /// File of the CA certificates that sign those of clients, in PEM.
    pub ca: PathBuf,
    /// Whether a client may do without one.
    pub auth: ClientAuth,
}

/// Whether a client may do without a certificate. One that it presents is always checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::Display)]
#[strum(serialize_all = "lowercase")]
pub enum ClientAuth {
    /// A client without a certificate is refused.
    Required,
    /// A client without a certificate is served, and has no identity.
    Optional,
}
