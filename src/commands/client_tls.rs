//! Flags of a client's TLS.

use std::path::PathBuf;

use clap::Args;
use tonic::transport::{Certificate, ClientTlsConfig, Identity};

use super::output::Failure;
use crate::server::tls::{PemContent, PemFile, TlsError, certified_key};

/// Flags of a client's TLS. Their variables are not those of the server: a `probe` in the server's
/// container must not present the server's certificate.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "TLS options")]
pub(super) struct ClientTlsArgs {
    /// File of the CA certificates in PEM by which the gateway's certificate is checked; without this
    /// flag, those of the system.
    #[arg(long, env = "AMISTORE_CLIENT_CA", value_name = "FILE")]
    ca: Option<PathBuf>,

    /// File of the certificate in PEM that is presented to the gateway.
    #[arg(long, env = "AMISTORE_CLIENT_CERT", value_name = "FILE")]
    client_cert: Option<PathBuf>,

    /// File of the private key of --client-cert in PEM.
    #[arg(long, env = "AMISTORE_CLIENT_KEY", value_name = "FILE")]
    client_key: Option<PathBuf>,
}

impl ClientTlsArgs {
    /// The TLS of connections to an address with `https`.
    pub(super) fn config(&self) -> Result<ClientTlsConfig, Failure> {
        let mut config = ClientTlsConfig::new();
        config = match &self.ca {
            Some(path) => {
                let file = PemFile::new(PemContent::Ca, path);
                let pem = file.read()?;
                file.roots(&pem)?;
                config.ca_certificate(Certificate::from_pem(pem))
            }
            None => config.with_native_roots(),
        };
        match (&self.client_cert, &self.client_key) {
            (None, None) => Ok(config),
            (Some(certificate), Some(key)) => {
                let certificate = PemFile::new(PemContent::Certificate, certificate);
                let key = PemFile::new(PemContent::Key, key);
                Ok(config.identity(identity(&certificate, &key)?))
            }
            (Some(_), None) => {
                Err(Failure::message("--client-cert: expected --client-key beside it, found none"))
            }
            (None, Some(_)) => {
                Err(Failure::message("--client-key: expected --client-cert beside it, found none"))
            }
        }
    }

    /// Returns whether a certificate is presented to the gateway.
    pub(super) fn has_certificate(&self) -> bool {
        self.client_cert.is_some()
    }

    /// The first flag that is given.
    pub(super) fn given(&self) -> Option<&'static str> {
        let Self { ca, client_cert, client_key } = self;
        for (flag, value) in
            [("--ca", ca), ("--client-cert", client_cert), ("--client-key", client_key)]
        {
            if value.is_some() {
                return Some(flag);
            }
        }
        None
    }
}

/// Reads a certificate and its key.
fn identity(certificate: &PemFile, key: &PemFile) -> Result<Identity, TlsError> {
    let (certificate_pem, key_pem) = (certificate.read()?, key.read()?);
    certified_key(certificate, &certificate_pem, key, &key_pem)?;
    Ok(Identity::from_pem(certificate_pem, key_pem))
}
