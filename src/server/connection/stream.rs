//! The state of one stream: a call on a connection.

use std::{
    sync::{
        Arc,
        atomic::{
            AtomicBool, AtomicU64,
            Ordering::{Relaxed, SeqCst},
            fence,
        },
    },
    task::Context,
};

use futures_util::task::AtomicWaker;

use super::{
    account::{Account, Direction},
    state::Connection,
};

/// 1 KiB: what a stream takes beside its bytes, while its request is not answered or its answer not
/// taken.
pub(super) const OVERHEAD: usize = 1 << 10;

/// 128 KiB: bytes to be sent on a connection from which on a stream is not asked for more until its
/// client has taken what there is. Below it, an answer and its status leave in one write.
const CONGESTED: usize = 128 << 10;

/// One call.
#[derive(Debug)]
pub(super) struct Stream {
    connection: Arc<Connection>,
    /// The place of the stream among those of its connection.
    number: u64,
    held: Account,
    /// Bytes of the answer that have been written to the connection.
    taken: AtomicU64,
    request_complete: AtomicBool,
    answered: AtomicBool,
    /// Whether the task of the stream has ended. HTTP/2 may still have to send what it left.
    ended: AtomicBool,
    /// Whether the body waits until the client has taken what there is.
    waiting: AtomicBool,
    cut: AtomicBool,
    task: AtomicWaker,
}

impl Stream {
    /// A new stream with this number.
    pub(super) fn new(connection: Arc<Connection>, number: u64) -> Arc<Self> {
        Arc::new(Self {
            connection,
            number,
            held: Account::default(),
            taken: AtomicU64::new(0),
            request_complete: AtomicBool::new(false),
            answered: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            waiting: AtomicBool::new(false),
            cut: AtomicBool::new(false),
            task: AtomicWaker::new(),
        })
    }

    /// Counts what the head of the request and the stream itself take.
    pub(super) fn begin(&self, head_bytes: usize) {
        self.hold(Direction::Received, OVERHEAD + head_bytes);
    }

    /// Counts bytes that the gateway holds for this stream from now on.
    pub(super) fn hold(&self, direction: Direction, bytes: usize) {
        self.held.hold(direction, bytes);
        self.connection.hold(direction, bytes);
    }

    pub(super) fn held(&self, direction: Direction) -> usize {
        self.held.held(direction)
    }

    /// Counts bytes as no longer held.
    pub(super) fn release(&self, direction: Direction, bytes: usize) {
        let released = self.held.release(direction, bytes);
        self.connection.release(direction, released);
    }

    /// Counts bytes of the answer as written to the connection.
    pub(super) fn take(&self, bytes: usize) {
        self.taken.fetch_add(bytes as u64, Relaxed);
        self.release(Direction::ToSend, bytes);
    }

    pub(super) fn taken(&self) -> u64 {
        self.taken.load(Relaxed)
    }

    /// If the client has taken what there is: wakes a body that waits for that, and closes a stream
    /// that has ended.
    pub(super) fn go_on_if_taken(&self) {
        // Beside the fences of has_to_wait and end: one of the two sees what the other has written.
        fence(SeqCst);
        if self.held(Direction::ToSend) > 0 {
            return;
        }
        if self.waiting.swap(false, Relaxed) {
            self.task.wake();
        }
        if self.ended.load(Relaxed) {
            self.connection.close_stream(self.number);
        }
    }

    /// The task of the stream has ended. The stream is open until the client has taken what it left.
    pub(super) fn end(&self) {
        self.ended.store(true, Relaxed);
        self.go_on_if_taken();
        self.release(Direction::Received, usize::MAX);
    }

    /// Whether the task of the stream has ended, so that it cannot be cut any more.
    pub(super) fn has_ended(&self) -> bool {
        self.ended.load(Relaxed)
    }

    /// Whether the body has to wait until the client has taken what there is. It is polled again then.
    pub(super) fn has_to_wait(&self) -> bool {
        if self.connection.is_closed() {
            // It goes away, and what waits with it.
            return true;
        }
        if self.connection.held(Direction::ToSend) <= CONGESTED {
            return false;
        }
        self.waiting.store(true, Relaxed);
        fence(SeqCst);
        if self.held(Direction::ToSend) > 0 {
            return true;
        }
        self.waiting.store(false, Relaxed);
        false
    }

    /// Counts bytes of the request. Those of a call that is answered already, as in reflection, are
    /// consumed one message after the other.
    pub(super) fn receive(&self, bytes: usize) {
        if self.answered.load(Relaxed) {
            return;
        }
        self.hold(Direction::Received, bytes);
        // Beside the fence of go_on_if_taken, after which `end` releases what is there.
        fence(SeqCst);
        if self.ended.load(Relaxed) {
            self.release(Direction::Received, usize::MAX);
        }
    }

    pub(super) fn complete_request(&self) {
        self.request_complete.store(true, Relaxed);
    }

    /// Whether the whole request has arrived, or the call is answered before that, as in reflection.
    pub(super) fn is_in_progress(&self) -> bool {
        self.request_complete.load(Relaxed) || self.answered.load(Relaxed)
    }

    /// The call has its response. What was received for it is no longer held.
    pub(super) fn answer(&self) {
        self.answered.store(true, Relaxed);
        self.connection.answer();
        self.release(Direction::Received, usize::MAX);
    }

