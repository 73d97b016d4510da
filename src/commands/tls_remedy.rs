//! What the user of a client command can do when its connection fails because of TLS.

use std::{error::Error, io};

use rustls::{AlertDescription, CertificateError, InvalidMessage};

use super::{client_tls::ClientTlsArgs, server_address::ServerAddress};

/// What the user can do about alerts of the gateway.
const ALERTS: [(AlertDescription, &str); 7] = [
    (
        AlertDescription::CertificateRequired,
        "the gateway asks for a client certificate; give one with --client-cert and --client-key",
    ),
    (
        AlertDescription::UnknownCA,
        "the gateway does not know the CA of the certificate of --client-cert",
    ),
    (
        AlertDescription::CertificateExpired,
        "the certificate of --client-cert has expired, or is not valid yet",
    ),
    (
        AlertDescription::UnsupportedCertificate,
        "the certificate of --client-cert is not for clients",
    ),
    (AlertDescription::BadCertificate, REFUSED),
    (AlertDescription::CertificateUnknown, REFUSED),
    (AlertDescription::DecryptError, REFUSED),
];

const PERHAPS_NO_CERTIFICATE: &str = "the gateway has closed the connection; if it asks for a client \
     certificate, give one with --client-cert and --client-key";

const PERHAPS_REFUSED: &str = "the gateway has closed the connection; if it has refused the certificate of \
     --client-cert, its log says why";

const PERHAPS_TLS: &str = "if the server speaks TLS, use https:// in --server";

const REFUSED: &str = "the gateway refuses the certificate of --client-cert; its log says why";

/// What the user can do about a connection that failed. `text` has all causes.
pub(super) fn remedy(
    server: &ServerAddress,
    tls: &ClientTlsArgs,
    failure: &(dyn Error + 'static),
    text: &str,
) -> Option<&'static str> {
    // Depending on which side is faster, the client reads the alert or finds the connection closed.
    let is_closed = find(failure, was_closed).is_some();
    if !server.is_tls() {
        let is_no_http2 = find(failure, speaks_no_http2).is_some();
        return if is_closed || is_no_http2 { Some(PERHAPS_TLS) } else { None };
    }
    if let Some(remedy) = find(failure, remedy_of) {
        return Some(remedy);
    }
    // hyper hands on only the text of an alert that comes after the handshake.
    for (alert, remedy) in ALERTS {
        if text.contains(&rustls::Error::AlertReceived(alert).to_string()) {
            return Some(remedy);
        }
    }
    match is_closed {
        true if tls.has_certificate() => Some(PERHAPS_REFUSED),
        true => Some(PERHAPS_NO_CERTIFICATE),
        false => None,
    }
}

/// The first cause of a failure of which `of` makes something.
fn find<'a, E: Error + 'static, T>(
    failure: &'a (dyn Error + 'static),
    of: fn(&'a E) -> Option<T>,
) -> Option<T> {
    let mut next = Some(failure);
    while let Some(error) = next {
        // The source of an I/O error is that of the error that it wraps, and not that error.
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        let inner = wrapped.and_then(|wrapped| wrapped.downcast_ref());
        if let Some(found) = error.downcast_ref().or(inner).and_then(of) {
            return Some(found);
        }
        next = error.source();
    }
    None
}

/// An alert of TLS, read as HTTP/2, is a frame of a wrong size.
fn speaks_no_http2(error: &h2::Error) -> Option<()> {
    if error.reason() == Some(h2::Reason::FRAME_SIZE_ERROR) { Some(()) } else { None }
}

fn was_closed(error: &hyper::Error) -> Option<()> {
    if error.is_canceled() || error.is_closed() || error.is_incomplete_message() {
        Some(())
    } else {
        None
    }
}

fn remedy_of(error: &rustls::Error) -> Option<&'static str> {
    match error {
        rustls::Error::InvalidCertificate(
            // The latter if a known CA has the same name as the gateway's, and another key.
            CertificateError::UnknownIssuer | CertificateError::BadSignature,
        ) => Some(
            "the gateway's certificate is not signed by a CA that is known here; give the file of its CA \
             with --ca",
        ),
        rustls::Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => Some("the gateway's certificate has another name; use that name in --server"),
        rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            Some("the server speaks no TLS; use http:// in --server for plaintext")
        }
        _ => None,
    }
}
