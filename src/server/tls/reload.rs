//! Reads the files of TLS again when they change, so that a certificate can be replaced without a restart.

use std::{sync::Arc, time::Duration};

use rustls::ServerConfig;
use tokio::{sync::watch, task::spawn_blocking, time::sleep};

use super::{
    certificate::CertificateFacts,
    config::{Contents, Loaded},
    error::{PemContent, PemFile, TlsError},
    settings::{ClientCertificates, Settings},
};
use crate::domain::{log_text, wall_clock};

/// 1 s: the time for which changed files must stay the same before they are used, since a program may
/// write one after the other.
const SETTLING: Duration = Duration::from_secs(1);

/// The task that keeps a server's certificate the newest.
pub(super) struct Reloader {
    settings: Arc<Settings>,
    /// The contents that were last tried, or why they could not be read.
    tried: Result<Contents, TlsError>,
    in_force: CertificateFacts,
    /// The log says that the certificate in force has expired.
    expiry_is_logged: bool,
    sender: watch::Sender<Arc<ServerConfig>>,
}

impl Reloader {
    pub(super) fn new(
        settings: Settings,
        contents: Contents,
        loaded: Loaded,
        sender: watch::Sender<Arc<ServerConfig>>,
    ) -> Self {
        Self {
            settings: Arc::new(settings),
            tried: Ok(contents),
            in_force: loaded.certificate,
            expiry_is_logged: false,
            sender,
        }
    }

    /// Runs until no acceptor is left.
    pub(super) async fn run(mut self) {
        self.log_what_is_in_force();
        loop {
            self.log_expiry();
            tokio::select! {
                () = self.sender.closed() => return,
                () = sleep(self.settings.reload_interval) => {}
            }
            self.check().await;
        }
    }

    /// Reads the files, and uses them if they have changed.
    async fn check(&mut self) {
        let Some(mut contents) = self.read().await else { return };
        if is_same(&contents, &self.tried) {
            return;
        }
        loop {
            sleep(SETTLING).await;
            let Some(again) = self.read().await else { return };
            if is_same(&again, &contents) {
                break;
            }
            contents = again;
        }
        if is_same(&contents, &self.tried) {
            return;
        }
        let fault = match &contents {
            Ok(contents) => self.put_in_force(contents).err().map(|error| error.to_string()),
            Err(error) => Some(error.to_string()),
        };
        self.tried = contents;
        if let Some(error) = fault {
            tracing::warn!(
                error,
                certificate = log_text(&self.in_force.subject),
                expires = self.in_force.expiry(),
                "changed TLS files cannot be used; those before stay in force"
            );
        }
    }

    /// Reads the files; None if the runtime ends.
    async fn read(&self) -> Option<Result<Contents, TlsError>> {
        let settings = self.settings.clone();
        spawn_blocking(move || Contents::read(&settings)).await.ok()
    }

    fn put_in_force(&mut self, contents: &Contents) -> Result<(), TlsError> {
        let Loaded { config, certificate } = contents.load(&self.settings)?;
        let now = wall_clock();
        if certificate.has_expired(now) && !self.in_force.has_expired(now) {
            return Err(TlsError::Expired {
                file: PemFile::new(PemContent::Certificate, &self.settings.certificate),
                expired: certificate.expiry(),
            });
        }
        self.sender.send_replace(config);
        self.in_force = certificate;
        self.expiry_is_logged = false;
        self.log_what_is_in_force();
        Ok(())
    }

    fn log_what_is_in_force(&self) {
        let client_certificates = match &self.settings.clients {
            Some(ClientCertificates { auth, .. }) => auth.to_string(),
            None => "none".to_owned(),
        };
        tracing::info!(
            certificate = log_text(&self.in_force.subject),
            expires = self.in_force.expiry(),
            client_certificates,
            "TLS files are in force"
        );
    }

    /// Logs once that the certificate in force has expired.
    fn log_expiry(&mut self) {
        if self.expiry_is_logged || !self.in_force.has_expired(wall_clock()) {
            return;
        }
        self.expiry_is_logged = true;
        tracing::warn!(
            certificate = log_text(&self.in_force.subject),
            expired = self.in_force.expiry(),
            "the TLS certificate has expired; clients refuse it"
        );
    }
}

/// Returns whether files have not changed: the same bytes, or the same trouble with reading them.
fn is_same(one: &Result<Contents, TlsError>, other: &Result<Contents, TlsError>) -> bool {
    match (one, other) {
        (Ok(one), Ok(other)) => one == other,
        (Err(one), Err(other)) => one.to_string() == other.to_string(),
        _ => false,
    }
}
