//! Reads certificates and keys from files in PEM.

use std::{
    fs::File,
    io::{self, Read as _},
    path::Path,
};

use rustls::{
    RootCertStore,
    crypto::ring,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject as _},
    },
    sign::CertifiedKey,
};
use webpki::EndEntityCert;

use super::error::{PemContent, PemFile, TlsError};

/// 1 MiB: the largest file that is read. A bundle of all public CAs has about 200 KiB.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Mark of a private key that is encrypted as PKCS #8 (`ENCRYPTED PRIVATE KEY`) or as OpenSSL once did
/// (`Proc-Type: 4,ENCRYPTED`).
const ENCRYPTED: &[u8] = b"ENCRYPTED";

impl PemFile {
    /// A file of TLS.
    #[must_use]
    pub fn new(content: PemContent, path: &Path) -> Self {
        Self { content, path: path.to_owned() }
    }

    /// Reads the whole file.
    ///
    /// # Errors
    /// If it cannot be read, is no file, or is larger than 1 MiB. A pipe is not read, since it could
    /// block forever.
    pub fn read(&self) -> Result<Vec<u8>, TlsError> {
        let metadata = std::fs::metadata(&self.path).map_err(|error| self.unreadable(error))?;
        if !metadata.is_file() {
            return Err(TlsError::NotAFile { file: self.clone() });
        }
        let mut bytes = Vec::new();
        let file = File::open(&self.path).map_err(|error| self.unreadable(error))?;
        let read = file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes);
        let length = read.map_err(|error| self.unreadable(error))? as u64;
        if length > MAX_FILE_BYTES {
            return Err(TlsError::TooLarge { file: self.clone() });
        }
        Ok(bytes)
    }

    /// The chain of certificates in the content of this file: the holder's, and the intermediate ones.
    fn chain(&self, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
        let chain = self.certificates(pem)?;
        for (index, certificate) in chain.iter().enumerate() {
            if EndEntityCert::try_from(certificate).is_err() {
                return Err(self.bad_certificate(index));
            }
        }
        Ok(chain)
    }

    /// The CA certificates in the content of this file.
    ///
    /// # Errors
    /// If there is none, or one that cannot be read.
    pub fn roots(&self, pem: &[u8]) -> Result<RootCertStore, TlsError> {
        let mut roots = RootCertStore::empty();
        for (index, certificate) in self.certificates(pem)?.into_iter().enumerate() {
            roots.add(certificate).map_err(|_| self.bad_certificate(index))?;
        }
        Ok(roots)
    }

    /// The first private key in the content of this file.
    fn private_key(&self, pem: &[u8]) -> Result<PrivateKeyDer<'static>, TlsError> {
        match PrivateKeyDer::from_pem_slice(pem) {
            Ok(key) => Ok(key),
            Err(_) if is_encrypted(pem) => Err(TlsError::EncryptedKey { file: self.clone() }),
            Err(pem::Error::NoItemsFound) => Err(TlsError::NoKey { file: self.clone() }),
            Err(error) => Err(self.bad_pem(&error)),
        }
    }

    fn certificates(&self, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
        let mut certificates = Vec::new();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            certificates.push(certificate.map_err(|error| self.bad_pem(&error))?);
        }
        if certificates.is_empty() {
            return Err(TlsError::NoCertificate { file: self.clone() });
        }
        Ok(certificates)
    }

    pub(super) fn bad_certificate(&self, index: usize) -> TlsError {
        TlsError::BadCertificate { file: self.clone(), number: index + 1 }
    }

    fn unreadable(&self, error: io::Error) -> TlsError {
        TlsError::Unreadable { file: self.clone(), error }
    }

    fn bad_pem(&self, error: &pem::Error) -> TlsError {
        // The crate's own text has lines of the file, as numbers.
        let found = match error {
            pem::Error::MissingSectionEnd { .. } => "a section without its END line",
            pem::Error::IllegalSectionStart { .. } => "a broken BEGIN line",
            pem::Error::Base64Decode(_) => "a section that is not Base64",
            _ => "something else",
        };
        TlsError::BadPem { file: self.clone(), found }
    }
}

/// A certificate with its private key, from the contents of their files.
///
/// # Errors
/// If one of them cannot be read, or the key is that of another certificate.
pub fn certified_key(
    certificate: &PemFile,
    certificate_pem: &[u8],
    key: &PemFile,
    key_pem: &[u8],
) -> Result<CertifiedKey, TlsError> {
    let chain = certificate.chain(certificate_pem)?;
    let private_key = key.private_key(key_pem)?;
    match CertifiedKey::from_der(chain, private_key, &ring::default_provider()) {
        Ok(certified) => Ok(certified),
        Err(rustls::Error::InconsistentKeys(_)) => {
            let (key, certificate) = (key.clone(), certificate.clone());
            Err(TlsError::KeyMismatch { key, certificate })
        }
        Err(error) => Err(TlsError::BadKey { file: key.clone(), error }),
    }
}

fn is_encrypted(pem: &[u8]) -> bool {
    pem.windows(ENCRYPTED.len()).any(|text| text == ENCRYPTED)
}
