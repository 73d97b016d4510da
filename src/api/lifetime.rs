//! How the calls of a connection learn that it ends.

use std::time::Duration;

use tokio::{
    sync::watch::{Receiver, Sender, channel},
    time::Instant,
};

/// How far a connection is on its way to its end. It only ever goes forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// The connection takes calls.
    Open,
    /// The peer has been told to make its next calls elsewhere. Calls go on.
    GoingAway,
    /// Watches end. Unary calls go on.
    Ending,
    /// Unary calls that still wait for EC2 are answered now.
    LastCall,
    /// The connection is closed, whatever is still in progress.
    Closed,
}

/// Moves a connection forward through its phases.
#[derive(Debug)]
pub struct Phases(Sender<Phase>);

impl Default for Phases {
    fn default() -> Self {
        Self(channel(Phase::Open).0)
    }
}

impl Phases {
    /// The phase of the connection.
    #[must_use]
    pub fn current(&self) -> Phase {
        *self.0.borrow()
    }

    /// Enters this phase, unless the connection is already past it.
    pub fn advance(&self, to: Phase) {
        self.0.send_if_modified(|phase| {
            let forward = *phase < to;
            *phase = to.max(*phase);
            forward
        });
    }

    /// The connection's life as its calls see it. Watches end one after the other within `spread`.
    #[must_use]
    pub fn lifetime(&self, spread: Duration) -> Lifetime {
        Lifetime { phase: self.0.subscribe(), spread }
    }
}

/// The life of the connection on which a call came. The default one, of a call without a connection, never
/// ends.
#[derive(Clone, Debug)]
pub struct Lifetime {
    phase: Receiver<Phase>,
    spread: Duration,
}

impl Default for Lifetime {
    fn default() -> Self {
        Phases::default().lifetime(Duration::ZERO)
    }
}

impl Lifetime {
    /// Waits until the connection has entered this phase or a later one.
    pub async fn reached(&mut self, phase: Phase) {
        // Without a sender there is no connection whose phase could change. A connection keeps its sender
        // for as long as it has calls.
        if self.phase.wait_for(|current| *current >= phase).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Whether the connection has entered this phase or a later one.
    #[must_use]
    pub fn has_reached(&self, phase: Phase) -> bool {
        *self.phase.borrow() >= phase
    }

    /// Waits until this watch has to end: when watches end, and a time of its own later. No client
    /// library delays its next call on a stream that had begun (gRFC A6), so the server spreads them.
    pub async fn watch_ends(&mut self) {
        self.reached(Phase::Ending).await;
        let end = Instant::now() + self.spread.mul_f64(fastrand::f64());
        tokio::select! {
            () = tokio::time::sleep_until(end) => {}
            () = self.reached(Phase::LastCall) => {}
        }
    }
}
