//! Why a client has no connection, and the log lines that say so.

use std::{
    collections::BTreeMap,
    fmt, io,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use rustls::{AlertDescription, CertificateError, Error, InvalidMessage};
use tokio::time::Instant;

use super::certificate::{CertificateFacts, date};
use crate::domain::log_text;

/// 5 lines: the most that each kind of refusal writes in [`WINDOW`]. The first ones name the clients of a
/// deployment with a wrong certificate, and a flood fills no disk.
const MAX_LINES: u32 = 5;

/// One minute: the time in which lines are counted.
const WINDOW: Duration = Duration::from_mins(1);

/// Why a handshake has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, strum::IntoStaticStr)]
pub(super) enum Refusal {
    /// The client has no certificate, and one is required.
    #[strum(to_string = "no client certificate")]
    NoCertificate,
    /// The certificate is not signed by a CA of the server, or not with the CA's key.
    #[strum(to_string = "client certificate of an unknown CA")]
    UnknownCa,
    /// The certificate is no longer valid.
    #[strum(to_string = "expired client certificate")]
    Expired,
    /// The certificate is not valid yet.
    #[strum(to_string = "client certificate that is not valid yet")]
    NotValidYet,
    /// The certificate is for servers, not for clients.
    #[strum(to_string = "certificate that is not for clients")]
    WrongPurpose,
    /// The certificate is wrong in another way.
    #[strum(to_string = "bad client certificate")]
    BadCertificate,
    /// The certificate is right, and has no name by which its holder can be known.
    #[strum(to_string = "client certificate without a name")]
    NoName,
    /// The client speaks something else, perhaps plaintext.
    #[strum(to_string = "no TLS")]
    NoTls,
    /// The client and the server have no version, cipher or protocol in common.
    #[strum(to_string = "no common version, cipher or protocol")]
    NothingInCommon,
    /// The client refuses the server, for example its certificate.
    #[strum(to_string = "refused by the client")]
    ByClient,
    /// The client breaks the protocol.
    #[strum(to_string = "broken handshake")]
    Broken,
    /// The client has closed the connection, as checks of an open port do.
    #[strum(to_string = "closed by the client")]
    Closed,
}

impl Refusal {
    /// The reason of an error of a handshake, in which a certificate was refused or not.
    pub(super) fn of(error: &io::Error, certificate: Option<&CertificateFacts>) -> Self {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
        match inner {
            // A signature by another key than that of the CA with this name. Without a refused certificate,
            // it is the handshake's.
            Some(Error::InvalidCertificate(CertificateError::BadSignature))
                if certificate.is_some() =>
            {
                Self::UnknownCa
            }
            Some(error) => Self::of_rustls(error),
            None => Self::Closed,
        }
    }

    fn of_rustls(error: &Error) -> Self {
        match error {
            Error::NoCertificatesPresented => Self::NoCertificate,
            Error::InvalidCertificate(error) => Self::of_certificate(error),
            Error::InvalidMessage(
                InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion,
            ) => Self::NoTls,
            Error::PeerIncompatible(_) | Error::NoApplicationProtocol => Self::NothingInCommon,
            // Said by a client that gives up in its own time.
            Error::AlertReceived(
                AlertDescription::CloseNotify | AlertDescription::UserCanceled,
            ) => Self::Closed,
            Error::AlertReceived(_) => Self::ByClient,
            _ => Self::Broken,
        }
    }

    fn of_certificate(error: &CertificateError) -> Self {
        match error {
            CertificateError::UnknownIssuer => Self::UnknownCa,
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => Self::Expired,
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                Self::NotValidYet
            }
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
                Self::WrongPurpose
            }
            _ => Self::BadCertificate,
        }
    }
}

/// The log lines of refusals.
#[derive(Debug, Default)]
pub(super) struct RefusalLog(Mutex<BTreeMap<Refusal, Window>>);

/// The lines of one kind.
#[derive(Debug)]
struct Window {
    began: Instant,
    lines: u32,
    /// Refusals without a line since the last line.
    unlogged: u64,
}

impl RefusalLog {
    /// Logs a refusal, unless five of its kind are in the log of this minute.
    pub(super) fn log(
        &self,
        peer: &(dyn fmt::Display + Sync),
        reason: Refusal,
        error: &io::Error,
        certificate: Option<&CertificateFacts>,
    ) {
        let subject = certificate.map(|facts| log_text(&facts.subject));
        let valid = certificate
            .map(|facts| format!("{} to {}", date(facts.not_before), date(facts.not_after)));
        let error = log_text(&error.to_string());
        if reason == Refusal::Closed {
            tracing::debug!(%peer, error, "a TLS handshake has not ended");
            return;
        }
        let Some(unlogged) = self.admit(reason) else { return };
        let unlogged = if unlogged > 0 { Some(unlogged) } else { None };
        let reason: &str = reason.into();
        tracing::warn!(
            %peer,
            reason,
            certificate = subject,
            valid,
            error,
            unlogged,
            "a TLS client is refused"
        );
    }

    /// Counts a refusal. Returns the number of refusals that had no line before it, or None if this one
    /// has none, either.
    fn admit(&self, reason: Refusal) -> Option<u64> {
        let mut windows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let window = windows.entry(reason).or_insert(Window { began: now, lines: 0, unlogged: 0 });
        if now.duration_since(window.began) >= WINDOW {
            window.began = now;
            window.lines = 0;
        }
        if window.lines == MAX_LINES {
            window.unlogged += 1;
            return None;
        }
        window.lines += 1;
        Some(std::mem::take(&mut window.unlogged))
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;
    use crate::domain::log_capture::LogCapture;

    fn refuse(log: &RefusalLog, error: Error) {
        let error = io::Error::new(io::ErrorKind::InvalidData, error);
        log.log(&"192.0.2.1:7", Refusal::of(&error, None), &error, None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_one_kind_writes_five_lines_a_minute_and_silences_no_other() {
        let lines = LogCapture::start();
        let log = RefusalLog::default();
        for _ in 0..1_000 {
            refuse(&log, Error::NoCertificatesPresented);
        }
        assert_eq!(lines.lines().len(), 5);
        refuse(&log, Error::InvalidCertificate(CertificateError::Expired));
        assert_eq!(lines.lines().len(), 6);
        advance(WINDOW).await;
        refuse(&log, Error::NoCertificatesPresented);
        let last = lines.lines().pop().expect("a line");
        assert!(last.contains("no client certificate") && last.contains("unlogged=995"), "{last}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_closes_the_connection_is_no_warning() {
        let lines = LogCapture::start();
        let log = RefusalLog::default();
        let error = io::Error::new(io::ErrorKind::UnexpectedEof, "tls handshake eof");
        log.log(&"192.0.2.1:7", Refusal::of(&error, None), &error, None);
        let lines = lines.lines();
        assert!(lines.iter().all(|line| line.starts_with("DEBUG")), "{lines:?}");
    }
}
