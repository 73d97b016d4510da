//! Sockets that a service manager has opened and hands over to this process, as systemd does
//! (sd_listen_fds(3): LISTEN_FDS and LISTEN_PID).

use std::{io, os::fd::AsFd};

use listenfd::ListenFd;
use tokio::net::{TcpListener, UnixListener};

use super::accept::Listeners;

/// Number of the first descriptor that is handed over.
const FIRST_DESCRIPTOR: usize = 3;

/// The sockets that were handed over to this process.
pub struct HandedOver(ListenFd);

/// A descriptor that was handed over and that no connection can be accepted from.
#[derive(Debug, thiserror::Error)]
#[error(
    "LISTEN_FDS: expected a TCP or Unix socket that listens (systemd: ListenStream= and Accept=no), \
     found something else in descriptor {0}"
)]
pub struct NoListener(usize);

impl HandedOver {
    /// Takes the sockets that LISTEN_FDS names, if LISTEN_PID is this process. Removes both variables, so
    /// this comes before other threads start.
    #[must_use]
    pub fn take() -> Self {
        Self(ListenFd::from_env())
    }

    /// The listeners. None if nothing was handed over.
    ///
    /// # Errors
    /// If one of the descriptors is no socket that listens.
    pub fn listeners(mut self) -> Result<Option<Listeners>, NoListener> {
        let mut listeners = Vec::new();
        for index in 0..self.0.len() {
            let listener = self.listener(index);
            listeners.push(listener.ok_or(NoListener(FIRST_DESCRIPTOR + index))?);
        }
        if listeners.is_empty() { Ok(None) } else { Ok(Some(listeners.into_iter().collect())) }
    }

    fn listener(&mut self, index: usize) -> Option<Listeners> {
        if let Ok(Some(socket)) = self.0.take_tcp_listener(index) {
            return of_tcp(socket).ok();
        }
        if let Ok(Some(socket)) = self.0.take_unix_listener(index) {
            return of_unix(socket).ok();
        }
        None
    }
}

fn of_tcp(socket: std::net::TcpListener) -> io::Result<Listeners> {
    check(&socket)?;
    socket.set_nonblocking(true)?;
    Ok(TcpListener::from_std(socket)?.into())
}

fn of_unix(socket: std::os::unix::net::UnixListener) -> io::Result<Listeners> {
    check(&socket)?;
    socket.set_nonblocking(true)?;
    Ok(UnixListener::from_std(socket)?.into())
}

/// Checks that the socket listens. A connected one, for example, would only fail at the first accept.
#[cfg(not(target_vendor = "apple"))]
fn check(socket: impl AsFd) -> io::Result<()> {
    if rustix::net::sockopt::socket_acceptconn(socket)? {
        return Ok(());
    }
    Err(io::ErrorKind::InvalidInput.into())
}

/// Apple's systems do not tell whether a socket listens.
#[cfg(target_vendor = "apple")]
fn check(_socket: impl AsFd) -> io::Result<()> {
    Ok(())
}
