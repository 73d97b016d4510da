//! The listener: the TCP connections that the gRPC server accepts.

use tokio::net::TcpListener;
use tonic::transport::server::TcpIncoming;

/// The connections of a listener. Nagle's algorithm is off, since each message should leave at once.
pub(super) fn incoming(listener: TcpListener) -> TcpIncoming {
    TcpIncoming::from(listener).with_nodelay(Some(true))
}
