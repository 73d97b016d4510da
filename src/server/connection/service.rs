//! The service of one connection: each call becomes a stream that can be counted and cut.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, Version, header::CONTENT_TYPE};
use http_body_util::Full;
use hyper::body::Incoming;
use tonic::body::Body;

use super::{
    body::{ReceivedBody, SentBody},
    state::Connection,
    stream::{OVERHEAD, Stream},
};
use crate::{
    api::{ApiError, GatewayReason, Lifetime},
    domain::{Caller, PeerIdentity},
    grpc::refusal,
    server::{socket::PeerAddress, wiring::Services},
};

/// What a client without HTTP/2 reads.
const UPGRADE_REQUIRED: &str = "This port speaks gRPC, which needs HTTP/2.\n";

/// 128 bytes: what a header takes beside its name and value. Without it, headers of a few bytes each would
/// fill fifty times the memory that is counted.
const HEADER_OVERHEAD: usize = 128;

/// The services of the port, as one connection calls them.
pub(super) struct ConnectionService {
    services: Services,
    connection: Arc<Connection>,
    identity: Option<PeerIdentity>,
    lifetime: Lifetime,
    caller: Caller,
}

impl ConnectionService {
    /// `identity` is the client's, if it has proved it.
    pub(super) fn new(
        services: Services,
        connection: Arc<Connection>,
        identity: Option<PeerIdentity>,
    ) -> Self {
        let lifetime = connection.phases.lifetime(connection.shared().settings.drain.spread);
        let caller = caller(connection.peer, identity.as_ref());
        Self { services, connection, identity, lifetime, caller }
    }
}

impl hyper::service::Service<Request<Incoming>> for ConnectionService {
    type Response = Response<SentBody<Body>>;
    type Error = Infallible;
    type Future = Call<<Services as tower::Service<Request<ReceivedBody>>>::Future>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        if request.version() < Version::HTTP_2 {
            // Not one that can be cut: its connection serves it by itself, and nothing else.
            let stream = Stream::new(self.connection.clone(), 0);
            return Call { state: State::Refused(Some(upgrade_required())), stream };
        }
        let stream = self.connection.open_stream(head_bytes(&request));
        if request.method() != Method::POST {
            return Call { state: State::Refused(Some(method_not_allowed())), stream };
        }
        request.extensions_mut().insert(self.lifetime.clone());
        request.extensions_mut().insert(self.caller.clone());
        if let Some(identity) = &self.identity {
            tracing::debug!(%identity, path = request.uri().path(), "a call");
            request.extensions_mut().insert(identity.clone());
        }
        let request = request.map(|body| ReceivedBody::new(body, stream.clone()));
        // The services are always ready.
        let call = tower::Service::call(&mut self.services.clone(), request);
        Call { state: State::Called(call), stream }
    }
}

/// A call of a connection.
pub(super) struct Call<F> {
    state: State<F>,
    stream: Arc<Stream>,
}

enum State<F> {
    Refused(Option<Response<Body>>),
    Called(F),
}

impl<F> Future for Call<F>
where
    F: Future<Output = Result<Response<Body>, Infallible>> + Unpin,
{
    type Output = Result<Response<SentBody<Body>>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let call = self.get_mut();
        if call.stream.is_refused() && matches!(call.state, State::Called(_)) {
            call.state = State::Refused(Some(too_many_bytes()));
        }
        let response = match &mut call.state {
            State::Refused(response) => response.take().unwrap_or_default(),
            State::Called(future) => match ready!(Pin::new(future).poll(cx)) {
                Ok(response) => response,
            },
        };
        call.stream.answer();
        Poll::Ready(Ok(response.map(|body| SentBody::new(body, call.stream.clone()))))
    }
}

/// The caller of all calls of a connection.
fn caller(peer: PeerAddress, identity: Option<&PeerIdentity>) -> Caller {
    if let Some(identity) = identity {
        return Caller::identified(identity.clone());
    }
    match peer {
        PeerAddress::Ip(address) => Caller::at(address.ip()),
        PeerAddress::Unix => Caller::local(),
    }
}

fn too_many_bytes() -> Response<Body> {
    refusal(ApiError::gateway(
        GatewayReason::TooManyBytes,
        "the gateway holds too many bytes of unanswered requests, and most of them are this connection's",
    ))
}

fn upgrade_required() -> Response<Body> {
    let body = Full::new(Bytes::from_static(UPGRADE_REQUIRED.as_bytes()));
    let response = Response::builder()
        .status(StatusCode::UPGRADE_REQUIRED)
        .header(http::header::UPGRADE, "h2c")
        .header(http::header::CONNECTION, "close")
        .header(CONTENT_TYPE, "text/plain; charset=utf-8")
        .body(Body::new(body));
    response.unwrap_or_default()
}

/// gRPC has no other method than POST. hyper would take any success that answers a CONNECT for a tunnel,
/// whose task is no call's.
fn method_not_allowed() -> Response<Body> {
    let response = Response::builder()
        .status(StatusCode::METHOD_NOT_ALLOWED)
        .header(http::header::ALLOW, "POST")
        .body(Body::empty());
    response.unwrap_or_default()
}

/// Bytes that the gateway holds for the head of a request, beside the [`OVERHEAD`] of its stream. That
/// includes the first headers.
fn head_bytes<B>(request: &Request<B>) -> usize {
    let uri = request.uri();
    let path = uri.path_and_query().map_or(0, |path| path.as_str().len());
    let authority = uri.authority().map_or(0, |authority| authority.as_str().len());
    let headers = request.headers();
    let texts: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    let entries = headers.len() * HEADER_OVERHEAD;
    path + authority + texts + entries.saturating_sub(OVERHEAD)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes_of(uri: &str, headers: usize) -> usize {
        let mut request = Request::builder().uri(uri);
        for number in 0..headers {
            request = request.header(format!("{number:03}"), "");
        }
        head_bytes(&request.body(()).expect("valid"))
    }

    /// Invariant 7 (docs/invariants.md): bounds
    #[test]
    fn all_that_a_peer_can_enlarge_of_a_head_counts() {
        assert_eq!(bytes_of("http://host/path", 0), 9);
        assert_eq!(bytes_of("http://host/path?a", 0), 11);
        assert_eq!(bytes_of("http://longer-host/path", 0), 16);
        assert_eq!(bytes_of("http://host/path", 8), 9 + 8 * 3, "the first are in the overhead");
        let (few, many) = (bytes_of("/", 100), bytes_of("/", 400));
        assert_eq!(many - few, 300 * (3 + HEADER_OVERHEAD));
    }
}
