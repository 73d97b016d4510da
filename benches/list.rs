//! The cost of a List from a warm cache, beside three floors in the same run: (a) a bare tonic
//! handler that clones and encodes the same message, (b) a bare tonic handler that sends the same
//! bytes already encoded, (c) a bare hyper service that sends the same bytes, framed. None has a cache
//! or validation. (c) has the HTTP/2 settings of the gateway.
//!
//! `cargo bench --bench list` prints a table. With `-- --accept-encoding` the requests say that they
//! take compressed answers, as those of several client libraries do. The load is h2load (Debian:
//! nghttp2-client). Rounds of all servers alternate, so that other load on the machine affects all
//! alike. Each figure is the median of its rounds, and each ratio the median of the ratios within a
//! round. CPU time is the server's.

#[path = "support/h2load.rs"]
mod h2load;
mod support;

use std::{
    convert::Infallible,
    marker::PhantomData,
    net::SocketAddr,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use amistore_gateway::{
    domain::wall_clock,
    proto::{
        ListStoreImageTasksRequest, ListStoreImageTasksResponse, framing::frame,
        store_image_task_service_client::StoreImageTaskServiceClient,
    },
    server,
    simulator::{self, Simulator, Story, TaskPlan},
};
use bytes::{BufMut as _, Bytes};
use futures_util::{future::BoxFuture, stream};
use http::{HeaderMap, HeaderValue, header::CONTENT_TYPE};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::{
    body::{Frame, Incoming},
    server::conn::http2,
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use prost::Message as _;
use tokio::{
    net::{TcpListener, TcpStream},
    task::spawn_blocking,
};
use tonic::{
    Request, Response, Status,
    body::Body,
    codec::{Codec, EncodeBuf, Encoder},
    server::{Grpc, NamedService},
    transport::server::{Router, Server, TcpIncoming},
};
use tonic_prost::{ProstCodec, ProstDecoder};

use h2load::{Load, Round};
use support::REGION;

/// The allocator of the image's binary, for the floors, too.
#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Page sizes, in tasks.
const PAGES: [i32; 4] = [1, 20, 100, 1000];
const ROUNDS: usize = 15;

/// A bare handler of List: its constant answer, and the codec that sends it.
struct Bare<T, C> {
    answer: Arc<T>,
    codec: PhantomData<fn() -> C>,
}

impl<T, C> Bare<T, C> {
    fn new(answer: T) -> Self {
        Self { answer: Arc::new(answer), codec: PhantomData }
    }
}

impl<T, C> Clone for Bare<T, C> {
    fn clone(&self) -> Self {
        Self { answer: self.answer.clone(), codec: PhantomData }
    }
}

/// Baseline (a): clones and encodes its answer for each request.
type Cloning =
    Bare<ListStoreImageTasksResponse, ProstCodec<ListStoreImageTasksResponse, ListRequest>>;
/// Baseline (b): sends the same encoded bytes for each request.
type Sending = Bare<Bytes, SendBytes>;
type ListRequest = ListStoreImageTasksRequest;

impl<T, C> NamedService for Bare<T, C> {
    const NAME: &'static str = "amistore.v1.StoreImageTaskService";
}

impl<T, C> tower::Service<http::Request<Body>> for Bare<T, C>
where
    T: Clone + Send + Sync + 'static,
    C: Codec<Encode = T, Decode = ListRequest> + Default + Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let answer = self.answer.clone();
        Box::pin(async move {
            let handler = tower::service_fn(move |_: Request<ListRequest>| {
                let answer = answer.clone();
                async move { Ok::<_, Status>(Response::new((*answer).clone())) }
            });
            Ok(Grpc::new(C::default()).unary(handler, request).await)
        })
    }
}

/// A codec that decodes requests with prost, and sends bytes as they are.
#[derive(Default)]
struct SendBytes;

impl Codec for SendBytes {
    type Encode = Bytes;
    type Decode = ListRequest;
    type Encoder = Self;
    type Decoder = ProstDecoder<ListRequest>;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> ProstDecoder<ListRequest> {
        ProstDecoder::default()
    }
}

impl Encoder for SendBytes {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let gateway = gateway().await?;
    let accepts_encoding = std::env::args().any(|argument| argument == "--accept-encoding");
    let header = accepts_encoding.then_some("grpc-accept-encoding: identity,deflate,gzip");
    println!("| {} |", COLUMNS.join(" | "));
    println!("|{}", "---|".repeat(COLUMNS.len()));
    for page_size in PAGES {
        let request =
            ListStoreImageTasksRequest { page_size, ..ListStoreImageTasksRequest::default() };
        let mut client = StoreImageTaskServiceClient::connect(format!("http://{gateway}")).await?;
        let answer = client.list_store_image_tasks(request.clone()).await?.into_inner();
        assert_eq!(answer.tasks.len(), usize::try_from(page_size)?, "the account has a full page");
        let encoded: Bytes = answer.encode_to_vec().into();
        let bytes = encoded.len();
        let hyper = hyper_baseline(frame(&encoded)).await?;
        let sending = Sending::new(encoded);
        let sending = baseline(Server::builder().add_service(sending)).await?;
        let cloning = baseline(Server::builder().add_service(Cloning::new(answer))).await?;
        let load = Arc::new(Load::new(&request.encode_to_vec(), header, bytes)?);
        let mut rounds = Vec::new();
        for _ in 0..ROUNDS {
            rounds.push(Servers {
                cloning: round(&load, cloning).await?,
                sending: round(&load, sending).await?,
                hyper: round(&load, hyper).await?,
                gateway: round(&load, gateway).await?,
            });
        }
        println!("| {page_size} | {bytes} | {} |", row(&rounds));
    }
    Ok(())
}

