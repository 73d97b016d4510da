//! The server's side of TLS handshakes.

use std::{fmt, io, sync::Arc, time::Duration};

use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    sync::watch,
    time::timeout,
};
use tokio_rustls::server::TlsStream;

use super::{
    config::Contents,
    error::TlsError,
    identity::identity_of,
    refusal::{Refusal, RefusalLog},
    refused::with_refused,
    reload::Reloader,
    settings::Settings,
};
use crate::domain::PeerIdentity;

/// 1 s: the time for which a refused client may go on sending before it reads why it is refused.
const LINGER: Duration = Duration::from_secs(1);

/// 64 KiB: the most that is read from a refused client. A client sends its first request without waiting
/// for the server's verdict on its certificate.
const MAX_UNREAD: usize = 64 << 10;

/// Makes TLS connections from sockets, with the newest certificate. All clones share it.
#[derive(Clone, Debug)]
pub struct TlsAcceptor {
    current: watch::Receiver<Arc<ServerConfig>>,
    refusals: Arc<RefusalLog>,
}

impl TlsAcceptor {
    /// Reads the files of TLS, and starts the task that reads them again when they change. The task ends
    /// with the last clone.
    ///
    /// # Errors
    /// If the files are no certificate with its key, or no CA certificates.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn load(settings: Settings) -> Result<Self, TlsError> {
        let contents = Contents::read(&settings)?;
        let loaded = contents.load(&settings)?;
        let (sender, current) = watch::channel(loaded.config.clone());
        tokio::spawn(Reloader::new(settings, contents, loaded, sender).run());
        Ok(Self { current, refusals: Arc::default() })
    }

    /// Performs the handshake with a client, whose address is `peer`. Returns the connection, and the
    /// client's identity if it has presented a certificate. It has no time limit of its own.
    ///
    /// # Errors
    /// If the client is refused, or gives up. The reason is logged.
    pub async fn accept<S>(
        &self,
        socket: S,
        peer: &(dyn fmt::Display + Sync),
    ) -> io::Result<(TlsStream<S>, Option<PeerIdentity>)>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let config = self.current.borrow().clone();
        let accept = tokio_rustls::TlsAcceptor::from(config).accept(socket).into_fallible();
        let (accepted, certificate) = with_refused(accept).await;
        let stream = match accepted {
            Ok(stream) => stream,
            Err((error, socket)) => {
                let certificate = certificate.as_ref();
                let reason = Refusal::of(&error, certificate);
                self.refusals.log(peer, reason, &error, certificate);
                close(socket).await;
                return Err(error);
            }
        };
        let Some([certificate, ..]) = stream.get_ref().1.peer_certificates() else {
            return Ok((stream, None));
        };
        if let Some(identity) = identity_of(certificate) {
            tracing::debug!(%peer, %identity, "a client has proved who it is");
            return Ok((stream, Some(identity)));
        }
        let error = io::Error::new(
            io::ErrorKind::PermissionDenied,
            "expected a URI, a DNS name or a subject of at most 2,048 bytes",
        );
        self.refusals.log(peer, Refusal::NoName, &error, None);
        close(stream).await;
        Err(error)
    }
}

/// Closes a connection in a way that its client can read why. If the server closed it with unread bytes,
/// the system would reset it, and the client would lose what the server has said.
async fn close(mut socket: impl AsyncRead + AsyncWrite + Unpin) {
    let closing = async {
        socket.shutdown().await?;
        let mut buffer = [0; 1 << 10];
        let mut left = MAX_UNREAD;
        while left > 0 {
            let read = socket.read(&mut buffer).await?;
            if read == 0 {
                break;
            }
            left = left.saturating_sub(read);
        }
        io::Result::Ok(())
    };
    // The client is refused, whether it reads why or not.
    let _ = timeout(LINGER, closing).await;
}
