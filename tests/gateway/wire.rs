//! A client that sends any bytes as a gRPC request, and reads the answer as it stands on the wire.

use std::{convert::Infallible, net::SocketAddr};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::BoxBody};
use hyper::{body::Frame, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::net::TcpStream;
use tonic::Status;

use crate::support::Rig;

pub(crate) const LIST: &str = "/amistore.v1.StoreImageTaskService/ListStoreImageTasks";
pub(crate) const WATCH: &str = "/amistore.v1.StoreImageTaskService/WatchStoreImageTask";
pub(crate) const HEALTH: &str = "/grpc.health.v1.Health/Check";
pub(crate) const REFLECTION: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";

/// Bytes that HTTP/2 counts for a header beside its name and value (RFC 9113, section 10.5.1).
const HEADER_OVERHEAD: usize = 32;

pub(crate) type Body = BoxBody<Bytes, Infallible>;

/// An answer to a raw request.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) http: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) data: Bytes,
    pub(crate) trailers: HeaderMap,
}

impl Answer {
    /// The header block that carries the gRPC status.
    fn status_headers(&self) -> &HeaderMap {
        if self.headers.contains_key("grpc-status") { &self.headers } else { &self.trailers }
    }

    pub(crate) fn status(&self) -> Status {
        Status::from_header_map(self.status_headers()).expect("a grpc-status")
    }

    /// Size of the header block with the status, as HTTP/2 counts it.
    pub(crate) fn status_bytes(&self) -> usize {
        header_bytes(self.status_headers())
    }
}

/// Size of a header block, as HTTP/2 counts it.
pub(crate) fn header_bytes(headers: &HeaderMap) -> usize {
    let mut bytes = 0;
    for (name, value) in headers {
        bytes += name.as_str().len() + value.len() + HEADER_OVERHEAD;
    }
    bytes
}

/// A gRPC request with these extra headers. A header replaces the one that a client sends by default.
pub(crate) fn request(path: &str, headers: &[(&'static str, &str)], body: Body) -> Request<Body> {
    let mut request = Request::post(format!("http://gateway{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(body)
        .expect("a valid request");
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse().expect("a valid value"));
    }
    request
}

/// Sends a request on a connection of its own, while the clock runs.
pub(crate) async fn send(rig: &Rig, request: Request<Body>) -> Answer {
    rig.until(exchange(rig.address, request)).await
}

/// Sends a request on a connection of its own.
pub(crate) async fn exchange(address: SocketAddr, request: Request<Body>) -> Answer {
    let stream = TcpStream::connect(address).await.expect("the gateway listens");
    let (mut sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("HTTP/2");
    let connection = tokio::spawn(connection);
    let response = sender.send_request(request).await.expect("an answer");
    let (parts, body) = response.into_parts();
    let body = body.collect().await.expect("a whole answer");
    connection.abort();
    let trailers = body.trailers().cloned().unwrap_or_default();
    Answer { http: parts.status, headers: parts.headers, data: body.to_bytes(), trailers }
}

/// A body of these bytes.
pub(crate) fn bytes(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).boxed()
}

/// A body that comes in these pieces.
pub(crate) fn pieces<P>(pieces: P) -> Body
where
    P: Stream<Item = Bytes> + Send + Sync + 'static,
{
    let frames = pieces.map(|piece| Ok(Frame::data(piece)));
    Body::new(StreamBody::new(frames))
}

/// A body that begins with these bytes and never ends.
pub(crate) fn endless(bytes: impl Into<Bytes>) -> Body {
    let bytes = bytes.into();
    pieces(stream::once(async { bytes }).chain(stream::pending()))
}

/// A body of these bytes and trailers.
pub(crate) fn with_trailers(bytes: Bytes, trailers: HeaderMap) -> Body {
    Full::new(bytes).with_trailers(async { Some(Ok(trailers)) }).boxed()
}

/// A body with one uncompressed message.
pub(crate) fn message(message: &impl Message) -> Body {
    framed(0, &message.encode_to_vec())
}

/// A body with one message: the compression flag, the length and the bytes.
pub(crate) fn framed(flag: u8, message: &[u8]) -> Body {
    bytes([&prefix(flag, message.len()), message].concat())
}

/// The prefix of a message: the compression flag and the length.
pub(crate) fn prefix(flag: u8, length: usize) -> [u8; 5] {
    let mut prefix = [flag; 5];
    let length = u32::try_from(length).expect("fits");
    prefix[1..].copy_from_slice(&length.to_be_bytes());
    prefix
}
