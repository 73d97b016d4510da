//! The simulator's HTTP server.

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited, StreamBody, combinators::BoxBody};
use hyper::{
    Request, Response,
    body::{Frame, Incoming},
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::sleep,
};

use super::{Reply, Simulator, Wire, query::Call};

/// Larger requests are refused: EC2's own are a few KiB.
const LARGEST_REQUEST: usize = 1 << 20;

/// Why a connection closes without an answer.
#[derive(Debug, thiserror::Error)]
#[error("closed on purpose")]
struct Closed;

type Body = BoxBody<Bytes, Closed>;

/// Answers calls until `shutdown` is done. All connections end with it.
pub async fn serve(
    simulator: Arc<Simulator>,
    listener: TcpListener,
    shutdown: impl Future<Output = ()>,
) {
    let mut connections = JoinSet::new();
    tokio::pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => return,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(connection(simulator.clone(), stream));
                }
                Err(error) => {
                    // Out of file descriptors, mostly: a pause gives others the time to close some.
                    tracing::warn!(%error, "the simulator cannot accept a connection");
                    sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

async fn connection(simulator: Arc<Simulator>, stream: TcpStream) {
    // Without it an answer would wait for the acknowledgement of what went before.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "no TCP_NODELAY");
    }
    let service = service_fn(move |request| answer(simulator.clone(), request));
    let served = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a connection to the simulator ended");
    }
}

async fn answer(
    simulator: Arc<Simulator>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Closed> {
    let (parts, body) = request.into_parts();
    let Ok(body) = Limited::new(body, LARGEST_REQUEST).collect().await else {
        return Ok(page(413, "text/plain", "the request is too large".to_owned()));
    };
    let authorization = parts.headers.get("authorization").and_then(|header| header.to_str().ok());
    let call = Call::new(authorization, parts.uri.query().unwrap_or_default(), &body.to_bytes());
    let reply = simulator.reply(&call);
    sleep(simulator.settings.latency).await;
    match reply {
        Reply::Body { status, request_id, body } => {
            let mut response = page(status, "text/xml;charset=UTF-8", body);
            // EC2 says it in the header too, which is where SDKs read it.
            if let Ok(value) = http::HeaderValue::try_from(request_id) {
                response.headers_mut().insert("x-amzn-requestid", value);
            }
            Ok(response)
        }
        Reply::Broken(Wire::Html(status)) => {
            Ok(page(status, "text/html", "<html><body>Bad Gateway</body></html>".to_owned()))
        }
        Reply::Broken(Wire::Reset) => Err(Closed),
        Reply::Broken(Wire::Truncated) => Ok(truncated()),
        Reply::Broken(Wire::MalformedXml) => {
            Ok(page(200, "text/xml;charset=UTF-8", "<DescribeStoreImageTasksResponse><".to_owned()))
        }
        Reply::Broken(Wire::Stall(pause)) => {
            sleep(pause).await;
            Err(Closed)
        }
    }
}

fn page(status: u16, content_type: &str, body: String) -> Response<Body> {
    Response::builder()
        .status(status)
        .header("content-type", content_type)
        .body(Full::from(body).map_err(|never: Infallible| match never {}).boxed())
        .expect("a status and a header that are valid")
}

/// A body that breaks off.
fn truncated() -> Response<Body> {
    let beginning = Bytes::from_static(b"<DescribeStoreImageTasksResponse><requestId>");
    let frames = futures_util::stream::iter([Ok(Frame::data(beginning)), Err(Closed)]);
    let mut response = Response::new(BodyExt::boxed(StreamBody::new(frames)));
    response.headers_mut().insert("content-length", http::HeaderValue::from_static("4096"));
    response
}
