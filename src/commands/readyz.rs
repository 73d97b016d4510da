//! Asks a gateway's admin listener whether the gateway should get requests.

use std::{error, path::Path};

use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{Request, StatusCode, body::Bytes, client::conn::http1, header::HOST};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
};

use super::{causes::causes, listen::reachable};
use crate::server::ListenAddress;

/// 1 KiB: the longest answer that is read.
const MAX_ANSWER_BYTES: usize = 1 << 10;

type Error = Box<dyn error::Error + Send + Sync>;

/// The answer of the admin listener at this address. An error unless the gateway is ready. All addresses
/// are asked by the loopback.
pub(super) async fn ask(address: &ListenAddress) -> Result<String, String> {
    let answer = match address {
        ListenAddress::Unix(path) => ask_unix(path).await,
        ListenAddress::Tcp(address) => ask_tcp(address).await,
    };
    match answer {
        Ok((StatusCode::OK, text)) => Ok(text),
        Ok((StatusCode::SERVICE_UNAVAILABLE, text)) => Err(text),
        Ok((status, _)) => {
            Err(format!("{address}: expected an answer of /readyz, found HTTP {status}"))
        }
        Err(error) => Err(format!("{address}: {}", causes(&*error))),
    }
}

async fn ask_unix(path: &Path) -> Result<(StatusCode, String), Error> {
    ask_over(UnixStream::connect(path).await?, "localhost").await
}

async fn ask_tcp(address: &str) -> Result<(StatusCode, String), Error> {
    let address = match address.parse() {
        Ok(address) => reachable(address).to_string(),
        Err(_) => address.to_owned(),
    };
    ask_over(TcpStream::connect(&address).await?, &address).await
}

async fn ask_over<S>(socket: S, host: &str) -> Result<(StatusCode, String), Error>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(socket)).await?;
    // Ends with the sender. Its error is that of the request, too.
    tokio::spawn(connection);
    let request = Request::get("/readyz").header(HOST, host).body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await?.to_bytes();
    Ok((status, String::from_utf8_lossy(&body).trim().to_owned()))
}