const COLUMNS: [&str; 17] = [
    "tasks a page",
    "bytes",
    "(a) answers/s",
    "(b) answers/s",
    "(c) answers/s",
    "gateway answers/s",
    "of (a)",
    "of (b)",
    "of (c)",
    "(b) p99",
    "gateway p99",
    "p99 of (b)",
    "(b) CPU",
    "(c) CPU",
    "gateway CPU",
    "CPU of (b)",
    "CPU of (c)",
];

/// One round of each server, one after the other.
struct Servers {
    cloning: Round,
    sending: Round,
    hyper: Round,
    gateway: Round,
}

/// The table columns for one page size.
fn row(rounds: &[Servers]) -> String {
    let figure = |of: &dyn Fn(&Servers) -> f64| median(rounds.iter().map(of).collect());
    let ratio = |of: &dyn Fn(&Servers) -> f64| format!("{:.2}", figure(of));
    let rate = |of: &dyn Fn(&Servers) -> f64| format!("{:.0}", figure(of));
    let micros = |time: Duration| time.as_secs_f64() * 1e6;
    let p99 = |of: &dyn Fn(&Servers) -> Duration| {
        format!("{:.0} µs", figure(&|servers| micros(of(servers))))
    };
    let cpu = |of: &dyn Fn(&Servers) -> Duration| {
        format!("{:.1} µs", figure(&|servers| micros(of(servers))))
    };
    [
        rate(&|servers| servers.cloning.rate),
        rate(&|servers| servers.sending.rate),
        rate(&|servers| servers.hyper.rate),
        rate(&|servers| servers.gateway.rate),
        ratio(&|servers| servers.gateway.rate / servers.cloning.rate),
        ratio(&|servers| servers.gateway.rate / servers.sending.rate),
        ratio(&|servers| servers.gateway.rate / servers.hyper.rate),
        p99(&|servers| servers.sending.p99),
        p99(&|servers| servers.gateway.p99),
        ratio(&|servers| micros(servers.gateway.p99) / micros(servers.sending.p99)),
        cpu(&|servers| servers.sending.cpu),
        cpu(&|servers| servers.hyper.cpu),
        cpu(&|servers| servers.gateway.cpu),
        ratio(&|servers| micros(servers.gateway.cpu) / micros(servers.sending.cpu)),
        ratio(&|servers| micros(servers.gateway.cpu) / micros(servers.hyper.cpu)),
    ]
    .join(" | ")
}

async fn round(load: &Arc<Load>, server: SocketAddr) -> Result<Round, Failure> {
    let load = load.clone();
    spawn_blocking(move || load.round(server)).await?
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Starts a gateway whose account has 1,000 tasks. The TTL is longer than the bench runs.
async fn gateway() -> Result<SocketAddr, Failure> {
    let start = wall_clock();
    let story = Story { finished: 0, running: 0, ..Story::default() };
    let settings = simulator::Settings {
        story,
        latency: Duration::ZERO,
        ..simulator::Settings::starting_at(start)
    };
    let simulator = Simulator::new(settings);
    for number in 0..1000 {
        simulator.add_task(REGION, task(start, number));
    }
    let mut settings = server::Settings::default();
    settings.cache.ttl = Duration::from_secs(24 * 3600);
    let (_, _, gateway) = support::start(simulator, settings).await?;
    Ok(gateway)
}

fn task(start: SystemTime, number: u64) -> TaskPlan {
    let age = Duration::from_secs(3600 + 60 * number);
    let image = format!("ami-{number:017x}");
    TaskPlan::new(&image, "golden-images", start - age, Duration::from_secs(60))
}

/// Serves a baseline until the process ends.
async fn baseline(server: Router) -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    tokio::spawn(server.serve_with_incoming(incoming));
    Ok(address)
}

/// Serves baseline (c), which sends the same framed bytes for each request, until the process ends.
async fn hyper_baseline(answer: Bytes) -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            let answer = answer.clone();
            let service = service_fn(move |request| send_bytes(request, answer.clone()));
            let connection = http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .max_concurrent_streams(10_000)
                .max_header_list_size(64 << 10)
                .keep_alive_interval(Some(Duration::from_secs(60)))
                .keep_alive_timeout(Duration::from_secs(20))
                .serve_connection(TokioIo::new(nodelay(connection)), service);
            tokio::spawn(connection);
        }
    });
    Ok(address)
}

fn nodelay(connection: TcpStream) -> TcpStream {
    if let Err(error) = connection.set_nodelay(true) {
        eprintln!("expected a TCP connection: {error}");
    }
    connection
}

async fn send_bytes(
    request: http::Request<Incoming>,
    answer: Bytes,
) -> Result<http::Response<impl hyper::body::Body<Data = Bytes, Error = Infallible>>, hyper::Error>
{
    request.into_body().collect().await?;
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let frames = [Frame::data(answer), Frame::trailers(trailers)];
    let mut response = http::Response::new(StreamBody::new(stream::iter(frames.map(Ok))));
    let content_type = HeaderValue::from_static("application/grpc");
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    Ok(response)
}
