//! The state of one connection, shared by its task, its streams and the reaper.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::{
    account::{Account, Direction},
    incidents::Incident,
    registry::Shared,
    stream::Stream,
};
use crate::{
    api::{Phase, Phases},
    server::socket::PeerAddress,
};

/// The length of HTTP/2's connection preface (RFC 9113, section 3.4).
const PREFACE_BYTES: u64 = 24;

/// One connection.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) peer: PeerAddress,
    pub(super) opened: Instant,
    /// The age at which the peer is told to make its next calls elsewhere.
    pub(super) max_age: Duration,
    pub(super) phases: Phases,
    shared: Arc<Shared>,
    held: Account,
    socket: SocketState,
    streams: Mutex<Streams>,
    /// The stream whose call is being made. hyper makes a call, and has its future spawned right after
    /// it on the same task.
    opening: Mutex<Option<Arc<Stream>>>,
    observed: Mutex<Observed>,
}

/// What the reaper has seen of a connection.
#[derive(Debug, Default)]
pub(super) struct Observed {
    /// Bytes written, while the peer takes none.
    pub(super) written: Progress<u64>,
    /// Number of streams that were ever opened, while none is open.
    pub(super) idle: Progress<u64>,
    /// Bytes that went either way, while the connection only waits for its peer to take what there is.
    pub(super) traffic: Progress<u64>,
    /// Since when the connection only waits for that.
    pub(super) done_since: Option<Instant>,
    pub(super) drain: Option<DrainTimes>,
}

/// The times of a drain.
#[derive(Clone, Copy, Debug)]
pub(super) struct DrainTimes {
    pub(super) began: Instant,
    /// When unary calls that still wait for EC2 are answered.
    pub(super) last_call: Instant,
    /// When what is still in progress is cut.
    pub(super) end: Instant,
}

/// What has happened on a connection's socket.
#[derive(Debug, Default)]
struct SocketState {
    read: AtomicU64,
    written: AtomicU64,
    /// Whether the peer takes no more bytes at present.
    blocked: AtomicBool,
    /// Whether nothing more will be sent, and the peer has not ended yet.
    lingers: AtomicBool,
    /// Whether any call was answered.
    answered: AtomicBool,
}

/// The streams that are open on a connection.
#[derive(Debug, Default)]
pub(super) struct Streams {
    /// Number of streams that were ever opened.
    pub(super) opened: u64,
    /// The open ones by the order in which they were opened, each with what the reaper saw of it.
    pub(super) open: BTreeMap<u64, (Arc<Stream>, Progress<u64>)>,
}

/// Since when something has not changed, as far as the reaper has seen.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Progress<T>(Option<(T, Instant)>);

impl<T: PartialEq> Progress<T> {
    /// Since when the value has been what it is now.
    pub(super) fn unchanged_since(&mut self, value: T, now: Instant) -> Instant {
        match &self.0 {
            Some((last, since)) if *last == value => *since,
            _ => {
                self.0 = Some((value, now));
                now
            }
        }
    }

    pub(super) fn forget(&mut self) {
        self.0 = None;
    }
}

impl Connection {
    pub(super) fn new(peer: PeerAddress, shared: Arc<Shared>) -> Self {
        // Connections that were opened together, as after a restart, do not come again together.
        let max_age = shared.settings.max_age.mul_f64(0.9 + 0.2 * fastrand::f64());
        Self {
            peer,
            opened: Instant::now(),
            max_age,
            phases: Phases::default(),
            shared,
            held: Account::default(),
            socket: SocketState::default(),
            streams: Mutex::default(),
            opening: Mutex::default(),
            observed: Mutex::default(),
        }
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }

    pub(super) fn count(&self, incident: Incident) {
        self.shared.incidents.count(incident);
    }

    pub(super) fn held(&self, direction: Direction) -> usize {
        self.held.held(direction)
    }

    /// Counts bytes that are held for a stream of this connection. If they are too many, the connection
    /// that holds most loses its oldest stream.
    pub(super) fn hold(&self, direction: Direction, bytes: usize) {
        let of_connection = self.held.hold(direction, bytes);
        let of_process = self.shared.held.hold(direction, bytes);
        let limits = self.shared.limits;
        if of_connection > limits.of_connection(direction) {
            self.shed(direction);
        } else if of_process > limits.of_process(direction) {
            self.shared.shed(direction);
        }
    }