    /// Cuts the stream: refused if it has no response yet, else reset. What it has to send is held until
    /// HTTP/2 has dropped it.
    pub(super) fn cut(&self) {
        if !self.cut.swap(true, Relaxed) {
            self.release(Direction::Received, usize::MAX);
            self.task.wake();
        }
    }

    /// Whether the stream was cut before it had a response.
    pub(super) fn is_refused(&self) -> bool {
        self.is_cut() && !self.answered.load(Relaxed)
    }

    /// Whether the stream was cut after it had a response.
    pub(super) fn is_reset(&self) -> bool {
        self.is_cut() && self.answered.load(Relaxed)
    }

    pub(super) fn is_cut(&self) -> bool {
        self.cut.load(Relaxed)
    }

    /// Has the stream's task woken when the stream is cut.
    pub(super) fn wake_on_cut(&self, cx: &Context<'_>) {
        self.task.register(cx.waker());
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use bytes::Buf as _;
    use proptest::prelude::*;

    use super::*;
    use crate::server::{
        connection::{body::SentData, registry::Connections},
        settings::ConnectionSettings,
        socket::PeerAddress,
    };

    /// What happens to one of the streams of a connection.
    #[derive(Clone, Copy, Debug)]
    enum Event {
        Open(usize),
        Receive(usize, usize),
        Answer(usize),
        Send(usize, usize),
        /// HTTP/2 writes bytes of the oldest data of all.
        Write(usize),
        /// HTTP/2 throws the newest data away.
        Discard,
        Cut(usize),
        End(usize),
    }

    fn event() -> impl Strategy<Value = Event> {
        let stream = 0..20_usize;
        let bytes = prop_oneof![0..100_usize, 100_000..6_000_000_usize];
        prop_oneof![
            3 => bytes.clone().prop_map(Event::Open),
            3 => (stream.clone(), bytes.clone()).prop_map(|(of, bytes)| Event::Receive(of, bytes)),
            2 => stream.clone().prop_map(Event::Answer),
            4 => (stream.clone(), bytes.clone()).prop_map(|(of, bytes)| Event::Send(of, bytes)),
            2 => bytes.prop_map(Event::Write),
            1 => Just(Event::Discard),
            1 => stream.clone().prop_map(Event::Cut),
            1 => stream.prop_map(Event::End),
        ]
    }

    /// Streams of one connection, and the data that HTTP/2 has of them.
    #[derive(Default)]
    struct Calls {
        streams: Vec<Arc<Stream>>,
        sent: VecDeque<SentData>,
    }

    impl Calls {
        fn apply(&mut self, event: Event, connection: &Arc<Connection>) -> Option<()> {
            match event {
                Event::Open(bytes) => self.streams.push(connection.open_stream(bytes)),
                Event::Receive(of, bytes) => self.streams.get(of)?.receive(bytes),
                Event::Answer(of) => self.streams.get(of)?.answer(),
                Event::Send(of, bytes) => self.send(of, bytes)?,
                Event::Write(bytes) => self.write(bytes)?,
                Event::Discard => drop(self.sent.pop_back()),
                Event::Cut(of) => self.streams.get(of)?.cut(),
                Event::End(of) => self.streams.get(of)?.end(),
            }
            Some(())
        }

        fn send(&mut self, of: usize, bytes: usize) -> Option<()> {
            let stream = self.streams.get(of)?;
            if !stream.has_ended() {
                self.sent.push_back(SentData::new(vec![0; bytes].into(), stream.clone()));
            }
            Some(())
        }

        fn write(&mut self, bytes: usize) -> Option<()> {
            let data = self.sent.front_mut()?;
            data.advance(bytes.min(data.remaining()));
            if !data.has_remaining() {
                self.sent.pop_front();
            }
            Some(())
        }

        fn held(&self, direction: Direction) -> usize {
            self.streams.iter().map(|stream| stream.held(direction)).sum()
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 500, rng_seed: proptest::test_runner::RngSeed::Fixed(1), failure_persistence: None, ..ProptestConfig::default() })]

        /// Invariant 7 (docs/invariants.md): bounds
        #[test]
        fn once_all_streams_have_ended_nothing_is_held(
            events in prop::collection::vec(event(), 0..80)
        ) {
            let connections = Connections::new(ConnectionSettings::default(), None);
            let open = connections.open(PeerAddress::Unix);
            let connection = &open.connection;
            let mut calls = Calls::default();
            for event in events {
                calls.apply(event, connection);
                for direction in [Direction::Received, Direction::ToSend] {
                    let sum = calls.held(direction);
                    let held = connection.held(direction);
                    // What a closed connection holds no longer counts.
                    prop_assert!(held == sum || connection.is_closed(), "{held} of {sum}");
                    prop_assert_eq!(connection.shared().held.held(direction), held);
                }
            }
            for stream in calls.streams.iter().filter(|stream| !stream.has_ended()) {
                stream.end();
            }
            calls.sent.clear();
            for direction in [Direction::Received, Direction::ToSend] {
                prop_assert_eq!(connection.held(direction), 0);
                prop_assert_eq!(connection.shared().held.held(direction), 0);
            }
            prop_assert!(connection.streams().open.is_empty());
        }
    }
}
