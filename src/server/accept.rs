//! Accepts connections from one or several listeners, whatever errors come between.

use std::{
    future::poll_fn,
    io,
    task::{Context, Poll},
    time::Duration,
};

use rustix::io::Errno;
use tokio::{
    net::{TcpListener, TcpStream, UnixListener},
    time::{Instant, sleep_until},
};
use tracing::{debug, warn};

use super::{
    bind::{SocketFile, bind_tcp, bind_unix},
    listen_address::ListenAddress,
    once_a_minute::OnceAMinute,
    socket::{PeerAddress, Socket},
};

/// Shortest pause after an error of the process or the host. It doubles with each further error.
const SHORTEST_PAUSE: Duration = Duration::from_millis(5);
/// Longest pause after such an error: a client waits no longer once descriptors are free again.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Sockets that listen, from which connections are accepted by turns.
#[derive(Debug)]
pub struct Listeners {
    all: Vec<Listener>,
    /// Index of the listener that is asked first.
    next: usize,
    pause: Pause,
}

#[derive(Debug)]
enum Listener {
    Tcp(TcpListener),
    /// The file is None if another process has made the socket.
    Unix(UnixListener, #[expect(dead_code, reason = "removed when dropped")] Option<SocketFile>),
}

/// An address that cannot be bound.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {error}")]
pub struct BindError {
    /// The address.
    pub address: ListenAddress,
    /// The reason.
    pub error: io::Error,
}

impl From<TcpListener> for Listeners {
    fn from(listener: TcpListener) -> Self {
        Self::new(vec![Listener::Tcp(listener)])
    }
}

impl From<UnixListener> for Listeners {
    fn from(listener: UnixListener) -> Self {
        Self::new(vec![Listener::Unix(listener, None)])
    }
}

/// Listeners from several ones, in their order.
impl FromIterator<Listeners> for Listeners {
    fn from_iter<I: IntoIterator<Item = Self>>(several: I) -> Self {
        Self::new(several.into_iter().flat_map(|one| one.all).collect())
    }
}

impl Listeners {
    fn new(all: Vec<Listener>) -> Self {
        Self { all, next: 0, pause: Pause::default() }
    }

    /// Binds all addresses. Without any address, nothing is ever accepted.
    ///
    /// # Errors
    /// The first address that cannot be bound.
    pub async fn bind(addresses: &[ListenAddress]) -> Result<Self, BindError> {
        let mut listeners = Vec::new();
        for address in addresses {
            match Listener::bind(address).await {
                Ok(listener) => listeners.push(listener),
                Err(error) => return Err(BindError { address: address.clone(), error }),
            }
        }
        Ok(Self::new(listeners))
    }

    /// The addresses of all listeners, with the ports that the system has chosen.
    ///
    /// # Errors
    /// Those of the system.
    pub fn local_addresses(&self) -> io::Result<Vec<ListenAddress>> {
        self.all.iter().map(Listener::local_address).collect()
    }

    /// Waits for the next connection. Errors are logged and never returned: those of one connection
    /// are skipped, and after any other one, such as too many open files, there is a pause. If the
    /// call is dropped, no connection is lost.
    pub async fn accept(&mut self) -> (Socket, PeerAddress) {
        loop {
            self.pause.wait().await;
            let error = match poll_fn(|context| self.poll_accept(context)).await {
                Ok(accepted) => {
                    self.pause.end();
                    return accepted;
                }
                Err(error) => error,
            };
            if is_of_one_connection(&error) {
                debug!(%error, "a connection ended before it was accepted");
            } else {
                self.pause.begin(&error);
            }
        }
    }

    fn poll_accept(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<(Socket, PeerAddress)>> {
        let count = self.all.len();
        for turn in 0..count {
            let index = (self.next + turn) % count;
            if let Poll::Ready(accepted) = self.all[index].poll_accept(context) {
                self.next = index + 1;
                return Poll::Ready(accepted);
            }
        }
        Poll::Pending
    }
}

impl Listener {
    async fn bind(address: &ListenAddress) -> io::Result<Self> {
        match address {
            ListenAddress::Tcp(address) => Ok(Self::Tcp(bind_tcp(address).await?)),
            ListenAddress::Unix(path) => {
                let (listener, file) = bind_unix(path).await?;
                Ok(Self::Unix(listener, Some(file)))
            }
        }
    }

    fn local_address(&self) -> io::Result<ListenAddress> {
        match self {
            Self::Tcp(listener) => Ok(ListenAddress::Tcp(listener.local_addr()?.to_string())),
            Self::Unix(listener, _) => {
                let address = listener.local_addr()?;
                let path = address.as_pathname().unwrap_or("".as_ref());
                Ok(ListenAddress::Unix(path.to_owned()))
            }
        }
    }

