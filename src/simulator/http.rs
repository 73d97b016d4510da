//! The simulator's HTTP server.

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header::AUTHORIZATION};
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

use super::{ec2::Simulator, fault::Wire, query::Call, reply::Reply};

/// 1 MiB: the largest request body that is read. EC2's requests have a few KiB.
const MAX_REQUEST_BYTES: usize = 1 << 20;

/// The error that makes hyper close a connection without an answer.
#[derive(Debug, thiserror::Error)]
#[error("closed on purpose")]
struct Closed;

type Body = BoxBody<Bytes, Closed>;

/// Answers calls until `shutdown` completes. Then all connections close.
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
                    // The cause is mostly too many open files. During the pause, other connections
                    // may close some.
                    tracing::warn!(%error, "the simulator cannot accept a connection");
                    sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

async fn connection(simulator: Arc<Simulator>, stream: TcpStream) {
    // Without TCP_NODELAY an answer would wait for the acknowledgement of earlier packets.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "cannot set TCP_NODELAY");
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
    let Ok(body) = Limited::new(body, MAX_REQUEST_BYTES).collect().await else {
        let message = format!("expected a request of at most {MAX_REQUEST_BYTES} bytes");
        return Ok(page(413, "text/plain", message));
    };
    let query = parts.uri.query().unwrap_or_default();
    let call = Call::new(authorization(&parts.headers), query, &body.to_bytes());
    let reply = simulator.reply(&call);
    sleep(simulator.latency()).await;
    respond(reply).await
}

async fn respond(reply: Reply) -> Result<Response<Body>, Closed> {
    match reply {
        Reply::Body { status, request_id, body } => {
            let mut response = page(status, "text/xml;charset=UTF-8", body);
            // EC2 gives the request ID in a header too, and SDKs read it there.
            if let Ok(value) = HeaderValue::try_from(request_id) {
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

/// The Authorization header. Empty if there is none, or if it is not a text.
fn authorization(headers: &HeaderMap) -> &str {
    match headers.get(AUTHORIZATION).map(HeaderValue::to_str) {
        Some(Ok(text)) => text,
        _ => "",
    }
}

fn page(status: u16, content_type: &str, body: String) -> Response<Body> {
    Response::builder()
        .status(status)
        .header("content-type", content_type)
        .body(Full::from(body).map_err(|never: Infallible| match never {}).boxed())
        .expect("a valid status and header")
}

/// A response whose body breaks off.
fn truncated() -> Response<Body> {
    let beginning = Bytes::from_static(b"<DescribeStoreImageTasksResponse><requestId>");
    let frames = futures_util::stream::iter([Ok(Frame::data(beginning)), Err(Closed)]);
    let mut response = Response::new(BodyExt::boxed(StreamBody::new(frames)));
    response.headers_mut().insert("content-length", HeaderValue::from_static("4096"));
    response
}
