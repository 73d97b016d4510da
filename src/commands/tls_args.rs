//! Flags of a gateway's TLS.

use std::{path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};

use super::values::{duration_text, interval};
use crate::server::tls::{ClientAuth, ClientCertificates, Settings, TlsAcceptor};

#[derive(Debug, Args)]
#[command(next_help_heading = "TLS options")]
#[expect(clippy::struct_field_names, reason = "the names of the flags")]
pub(super) struct TlsArgs {
    /// File of the server's certificate in PEM, with the intermediate certificates behind it; without
    /// this flag, the gateway speaks plaintext.
    #[arg(long, env = "AMISTORE_TLS_CERT", value_name = "FILE")]
    tls_cert: Option<PathBuf>,

    /// File of the private key of --tls-cert in PEM.
    #[arg(long, env = "AMISTORE_TLS_KEY", value_name = "FILE")]
    tls_key: Option<PathBuf>,

    /// File of the CA certificates in PEM that sign the certificates of clients; without this flag,
    /// clients are not asked for one.
    #[arg(long, env = "AMISTORE_TLS_CLIENT_CA", value_name = "FILE")]
    tls_client_ca: Option<PathBuf>,

    /// Whether clients need a certificate; without this flag, they do if --tls-client-ca is given.
    #[arg(long, env = "AMISTORE_TLS_CLIENT_AUTH", value_name = "WHETHER", value_enum)]
    tls_client_auth: Option<ClientAuthArg>,

    /// Interval at which the files of TLS are read again, so that changed ones are used without a
    /// restart.
    #[arg(long, env = "AMISTORE_TLS_RELOAD_INTERVAL", value_name = "DURATION", value_parser = interval, default_value = duration_text(Settings::DEFAULT_RELOAD_INTERVAL))]
    tls_reload_interval: Duration,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ClientAuthArg {
    /// A client without a certificate is refused
    Required,
    /// A client without a certificate is served; one that it presents is checked
    Optional,
}

impl From<ClientAuthArg> for ClientAuth {
    fn from(arg: ClientAuthArg) -> Self {
        match arg {
            ClientAuthArg::Required => Self::Required,
            ClientAuthArg::Optional => Self::Optional,
        }
    }
}

impl TlsArgs {
    /// Flags without those that they need. Not rules of clap, which does not count the values of
    /// variables and of the file.
    pub(super) fn conflicts(&self) -> Vec<String> {
        let Self { tls_cert, tls_key, tls_client_ca, tls_client_auth, .. } = self;
        let mut conflicts = Vec::new();
        for (flag, is_given, needed, is_needed_given) in [
            ("--tls-cert", tls_cert.is_some(), "--tls-key", tls_key.is_some()),
            ("--tls-key", tls_key.is_some(), "--tls-cert", tls_cert.is_some()),
            ("--tls-client-ca", tls_client_ca.is_some(), "--tls-cert", tls_cert.is_some()),
            (
                "--tls-client-auth",
                tls_client_auth.is_some(),
                "--tls-client-ca",
                tls_client_ca.is_some(),
            ),
        ] {
            if is_given && !is_needed_given {
                conflicts.push(format!("{flag}: expected {needed} beside it, found none"));
            }
        }
        conflicts
    }

    /// The acceptor of TLS connections, with the files read; None for plaintext.
    pub(super) fn acceptor(&self) -> Result<Option<TlsAcceptor>, String> {
        let (Some(certificate), Some(key)) = (&self.tls_cert, &self.tls_key) else {
            return Ok(None);
        };
        let auth = self.tls_client_auth.map_or(ClientAuth::Required, Into::into);
        let ca = self.tls_client_ca.clone();
        let settings = Settings {
            certificate: certificate.clone(),
            key: key.clone(),
            clients: ca.map(|ca| ClientCertificates { ca, auth }),
            reload_interval: self.tls_reload_interval,
        };
        TlsAcceptor::load(settings).map(Some).map_err(|error| format!("TLS: {error}"))
    }
}
