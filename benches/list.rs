//! The cost of a List from a warm cache, beside two baselines in the same run: (a) a bare tonic
//! handler that clones and encodes the same message, (b) a bare tonic handler that sends the same
//! bytes already encoded. Neither has a cache or validation.
//!
//! `cargo bench --bench list` prints a table. The load is h2load (Debian: nghttp2-client). Rounds
//! of all three servers alternate, so that other load on the machine affects all three alike. Each
//! figure is the median of its rounds, and each ratio the median of the ratios within a round. CPU
//! time is the server's.

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
        ListStoreImageTasksRequest, ListStoreImageTasksResponse,
        store_image_task_service_client::StoreImageTaskServiceClient,
    },
    server,
    simulator::{self, Simulator, Story, TaskPlan},
};
use bytes::{BufMut as _, Bytes};
use futures_util::future::BoxFuture;
use prost::Message as _;
use tokio::{net::TcpListener, task::spawn_blocking};
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
    println!(
        "| tasks a page | bytes | (a) answers/s | (b) answers/s | gateway answers/s | of (a) | of (b) | (b) p99 | gateway p99 | p99 of (b) | (b) CPU | gateway CPU | CPU of (b) |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|---|");
    for page_size in PAGES {
        let request =
            ListStoreImageTasksRequest { page_size, ..ListStoreImageTasksRequest::default() };
        let mut client = StoreImageTaskServiceClient::connect(format!("http://{gateway}")).await?;
        let answer = client.list_store_image_tasks(request.clone()).await?.into_inner();
        assert_eq!(answer.tasks.len(), usize::try_from(page_size)?, "the account has a full page");
        let bytes = answer.encoded_len();
        let sending = Sending::new(answer.encode_to_vec().into());
        let sending = baseline(Server::builder().add_service(sending)).await?;
        let cloning = baseline(Server::builder().add_service(Cloning::new(answer))).await?;
        let load = Arc::new(Load::new(&request.encode_to_vec(), bytes)?);
        let mut rounds = Vec::new();
        for _ in 0..ROUNDS {
            rounds.push(Servers {
                cloning: round(&load, cloning).await?,
                sending: round(&load, sending).await?,
                gateway: round(&load, gateway).await?,
            });
        }
        println!("| {page_size} | {bytes} | {} |", row(&rounds));
    }
    Ok(())
}

/// One round of each server, one after the other.
struct Servers {
    cloning: Round,
    sending: Round,
    gateway: Round,
}

/// The table columns for one page size.
fn row(rounds: &[Servers]) -> String {
    let figure = |of: &dyn Fn(&Servers) -> f64| median(rounds.iter().map(of).collect());
    let micros = |time: Duration| time.as_secs_f64() * 1e6;
    [
        format!("{:.0}", figure(&|servers| servers.cloning.rate)),
        format!("{:.0}", figure(&|servers| servers.sending.rate)),
        format!("{:.0}", figure(&|servers| servers.gateway.rate)),
        format!("{:.2}", figure(&|servers| servers.gateway.rate / servers.cloning.rate)),
        format!("{:.2}", figure(&|servers| servers.gateway.rate / servers.sending.rate)),
        format!("{:.0} µs", figure(&|servers| micros(servers.sending.p99))),
        format!("{:.0} µs", figure(&|servers| micros(servers.gateway.p99))),
        format!(
            "{:.2}",
            figure(&|servers| micros(servers.gateway.p99) / micros(servers.sending.p99))
        ),
        format!("{:.1} µs", figure(&|servers| micros(servers.sending.cpu))),
        format!("{:.1} µs", figure(&|servers| micros(servers.gateway.cpu))),
        format!(
            "{:.2}",
            figure(&|servers| micros(servers.gateway.cpu) / micros(servers.sending.cpu))
        ),
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
