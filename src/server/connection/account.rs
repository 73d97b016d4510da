//! Bytes that the gateway holds for its peers, counted by stream, connection and process.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Which way the bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    /// Received from the peer in requests that are not answered yet.
    Received,
    /// To be sent to the peer, which has not taken them yet.
    ToSend,
}

/// Bytes held, of each direction.
#[derive(Debug, Default)]
pub(super) struct Account {
    received: AtomicUsize,
    to_send: AtomicUsize,
}

impl Account {
    pub(super) fn held(&self, direction: Direction) -> usize {
        self.of(direction).load(Relaxed)
    }

    /// Adds bytes. Returns how many are held then.
    pub(super) fn hold(&self, direction: Direction, bytes: usize) -> usize {
        self.of(direction).fetch_add(bytes, Relaxed) + bytes
    }

    /// Takes off at most this many bytes. Returns how many there were to take off: those of a stream
    /// that was cut are taken off before their memory is released.
    pub(super) fn release(&self, direction: Direction, bytes: usize) -> usize {
        let held = self.of(direction);
        let mut current = held.load(Relaxed);
        loop {
            let released = current.min(bytes);
            match held.compare_exchange_weak(current, current - released, Relaxed, Relaxed) {
                Ok(_) => return released,
                Err(changed) => current = changed,
            }
        }
    }

    fn of(&self, direction: Direction) -> &AtomicUsize {
        match direction {
            Direction::Received => &self.received,
            Direction::ToSend => &self.to_send,
        }
    }
}

/// The most bytes of each direction that the process holds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) received: usize,
    pub(super) to_send: usize,
}

impl Limits {
    /// The most bytes of all connections together.
    pub(super) fn of_process(self, direction: Direction) -> usize {
        match direction {
            Direction::Received => self.received,
            Direction::ToSend => self.to_send,
        }
    }

    /// The most bytes of one connection: a quarter, so that no peer alone takes the room of all.
    pub(super) fn of_connection(self, direction: Direction) -> usize {
        self.of_process(direction) / 4
    }
}
