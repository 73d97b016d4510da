//! What takes too long on a connection, and the end of connections: one task looks at all of them.
//!
//! The rules are in [`check`]. A drain is the same for one connection that is too old or idle and for
//! all connections when the process stops.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use tokio::time::{Instant, sleep, timeout};

use super::{
    account::Direction,
    incidents::Incident,
    registry::{Connections, Shared},
    state::{Connection, DrainTimes, Observed},
    stream::Stream,
};
use crate::{api::Phase, server::settings::DrainSettings};

/// Interval between two looks at all connections.
const INTERVAL: Duration = Duration::from_secs(1);
/// The same in a drain.
const DRAIN_INTERVAL: Duration = Duration::from_millis(100);

/// Interval between two log lines about incidents.
const TELL_INTERVAL: Duration = Duration::from_mins(1);

/// Time in which a connection has to finish its TLS handshake and HTTP/2's preface.
pub(super) const HANDSHAKE: Duration = Duration::from_secs(10);

/// Time for which a peer may take nothing of what is sent to it.
const UNREAD: Duration = Duration::from_mins(1);
/// The same in a drain.
const UNREAD_IN_DRAIN: Duration = Duration::from_secs(5);

/// Time for which a peer may read what the system still holds for it. A peer can show that it is alive for
/// ever, for example by PINGs, and does not tell whether it reads.
const LINGERING: Duration = Duration::from_secs(10);

/// Time in a drain after which a connection without a complete request is closed. A peer that has begun
/// to speak HTTP/2 gets as long to answer the PING after GOAWAY: what it sent before that is served.
const NO_REQUEST: Duration = Duration::from_secs(1);

/// Time after which a connection that has been told to go away, and has no streams, is drained.
const GONE: Duration = Duration::from_secs(10);

/// Time before the end of a drain at which unary calls that still wait for EC2 are answered.
const LAST_CALL: Duration = Duration::from_secs(1);

/// How a drain of the process ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::server) struct Drained {
    /// Streams that were cut because their clients did not read.
    pub(in crate::server) unread: u64,
    /// Calls that were cut at the end of the drain timeout.
    pub(in crate::server) cut: u64,
}

impl Connections {
    /// Looks after all connections, until this is dropped.
    pub(in crate::server) async fn watch_over(&self) {
        let shared = &self.0;
        let mut told = Instant::now();
        loop {
            while shared.is_empty() {
                shared.incidents.tell();
                shared.changed.notified().await;
            }
            sleep(INTERVAL).await;
            let now = Instant::now();
            check_all(shared, now);
            if now >= told + TELL_INTERVAL {
                shared.incidents.tell();
                told = now;
            }
        }
    }

    /// Drains all connections. No further one may be opened.
    pub(in crate::server) async fn drain(&self, began: Instant) -> Drained {
        let shared = &self.0;
        shared.unread.store(0, Relaxed);
        shared.cut.store(0, Relaxed);
        let times = DrainTimes::after(began, shared.settings.drain);
        for connection in shared.connections() {
            begin_drain(&connection, &mut connection.observed(), times);
        }
        while !shared.is_empty() {
            // A connection that closes meanwhile may be the last.
            let _ = timeout(DRAIN_INTERVAL, shared.changed.notified()).await;
            check_all(shared, Instant::now());
        }
        shared.incidents.tell();
        Drained { unread: shared.unread.load(Relaxed), cut: shared.cut.load(Relaxed) }
    }
}

impl DrainTimes {
    fn after(began: Instant, settings: DrainSettings) -> Self {
        let end = began + settings.timeout;
        Self { began, last_call: end.checked_sub(LAST_CALL).unwrap_or(began), end }
    }
}

fn check_all(shared: &Shared, now: Instant) {
    for connection in shared.connections() {
        check(&connection, now);
    }
}

/// Applies the rules to one connection.
fn check(connection: &Connection, now: Instant) {
    if connection.is_closed() {
        // Its task has not ended yet.
        return;
    }
    let observed = &mut connection.observed();
    let patience = if observed.drain.is_some() { UNREAD_IN_DRAIN } else { UNREAD };
    if !connection.has_begun() && now >= connection.opened + HANDSHAKE {
        connection.count(Incident::Handshake);
        return connection.close();
    }
    if is_unread(connection, observed, patience, now) {
        connection.count(Incident::UnreadConnection);
        count_unread(connection, observed, connection.open_streams());
        return connection.close();
    }
    let unread = cut_unread_streams(connection, patience, now);
    count_unread(connection, observed, unread);
    match observed.drain {
        Some(times) => check_drain(connection, observed, times, now),
        None if connection.lingers() => check_lingering(connection, observed, now),
        None => check_age(connection, observed, now),
    }
}

