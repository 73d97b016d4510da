//! A connection's socket, with what happens on it noted for the reaper.

use std::{
    io::{self, IoSlice},
    ops::RangeInclusive,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf, Take},
    task::yield_now,
    time::Instant,
};

use super::state::Connection;

/// Time that one connection may take before others have their turn. Frames that cost the peer nothing,
/// such as PING and SETTINGS, would otherwise hold a thread for as long as a flood of them lasts.
const TURN: Duration = Duration::from_micros(250);

/// Bounds of the bytes that are read at a time, so that they are one turn's work: 64 bytes to 8 KiB.
/// After SETTINGS, HTTP/2 looks at each open stream, so that few bytes can be much work.
const READ_BYTES: RangeInclusive<usize> = 64..=8 << 10;

/// 1 KiB: bytes that are read at a time of a new connection.
const FIRST_READ: usize = 1 << 10;

/// 64 KiB: bytes that are read and thrown away of a peer to which nothing more will be sent. A client
/// that still reads its answers sends some bytes for each of its reads.
const LINGERING_BYTES: usize = 64 << 10;

/// A socket whose reads and writes are noted.
pub(super) struct ObservedSocket<S> {
    socket: Take<S>,
    connection: Arc<Connection>,
    /// Bytes that are read at a time.
    read_bytes: usize,
    /// Bytes that are still read of a peer to which nothing more will be sent.
    lingering_bytes: usize,
    /// When as many bytes were read, so that more may be there. Others have their turn first.
    turn_began: Option<Instant>,
}

impl<S: AsyncRead + Unpin> ObservedSocket<S> {
    pub(super) fn new(socket: S, connection: Arc<Connection>) -> Self {
        let socket = socket.take(FIRST_READ as u64);
        Self {
            socket,
            connection,
            read_bytes: FIRST_READ,
            lingering_bytes: LINGERING_BYTES,
            turn_began: None,
        }
    }

    /// Ends a turn. The next one is shorter if this one took long, and otherwise longer.
    fn end_turn(&mut self, began: Instant) {
        let read_bytes =
            if began.elapsed() > TURN { self.read_bytes / 2 } else { self.read_bytes * 2 };
        self.read_bytes = read_bytes.clamp(*READ_BYTES.start(), *READ_BYTES.end());
    }

    fn note(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match &written {
            Poll::Pending => self.connection.block(),
            Poll::Ready(Ok(bytes)) => self.connection.wrote(*bytes),
            Poll::Ready(Err(_)) => {}
        }
        written
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ObservedSocket<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(began) = self.turn_began.take() {
            self.end_turn(began);
            // Continues after the runtime has looked which other sockets are ready.
            let _ = pin!(yield_now()).poll(cx);
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        let limit = self.read_bytes.min(buffer.remaining());
        self.socket.set_limit(limit as u64);
        ready!(Pin::new(&mut self.socket).poll_read(cx, buffer))?;
        let read = buffer.filled().len() - before;
        if read == limit {
            self.turn_began = Some(Instant::now());
        }
        self.connection.read(read);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for ObservedSocket<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(self.socket.get_mut()).poll_write(cx, bytes);
        self.note(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(self.socket.get_mut()).poll_write_vectored(cx, bytes);
        self.note(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.get_ref().is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(self.socket.get_mut()).poll_flush(cx);
        match flushed {
            // A TLS stream takes bytes before its socket does.
            Poll::Pending => self.connection.block(),
            Poll::Ready(_) => self.connection.unblock(),
        }
        flushed
    }

    /// Ends what is sent, and then reads until the peer ends, too. Whatever arrives at a socket that is
    /// closed has the system throw away the bytes that the peer has not taken yet.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.connection.lingers() {
            ready!(Pin::new(self.socket.get_mut()).poll_shutdown(cx))?;
            self.connection.linger();
        }
        let mut discarded = [0; 512];
        while self.lingering_bytes > 0 {
            let mut buffer = ReadBuf::new(&mut discarded);
            self.socket.set_limit(buffer.remaining() as u64);
            if ready!(Pin::new(&mut self.socket).poll_read(cx, &mut buffer)).is_err() {
                break;
            }
            let read = buffer.filled().len();
            if read == 0 {
                break;
            }
            self.connection.read(read);
            self.lingering_bytes = self.lingering_bytes.saturating_sub(read);
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufWriter, duplex};

    use super::*;
    use crate::server::{
        connection::registry::Connections, settings::ConnectionSettings, socket::PeerAddress,
    };

    /// A TLS stream, too, takes bytes before its socket does.
    #[tokio::test]
    async fn a_peer_that_has_taken_all_is_not_blocked() {
        let (socket, mut peer) = duplex(4);
        let open = Connections::new(ConnectionSettings::default(), None).open(PeerAddress::Unix);
        let connection = open.connection.clone();
        let mut socket = ObservedSocket::new(BufWriter::new(socket), connection.clone());
        socket.write_all(b"message").await.expect("buffered");
        let mut context = Context::from_waker(Waker::noop());
        assert!(Pin::new(&mut socket).poll_flush(&mut context).is_pending());
        assert!(connection.is_blocked());
        let mut taken = [0; 4];
        peer.read_exact(&mut taken).await.expect("open");
        assert!(Pin::new(&mut socket).poll_flush(&mut context).is_ready());
        assert!(!connection.is_blocked());
    }
}
