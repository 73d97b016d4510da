//! The admin listener: accepts HTTP/1.1 connections, few and short ones.

use std::{collections::VecDeque, time::Duration};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    task::{AbortHandle, JoinSet},
    time::timeout,
};
use tracing::debug;

use super::{accept::Listeners, socket::Socket};

/// Maximum number of open connections. Those of checks last for milliseconds, and a process with few
/// descriptors needs others for calls to EC2.
const MAX_CONNECTIONS: usize = 8;
/// Time within which the head of a request must arrive, the first one and each further one.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// Time after which a connection is closed, whatever it does.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(30);
/// 8 KiB: the longest head of a request, which is the least that hyper takes.
const MAX_HEAD_BYTES: usize = 8 << 10;

/// Serves for as long as it is polled. A connection over the bound takes the place of the oldest one, so
/// that silent connections hold up no check.
pub(super) async fn serve(mut listeners: Listeners, router: Router) {
    let mut connections = JoinSet::new();
    let mut open: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        let socket = tokio::select! {
            (socket, _) = listeners.accept() => socket,
            Some(_) = connections.join_next() => continue,
        };
        open.retain(|connection| !connection.is_finished());
        if open.len() >= MAX_CONNECTIONS
            && let Some(oldest) = open.pop_front()
        {
            oldest.abort();
        }
        open.push_back(connections.spawn(serve_connection(socket, router.clone())));
    }
}

async fn serve_connection(socket: Socket, router: Router) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(socket), TowerToHyperService::new(router));
    match timeout(CONNECTION_TIMEOUT, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%error, "a connection of the admin listener failed"),
        Err(_) => debug!("a connection of the admin listener was closed, since it lasted too long"),
    }
}
