//! Who holds a certificate: its first URI, else its first DNS name, else its subject.

use rustls::pki_types::CertificateDer;
use webpki::EndEntityCert;

use super::certificate::CertificateFacts;
use crate::domain::{NameField, PeerIdentity};

/// The identity of the holder of a verified certificate; None if the certificate has no name, or a name
/// of more than 2,048 bytes. A shorter name of a later field does not stand in for a long one.
pub(super) fn identity_of(certificate: &CertificateDer<'_>) -> Option<PeerIdentity> {
    let names = EndEntityCert::try_from(certificate).ok()?;
    if let Some(uri) = names.valid_uri_names().find(|uri| !uri.is_empty()) {
        return PeerIdentity::new(NameField::Uri, uri);
    }
    if let Some(name) = names.valid_dns_names().next() {
        return PeerIdentity::new(NameField::Dns, name);
    }
    PeerIdentity::new(NameField::Subject, &CertificateFacts::read(certificate)?.subject)
}
