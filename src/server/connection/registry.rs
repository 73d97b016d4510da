//! All connections of the process.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicU64},
};

use tokio::sync::Notify;

use super::{
    account::{Account, Direction, Limits},
    incidents::Incidents,
    state::Connection,
};
use crate::server::{settings::ConnectionSettings, socket::PeerAddress, tls::TlsAcceptor};

/// The connections of the process, and the bytes that they hold together.
#[derive(Clone, Debug)]
pub(in crate::server) struct Connections(pub(super) Arc<Shared>);

/// What connections share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) settings: ConnectionSettings,
    pub(super) tls: Option<TlsAcceptor>,
    pub(super) limits: Limits,
    pub(super) held: Account,
    pub(super) incidents: Incidents,
    /// Streams that a drain cut because their clients did not read.
    pub(super) unread: AtomicU64,
    /// Calls that a drain cut at its end.
    pub(super) cut: AtomicU64,
    /// Told when a connection is opened or closed.
    pub(super) changed: Notify,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    /// Number of connections that were ever opened.
    opened: u64,
    connections: BTreeMap<u64, Arc<Connection>>,
}

impl Connections {
    pub(in crate::server) fn new(settings: ConnectionSettings, tls: Option<TlsAcceptor>) -> Self {
        let limits = Limits {
            received: bound(settings.max_inbound_bytes),
            to_send: bound(settings.max_outbound_bytes),
        };
        Self(Arc::new(Shared {
            settings,
            tls,
            limits,
            held: Account::default(),
            incidents: Incidents::default(),
            unread: AtomicU64::new(0),
            cut: AtomicU64::new(0),
            changed: Notify::new(),
            open: Mutex::default(),
        }))
    }

    /// A new connection, which is known until the result is dropped.
    pub(super) fn open(&self, peer: PeerAddress) -> OpenConnection {
        let connection = Arc::new(Connection::new(peer, self.0.clone()));
        let mut open = self.0.open();
        let number = open.opened;
        open.opened += 1;
        open.connections.insert(number, connection.clone());
        drop(open);
        self.0.changed.notify_one();
        OpenConnection { connection, number }
    }
}

impl Shared {
    /// The open connections.
    pub(super) fn connections(&self) -> Vec<Arc<Connection>> {
        self.open().connections.values().cloned().collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.open().connections.is_empty()
    }

    /// Has the connection that holds most give up some of it.
    pub(super) fn shed(&self, direction: Direction) {
        let heaviest = {
            let open = self.open();
            let living = open.connections.values().filter(|connection| !connection.is_closed());
            living.max_by_key(|connection| connection.held(direction)).cloned()
        };
        if let Some(heaviest) = heaviest {
            heaviest.shed(direction);
        }
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A bound of bytes. The machine's memory is a smaller one on machines of 32 bits.
fn bound(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// A connection that is open while this exists.
pub(super) struct OpenConnection {
    pub(super) connection: Arc<Connection>,
    number: u64,
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        let shared = self.connection.shared();
        shared.open().connections.remove(&self.number);
        shared.changed.notify_one();
    }
}
