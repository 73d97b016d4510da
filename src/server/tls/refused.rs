//! The certificate that a refused client has presented. rustls keeps only one that it accepts.

use std::{cell::RefCell, sync::Arc};

use rustls::{
    DigitallySignedStruct, DistinguishedName, Error, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    pki_types::{CertificateDer, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};

use super::certificate::CertificateFacts;

tokio::task_local! {
    /// The certificate that the client of this handshake has presented, if it was refused.
    static REFUSED: RefCell<Option<CertificateFacts>>;
}

/// The result of a handshake, and the client's certificate if it was refused.
pub(super) async fn with_refused<T>(
    handshake: impl Future<Output = T>,
) -> (T, Option<CertificateFacts>) {
    let noting = async {
        let result = handshake.await;
        (result, REFUSED.with(RefCell::take))
    };
    REFUSED.scope(RefCell::default(), noting).await
}

/// A verifier that notes the certificates that it refuses.
#[derive(Debug)]
pub(super) struct NoteRefused(pub(super) Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for NoteRefused {
    fn offer_client_auth(&self) -> bool {
        self.0.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.0.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.0.verify_client_cert(end_entity, intermediates, now);
        if verified.is_err() {
            // Fails outside of `with_refused`, where the note would have no reader.
            let _ = REFUSED.try_with(|noted| noted.replace(CertificateFacts::read(end_entity)));
        }
        verified
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}
