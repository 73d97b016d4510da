//! From the files of TLS to what a handshake needs.

use std::sync::Arc;

use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::UnixTime,
    server::{NoServerSessionStorage, WebPkiClientVerifier, danger::ClientCertVerifier},
    sign::SingleCertAndKey,
    time_provider::TimeProvider,
};

use super::{
    certificate::CertificateFacts,
    error::{PemContent, PemFile, TlsError},
    pem::certified_key,
    refused::NoteRefused,
    settings::{ClientAuth, Settings},
};
use crate::domain::wall_clock;

/// The protocols that a client may choose from, the preferred one first.
const ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// The contents of the files at one time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Contents {
    certificate: Vec<u8>,
    key: Vec<u8>,
    client_ca: Vec<u8>,
}

/// What a handshake needs, and what is said of it in logs.
#[derive(Clone, Debug)]
pub(super) struct Loaded {
    pub(super) config: Arc<ServerConfig>,
    pub(super) certificate: CertificateFacts,
}

/// The files that settings name.
struct Files {
    certificate: PemFile,
    key: PemFile,
    client_ca: Option<PemFile>,
}

impl Files {
    fn of(settings: &Settings) -> Self {
        let ca = settings.clients.as_ref().map(|clients| &clients.ca);
        Self {
            certificate: PemFile::new(PemContent::Certificate, &settings.certificate),
            key: PemFile::new(PemContent::Key, &settings.key),
            client_ca: ca.map(|path| PemFile::new(PemContent::Ca, path)),
        }
    }
}

impl Contents {
    /// Reads all files. It blocks.
    pub(super) fn read(settings: &Settings) -> Result<Self, TlsError> {
        let files = Files::of(settings);
        let client_ca = match files.client_ca {
            Some(file) => file.read()?,
            None => Vec::new(),
        };
        Ok(Self { certificate: files.certificate.read()?, key: files.key.read()?, client_ca })
    }

    /// Checks the contents one by one and together.
    pub(super) fn load(&self, settings: &Settings) -> Result<Loaded, TlsError> {
        let files = Files::of(settings);
        let certified =
            certified_key(&files.certificate, &self.certificate, &files.key, &self.key)?;
        let facts = certified.cert.first().and_then(CertificateFacts::read);
        let Some(certificate) = facts else { return Err(files.certificate.bad_certificate(0)) };
        let verifier = match (&settings.clients, &files.client_ca) {
            (Some(clients), Some(file)) => self.client_verifier(clients.auth, file)?,
            _ => WebPkiClientVerifier::no_client_auth(),
        };
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_details(provider, Arc::new(TokioClock));
        // Fails only for a provider without TLS 1.2 and 1.3.
        let builder = builder
            .with_safe_default_protocol_versions()
            .map_err(|error| TlsError::Unusable { file: files.certificate, error })?;
        let mut config = builder
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
        config.alpn_protocols = ALPN.map(<[u8]>::to_vec).into();
        if settings.clients.is_some() {
            forget_sessions(&mut config);
        }
        Ok(Loaded { config: Arc::new(config), certificate })
    }

    fn client_verifier(
        &self,
        auth: ClientAuth,
        file: &PemFile,
    ) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
        let roots = Arc::new(file.roots(&self.client_ca)?);
        let provider = Arc::new(ring::default_provider());
        let mut builder = WebPkiClientVerifier::builder_with_provider(roots, provider);
        if auth == ClientAuth::Optional {
            builder = builder.allow_unauthenticated();
        }
        match builder.build() {
            Ok(verifier) => Ok(Arc::new(NoteRefused(verifier))),
            Err(_) => Err(TlsError::NoCertificate { file: file.clone() }),
        }
    }
}

/// A client that resumes a session is not verified again, so no session may outlive a change of the CA or
/// the end of the client's certificate.
fn forget_sessions(config: &mut ServerConfig) {
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
}

/// The clock by which certificates expire.
#[derive(Debug)]
struct TokioClock;

impl TimeProvider for TokioClock {
    fn current_time(&self) -> Option<UnixTime> {
        let now = wall_clock().duration_since(std::time::SystemTime::UNIX_EPOCH).ok()?;
        Some(UnixTime::since_unix_epoch(now))
    }
}
