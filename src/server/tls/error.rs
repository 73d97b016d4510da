//! Faults of the files of TLS.

use std::{fmt, io, path::PathBuf};

/// One of the files of TLS.
#[derive(Clone, Debug)]
pub struct PemFile {
    /// What the file holds.
    pub content: PemContent,
    /// The path of the file.
    pub path: PathBuf,
}

/// What a file of TLS holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::Display)]
pub enum PemContent {
    /// A certificate and the intermediate certificates behind it.
    #[strum(to_string = "the certificate")]
    Certificate,
    /// A private key.
    #[strum(to_string = "the private key")]
    Key,
    /// Certificates of CAs.
    #[strum(to_string = "the CA certificates")]
    Ca,
}

impl fmt::Display for PemFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in {}", self.content, self.path.display())
    }
}

/// A fault of the files of TLS. Its text names the file, and says what is expected.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{file}: cannot be read: {error}")]
    Unreadable {
        /// The file.
        file: PemFile,
        /// Why not.
        error: io::Error,
    },
    /// A path leads to a folder, a pipe or the like.
    #[error("{file}: expected a file, found something else")]
    NotAFile {
        /// The file.
        file: PemFile,
    },
    /// A file is larger than any that TLS needs.
    #[error("{file}: expected at most 1 MiB, found more")]
    TooLarge {
        /// The file.
        file: PemFile,
    },
    /// A file has marks of PEM that do not fit, or no Base64 between them.
    #[error("{file}: expected PEM, found {found}")]
    BadPem {
        /// The file.
        file: PemFile,
        /// What was found.
        found: &'static str,
    },
    /// A file holds no certificate.
    #[error(
        "{file}: expected at least one certificate in PEM (-----BEGIN CERTIFICATE-----), found none"
    )]
    NoCertificate {
        /// The file.
        file: PemFile,
    },
    /// A certificate is no X.509.
    #[error("{file}: expected X.509 certificates, found that number {number} cannot be read")]
    BadCertificate {
        /// The file.
        file: PemFile,
        /// The place of the certificate in the file, counted from 1.
        number: usize,
    },
    /// A file holds no private key.
    #[error("{file}: expected a private key in PEM (-----BEGIN PRIVATE KEY-----), found none")]
    NoKey {
        /// The file.
        file: PemFile,
    },
    /// A private key is encrypted with a password.
    #[error("{file}: expected a private key without a password, found an encrypted one")]
    EncryptedKey {
        /// The file.
        file: PemFile,
    },
    /// A private key is of a kind that ring does not know.
    #[error("{file}: expected a key for RSA, ECDSA (P-256, P-384) or Ed25519: {error}")]
    BadKey {
        /// The file.
        file: PemFile,
        /// What is wrong.
        error: rustls::Error,
    },
    /// The private key is that of another certificate.
    #[error(
        "{key}: expected the key of {certificate}, found another; the certificate of the key must be the \
         first one in its file"
    )]
    KeyMismatch {
        /// The file of the private key.
        key: PemFile,
        /// The file of the certificate.
        certificate: PemFile,
    },
    /// The new certificate has expired, and that in force has not.
    #[error(
        "{file}: expected a certificate that is valid now, found one that expired at {expired}"
    )]
    Expired {
        /// The file.
        file: PemFile,
        /// The time at which it expired.
        expired: String,
    },
    /// rustls takes the files one by one, and not together.
    #[error("{file}: {error}")]
    Unusable {
        /// The file of the certificate.
        file: PemFile,
        /// What is wrong.
        error: rustls::Error,
    },
}