    fn poll_accept(&self, context: &mut Context<'_>) -> Poll<io::Result<(Socket, PeerAddress)>> {
        match self {
            Self::Tcp(listener) => listener.poll_accept(context).map_ok(|(stream, address)| {
                set_nodelay(&stream);
                (Socket::Tcp(stream), PeerAddress::Ip(address))
            }),
            Self::Unix(listener, _) => listener
                .poll_accept(context)
                .map_ok(|(stream, _)| (Socket::Unix(stream), PeerAddress::Unix)),
        }
    }
}

/// Switches Nagle's algorithm off, since each message should leave at once.
fn set_nodelay(stream: &TcpStream) {
    if let Err(error) = stream.set_nodelay(true) {
        // The peer has gone already, as the first read will show.
        debug!(%error, "TCP_NODELAY was not set");
    }
}

/// Returns whether the error is that of a connection which is then gone from the queue. Linux passes errors
/// of the network on like that (accept(2), "Error handling").
fn is_of_one_connection(error: &io::Error) -> bool {
    const OF_ONE_CONNECTION: &[Errno] = &[
        Errno::CONNABORTED,
        Errno::CONNRESET,
        Errno::CONNREFUSED,
        Errno::HOSTDOWN,
        Errno::HOSTUNREACH,
        Errno::INTR,
        Errno::NETDOWN,
        Errno::NETUNREACH,
        Errno::NOPROTOOPT,
        Errno::OPNOTSUPP,
        // A rule of the firewall forbids the connection.
        Errno::PERM,
        Errno::PROTO,
        Errno::TIMEDOUT,
        #[cfg(target_os = "linux")]
        Errno::NONET,
    ];
    Errno::from_io_error(error).is_some_and(|error| OF_ONE_CONNECTION.contains(&error))
}

/// The pauses after errors of the process or the host. They are kept here, so that a caller who drops
/// [`Listeners::accept`] and calls it again does not cut them short.
#[derive(Debug, Default)]
struct Pause {
    /// Length of the last pause. None if a connection was accepted since.
    length: Option<Duration>,
    until: Option<Instant>,
    warning: OnceAMinute,
}

impl Pause {
    fn begin(&mut self, error: &io::Error) {
        let length = match self.length {
            Some(length) => (2 * length).min(LONGEST_PAUSE),
            None => SHORTEST_PAUSE,
        };
        self.length = Some(length);
        self.until = Some(Instant::now() + length);
        if self.warning.is_due() {
            warn!(%error, "connections cannot be accepted; trying again");
        }
    }

    async fn wait(&mut self) {
        if let Some(until) = self.until {
            sleep_until(until).await;
            self.until = None;
        }
    }

    fn end(&mut self) {
        self.length = None;
    }
}

#[cfg(test)]
mod tests {
    use tokio::{net::UnixStream, time::advance};

    use super::*;
    use crate::domain::log_capture::LogCapture;

    const WARNING: &str = "WARN connections cannot be accepted; trying again \
        error=Too many open files (os error 24)";

    fn error(errno: Errno) -> io::Error {
        errno.into()
    }

    async fn tcp() -> (Listeners, String) {
        let listeners = Listeners::bind(&[ListenAddress::Tcp("127.0.0.1:0".to_owned())]).await;
        let listeners = listeners.expect("bound");
        let address = listeners.local_addresses().expect("bound")[0].to_string();
        (listeners, address)
    }

    #[tokio::test]
    async fn a_listener_with_many_connections_holds_up_no_other() {
        let ((first, busy), (second, calm)) = (tcp().await, tcp().await);
        let path = std::env::temp_dir().join(format!("amistore-{}-turns", std::process::id()));
        let unix = Listeners::bind(&[ListenAddress::Unix(path.clone())]).await.expect("bound");
        let mut listeners: Listeners = [first, second, unix].into_iter().collect();
        let mut open = Vec::new();
        for _ in 0..10 {
            open.push(TcpStream::connect(&busy).await.expect("connected"));
        }
        open.push(TcpStream::connect(&calm).await.expect("connected"));
        let _local = UnixStream::connect(&path).await.expect("connected");
        let mut ports = Vec::new();
        let mut locals = 0;
        for _ in 0..3 {
            match listeners.accept().await {
                (Socket::Tcp(stream), PeerAddress::Ip(_)) => {
                    assert!(stream.nodelay().expect("an option"));
                    ports.push(stream.local_addr().expect("connected").to_string());
                }
                (Socket::Unix(_), PeerAddress::Unix) => locals += 1,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!((ports, locals), (vec![busy, calm], 1));
    }

    #[test]
    fn only_errors_of_one_connection_are_skipped() {
        for errno in [Errno::CONNABORTED, Errno::PROTO, Errno::HOSTUNREACH, Errno::PERM] {
            assert!(is_of_one_connection(&error(errno)), "{errno}");
        }
        for errno in [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::INVAL] {
            assert!(!is_of_one_connection(&error(errno)), "{errno}");
        }
        assert!(!is_of_one_connection(&io::Error::other("unknown")));
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_to_a_second_and_a_minute_has_one_warning() {
        let log = LogCapture::start();
        let mut pause = Pause::default();
        let mut lengths = Vec::new();
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(59) {
            pause.begin(&error(Errno::MFILE));
            let begins = Instant::now();
            pause.wait().await;
            lengths.push(begins.elapsed().as_millis());
        }
        assert_eq!(lengths[..9], [5, 10, 20, 40, 80, 160, 320, 640, 1000]);
        assert!(lengths[9..].iter().all(|length| *length == 1000), "{lengths:?}");
        assert_eq!(log.lines(), [WARNING]);
        advance(Duration::from_secs(1)).await;
        pause.begin(&error(Errno::MFILE));
        assert_eq!(log.lines(), [WARNING, WARNING]);
        pause.end();
        pause.begin(&error(Errno::MFILE));
        assert_eq!(pause.length, Some(SHORTEST_PAUSE));
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_is_not_cut_short_by_a_caller_who_asks_again() {
        let (mut listeners, address) = tcp().await;
        let _waiting = TcpStream::connect(&address).await.expect("connected");
        listeners.pause.length = Some(LONGEST_PAUSE);
        listeners.pause.begin(&error(Errno::MFILE));
        for _ in 0..9 {
            let asked = tokio::time::timeout(Duration::from_millis(100), listeners.accept()).await;
            assert!(asked.is_err(), "the pause lasts a second");
        }
        let began = Instant::now();
        listeners.accept().await;
        assert_eq!(began.elapsed(), Duration::from_millis(100));
    }
}
