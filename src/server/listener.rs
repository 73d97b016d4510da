//! The listener: accepts connections.

use std::{convert::Infallible, time::Duration};

use tokio::{net::TcpListener, time::sleep};

use super::{
    connection::{self, Connections},
    wiring::Services,
};

/// Pause after a connection could not be accepted.
const PAUSE: Duration = Duration::from_millis(100);

/// Accepts connections, and serves each on a task of its own.
pub(super) async fn accept(
    listener: TcpListener,
    connections: &Connections,
    services: &Services,
) -> Infallible {
    loop {
        let Ok((socket, peer)) = listener.accept().await else {
            sleep(PAUSE).await;
            continue;
        };
        // Each message should leave at once. Without the option it leaves a little later.
        let _ = socket.set_nodelay(true);
        connection::serve(connections, socket, peer, services.clone());
    }
}