    pub(super) fn release(&self, direction: Direction, bytes: usize) {
        let released = self.held.release(direction, bytes);
        self.shared.held.release(direction, released);
    }

    /// Cuts the oldest stream that holds bytes. The connection is closed instead if that would not
    /// release them: HTTP/2 keeps what it has of a stream that has ended, and of a stream that is cut
    /// while the peer takes nothing from the socket.
    pub(super) fn shed(&self, direction: Direction) {
        let keeps_all = direction == Direction::ToSend && self.is_blocked();
        let oldest = if keeps_all { None } else { self.oldest_that_holds(direction) };
        match oldest {
            Some(stream) => {
                self.count(Incident::TooManyBytes);
                stream.cut();
            }
            None if !self.is_closed() => {
                self.count(Incident::TooManyBytesClosed);
                self.close();
            }
            None => {}
        }
    }

    /// Closes the connection. What it holds is released when its tasks have run, and no longer counts.
    pub(super) fn close(&self) {
        self.phases.advance(Phase::Closed);
        for direction in [Direction::Received, Direction::ToSend] {
            self.release(direction, usize::MAX);
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.phases.current() == Phase::Closed
    }

    fn oldest_that_holds(&self, direction: Direction) -> Option<Arc<Stream>> {
        let streams = self.streams();
        let mut open = streams.open.values().map(|(stream, _)| stream);
        let oldest = open
            .find(|stream| stream.held(direction) > 0 && !stream.has_ended() && !stream.is_cut());
        oldest.cloned()
    }

    pub(super) fn read(&self, bytes: usize) {
        self.socket.read.fetch_add(bytes as u64, Relaxed);
    }

    pub(super) fn wrote(&self, bytes: usize) {
        self.socket.written.fetch_add(bytes as u64, Relaxed);
        self.unblock();
    }

    pub(super) fn block(&self) {
        self.socket.blocked.store(true, Relaxed);
    }

    /// Nothing more will be sent.
    pub(super) fn linger(&self) {
        self.socket.lingers.store(true, Relaxed);
    }

    pub(super) fn lingers(&self) -> bool {
        self.socket.lingers.load(Relaxed)
    }

    /// A call has its response.
    pub(super) fn answer(&self) {
        self.socket.answered.store(true, Relaxed);
    }

    /// Whether the peer may still have to take what was written to its socket.
    pub(super) fn was_answered(&self) -> bool {
        self.socket.answered.load(Relaxed)
    }

    /// Bytes that went either way. They tell whether the peer is alive.
    pub(super) fn traffic(&self) -> u64 {
        self.socket.read.load(Relaxed) + self.socket.written.load(Relaxed)
    }

    pub(super) fn unblock(&self) {
        self.socket.blocked.store(false, Relaxed);
    }

    /// Whether the peer has said as much as the preface of HTTP/2 has bytes.
    pub(super) fn has_begun(&self) -> bool {
        self.socket.read.load(Relaxed) >= PREFACE_BYTES
    }

    pub(super) fn written(&self) -> u64 {
        self.socket.written.load(Relaxed)
    }

    pub(super) fn is_blocked(&self) -> bool {
        self.socket.blocked.load(Relaxed)
    }

    pub(super) fn observed(&self) -> MutexGuard<'_, Observed> {
        self.observed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn streams(&self) -> MutexGuard<'_, Streams> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a stream. The head of its request holds this many bytes. Its task takes it by
    /// [`Self::take_opened`].
    pub(super) fn open_stream(self: &Arc<Self>, head_bytes: usize) -> Arc<Stream> {
        let mut streams = self.streams();
        let number = streams.opened;
        streams.opened += 1;
        let stream = Stream::new(self.clone(), number);
        streams.open.insert(number, (stream.clone(), Progress::default()));
        drop(streams);
        *self.opening.lock().unwrap_or_else(PoisonError::into_inner) = Some(stream.clone());
        stream.begin(head_bytes);
        stream
    }

    /// The stream that was opened last.
    pub(super) fn take_opened(&self) -> Option<Arc<Stream>> {
        self.opening.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    pub(super) fn close_stream(&self, number: u64) {
        self.streams().open.remove(&number);
    }
}
