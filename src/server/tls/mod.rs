//! TLS of the server: its certificate, which is replaced without a restart, and the certificates of
//! clients.
//!
//! [`TlsAcceptor`] performs the handshakes. It reads its files again when they change, keeps those
//! before if the new ones are broken, and logs which clients it refuses, and why. Everything is
//! rustls over ring; no process-wide provider is installed.

mod acceptor;
mod certificate;
mod config;
mod error;
mod identity;
mod pem;
mod refusal;
mod refused;
mod reload;
mod settings;
mod subject;

pub use acceptor::TlsAcceptor;
pub use error::{PemContent, PemFile, TlsError};
pub use pem::certified_key;
pub use settings::{ClientAuth, ClientCertificates, Settings};
