//! A client that sends any bytes as a gRPC request, and reads the answer as it stands on the wire.

use std::convert::Infallible;

use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::stream;
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

/// Sends a request on a connection of its own.
pub(crate) async fn send(rig: &Rig, request: Request<Body>) -> Answer {
    let address = rig.address;
    let exchange = async move {
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
    };
    rig.until(exchange).await
}

/// A body of these bytes.
pub(crate) fn bytes(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).boxed()
}

/// A body that ends nowhere.
pub(crate) fn endless() -> Body {
    StreamBody::new(stream::pending::<Result<Frame<Bytes>, Infallible>>()).boxed()
}

/// A body with one uncompressed message.
pub(crate) fn message(message: &impl Message) -> Body {
    framed(0, &message.encode_to_vec())
}

/// A body with one message: the compression flag, the length and the bytes.
pub(crate) fn framed(flag: u8, message: &[u8]) -> Body {
    let mut frame = BytesMut::new();
    frame.put_u8(flag);
    frame.put_u32(u32::try_from(message.len()).expect("fits"));
    frame.put_slice(message);
    bytes(frame)
}
