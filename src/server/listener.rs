//! The listener: accepts connections.

use std::convert::Infallible;

use super::{
    accept::Listeners,
    connection::{self, Connections},
    connection_limit::ConnectionLimit,
    wiring::Services,
};

/// Accepts connections within their bound, and serves each on a task of its own.
pub(super) async fn accept(
    mut listeners: Listeners,
    mut limit: ConnectionLimit,
    connections: &Connections,
    services: &Services,
) -> Infallible {
    loop {
        let permit = limit.place().await;
        let (socket, peer) = listeners.accept().await;
        connection::serve(connections, socket, peer, permit, services.clone());
    }
}
