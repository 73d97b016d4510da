//! Serves one connection, from its first byte to its end.

use std::{error::Error, pin::pin, sync::Arc, time::Duration};

use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::conn::auto::Builder,
};
use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    executor::StreamExecutor,
    incidents::Incident,
    io::ObservedSocket,
    reaper::HANDSHAKE,
    registry::{Connections, OpenConnection},
    service::ConnectionService,
    state::Connection,
};
use crate::{
    api::Phase,
    domain::PeerIdentity,
    server::{connection_limit::ConnectionPermit, socket::PeerAddress, wiring::Services},
};

/// Maximum number of streams that one connection may have open at once. A client library that keeps
/// one connection must be able to open thousands of watches on it. `max_watches` bounds the watches
/// of all connections together.
const STREAMS_PER_CONNECTION: u32 = 10_000;

/// Interval at which an idle connection is probed with an HTTP/2 PING.
const KEEPALIVE_INTERVAL: Duration = Duration::from_mins(1);
/// Time after which a connection without an answer to a PING is closed.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// 64 KiB: the size of headers from which on HTTP/2 itself refuses a request, without a gRPC status.
/// The edge refuses smaller ones with one.
const HTTP2_HEADER_BYTES: u32 = 64 << 10;

/// 32 KiB: what a client may send of one request before the gateway reads it. Few requests are larger.
const STREAM_WINDOW: u32 = 32 << 10;
/// 1 MiB: the same for all requests of a connection. Requests are read at once, so this is no memory that
/// a peer can hold. But h2 takes half of it as the most that small frames may cost which are not read
/// yet, and ends a connection that has more: 2,000 requests that come together.
const CONNECTION_WINDOW: u32 = 1 << 20;

/// Streams that a client may reset before the gateway has looked at them. A client that cancels a
/// thousand calls at once stays below it; a flood does not, and ends its connection.
const PENDING_RESETS: usize = 2_048;

/// 16 KiB: the largest headers that are read of a request of HTTP/1.1.
const HTTP1_BUFFER: usize = 16 << 10;

/// Opens a connection, and serves it on a task of its own.
pub(in crate::server) fn serve<I>(
    connections: &Connections,
    socket: I,
    peer: PeerAddress,
    permit: ConnectionPermit,
    services: Services,
) where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let connection = run(connections.open(peer), socket, services);
    tokio::spawn(async move {
        connection.await;
        drop(permit);
    });
}

async fn run<I>(open: OpenConnection, socket: I, services: Services)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let connection = &open.connection;
    let Some(tls) = &connection.shared().tls else {
        return serve_http(connection, socket, None, services).await;
    };
    let mut lifetime = connection.phases.lifetime(Duration::ZERO);
    let accepted = tokio::select! {
        accepted = tls.accept(socket, &connection.peer) => accepted,
        // The handshake takes too long, or the process stops.
        () = lifetime.reached(Phase::Closed) => return,
    };
    // If the client is refused, the acceptor has logged why.
    if let Ok((socket, identity)) = accepted {
        serve_http(connection, socket, identity, services).await;
    }
}

async fn serve_http<I>(
    connection: &Arc<Connection>,
    socket: I,
    identity: Option<PeerIdentity>,
    services: Services,
) where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut lifetime = connection.phases.lifetime(Duration::ZERO);
    let socket = TokioIo::new(ObservedSocket::new(socket, connection.clone()));
    let service = ConnectionService::new(services, connection.clone(), identity);
    let builder = builder(StreamExecutor(connection.clone()));
    let mut http = pin!(builder.serve_connection(socket, service));
    let ended = tokio::select! {
        ended = http.as_mut() => ended,
        () = lifetime.reached(Phase::GoingAway) => {
            http.as_mut().graceful_shutdown();
            tokio::select! {
                // What calls have left is written before the connection is closed.
                biased;
                ended = http.as_mut() => ended,
                () = lifetime.reached(Phase::Closed) => return,
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(peer = %connection.peer, %error, "a connection ended with an error");
        if let Some(incident) = incident(&*error) {
            connection.count(incident);
        }
    }
}

fn builder(executor: StreamExecutor) -> Builder<StreamExecutor> {
    let mut builder = Builder::new(executor);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_PER_CONNECTION)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(HTTP2_HEADER_BYTES)
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT);
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HANDSHAKE)
        .max_buf_size(HTTP1_BUFFER)
        .keep_alive(false);
    builder
}

/// What a connection's error says about its peer. That it broke off says nothing.
fn incident(error: &(dyn Error + 'static)) -> Option<Incident> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<hyper::Error>()
            && error.is_timeout()
        {
            return Some(Incident::KeepaliveTimeout);
        }
        if let Some(error) = error.downcast_ref::<h2::Error>()
            && error.is_library()
        {
            let is_flood = error.reason() == Some(h2::Reason::ENHANCE_YOUR_CALM);
            return Some(if is_flood { Incident::Http2Flood } else { Incident::Http2Misuse });
        }
        cause = error.source();
    }
    None
}
