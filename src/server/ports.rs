//! What a gateway listens on.

use tokio::net::TcpListener;

use super::accept::Listeners;

/// The listeners of a gateway.
#[derive(Debug)]
pub struct Ports {
    /// Those of the gRPC services.
    pub grpc: Listeners,
    /// That of the admin listener, if there is one.
    pub admin: Option<Listeners>,
}

impl From<Listeners> for Ports {
    fn from(grpc: Listeners) -> Self {
        Self { grpc, admin: None }
    }
}

impl From<TcpListener> for Ports {
    fn from(listener: TcpListener) -> Self {
        Listeners::from(listener).into()
    }
}