/// Whether the peer has taken nothing for this long of what is sent to it.
fn is_unread(
    connection: &Connection,
    observed: &mut Observed,
    patience: Duration,
    now: Instant,
) -> bool {
    if !connection.is_blocked() {
        observed.written.forget();
        return false;
    }
    now >= observed.written.unchanged_since(connection.written(), now) + patience
}

/// Cuts the streams whose clients have taken nothing for this long. Returns their number.
fn cut_unread_streams(connection: &Connection, patience: Duration, now: Instant) -> u64 {
    let mut unread = 0;
    for stream in unread_streams(connection, patience, now) {
        connection.count(Incident::UnreadStream);
        stream.cut();
        unread += 1;
        if stream.has_ended() {
            // What it left is in HTTP/2's buffers, and goes with the connection alone.
            connection.close();
        }
    }
    unread
}

fn unread_streams(connection: &Connection, patience: Duration, now: Instant) -> Vec<Arc<Stream>> {
    let mut unread = Vec::new();
    for (stream, progress) in connection.streams().open.values_mut() {
        if stream.is_cut() || stream.held(Direction::ToSend) == 0 {
            progress.forget();
        } else if now >= progress.unchanged_since(stream.taken(), now) + patience {
            unread.push(stream.clone());
        }
    }
    unread
}

fn count_unread(connection: &Connection, observed: &Observed, streams: u64) {
    if observed.drain.is_some() {
        connection.shared().unread.fetch_add(streams, Relaxed);
    }
}

/// Has a connection that is idle or old drained.
fn check_age(connection: &Connection, observed: &mut Observed, now: Instant) {
    let settings = &connection.shared().settings;
    let idle_since =
        connection.idle_streams().map(|opened| observed.idle.unchanged_since(opened, now));
    let going_away = connection.phases.current() == Phase::GoingAway;
    let patience = if going_away { GONE.min(settings.idle) } else { settings.idle };
    let age = now - connection.opened;
    let is_idle = idle_since.is_some_and(|since| now >= since + patience);
    if is_idle || age >= connection.max_age + settings.max_age_grace {
        begin_drain(connection, observed, DrainTimes::after(now, settings.drain));
    } else if age >= connection.max_age {
        connection.phases.advance(Phase::GoingAway);
    }
}

fn begin_drain(connection: &Connection, observed: &mut Observed, times: DrainTimes) {
    observed.drain.get_or_insert(times);
    // Nothing that the peer has said so far is a request.
    let phase = if connection.has_begun() { Phase::Ending } else { Phase::Closed };
    connection.phases.advance(phase);
}

fn check_drain(connection: &Connection, observed: &mut Observed, times: DrainTimes, now: Instant) {
    if now >= times.end {
        let cut = connection.calls_in_progress();
        connection.shared().cut.fetch_add(cut, Relaxed);
        connection.close();
    } else if now >= times.began + NO_REQUEST && is_over(connection, observed, now) {
        connection.close();
    } else if now >= times.last_call {
        connection.phases.advance(Phase::LastCall);
    }
}

/// Whether there is nothing more to do for the peer. One that was answered may still be reading what the
/// system holds for it, as long as it shows that it is alive.
fn is_over(connection: &Connection, observed: &mut Observed, now: Instant) -> bool {
    if !connection.is_done() {
        observed.done_since = None;
        observed.traffic.forget();
        return false;
    }
    let done_since = *observed.done_since.get_or_insert(now);
    let quiet_since = observed.traffic.unchanged_since(connection.traffic(), now);
    !connection.was_answered()
        || now >= quiet_since + UNREAD_IN_DRAIN
        || now >= done_since + LINGERING
}

/// Closes a connection to which nothing more is sent, once its peer has had time to read the rest.
fn check_lingering(connection: &Connection, observed: &mut Observed, now: Instant) {
    if is_over(connection, observed, now) {
        connection.close();
    }
}

impl Connection {
    /// If no stream is open, the number of those that ever were.
    fn idle_streams(&self) -> Option<u64> {
        let streams = self.streams();
        streams.open.is_empty().then_some(streams.opened)
    }

    fn open_streams(&self) -> u64 {
        self.streams().open.len() as u64
    }

    /// Number of calls in progress. A request that has not arrived is none.
    fn calls_in_progress(&self) -> u64 {
        let streams = self.streams();
        let open = streams.open.values();
        open.filter(|(stream, _)| stream.is_in_progress() && !stream.is_cut()).count() as u64
    }

    /// Whether no call is in progress, and the peer has taken all answers.
    fn is_done(&self) -> bool {
        self.calls_in_progress() == 0 && self.held(Direction::ToSend) == 0 && !self.is_blocked()
    }
}
