//! What a certificate says of itself: its subject and its dates.

use std::time::{Duration, SystemTime};

use rustls::pki_types::CertificateDer;
use x509_parser::{parse_x509_certificate, time::ASN1Time};

use super::subject::subject_text;

/// The last second of the year 9999: the latest date that a certificate can have.
const LATEST: u64 = 253_402_300_799;

/// The subject and the dates of a certificate, verified or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CertificateFacts {
    /// The subject in the form of RFC 4514; empty if the certificate has none.
    pub(super) subject: String,
    /// The time from which the certificate is valid.
    pub(super) not_before: SystemTime,
    /// The last second in which the certificate is valid.
    pub(super) not_after: SystemTime,
}

impl CertificateFacts {
    /// Reads a certificate; None if it is no X.509.
    pub(super) fn read(certificate: &CertificateDer<'_>) -> Option<Self> {
        let (_, certificate) = parse_x509_certificate(certificate).ok()?;
        let validity = certificate.validity();
        Some(Self {
            subject: subject_text(certificate.subject()),
            not_before: system_time(validity.not_before),
            not_after: system_time(validity.not_after),
        })
    }

    /// The date of expiry, for people.
    pub(super) fn expiry(&self) -> String {
        date(self.not_after)
    }

    pub(super) fn has_expired(&self, now: SystemTime) -> bool {
        self.not_after < now
    }
}

/// A date for people.
pub(super) fn date(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}

/// The time, or else the nearest one that can be shown: a date before 1970 is 1970.
fn system_time(time: ASN1Time) -> SystemTime {
    let seconds = u64::try_from(time.timestamp()).unwrap_or(0).min(LATEST);
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}
