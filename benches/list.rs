//! What a List from a warm cache costs, against two floors in the same run: (a) a bare tonic handler
//! that clones and encodes the same message, (b) a bare tonic handler that sends the same bytes
//! already encoded; neither has a cache or validation.
//!
//! `cargo bench --bench list` prints a table. Rounds of all three alternate, and each figure is the
//! median of its rounds, so that what else the machine does falls on all. CPU time is the whole
//! process's, load included.

mod support;

use std::{
    convert::Infallible,
    fs,
    net::SocketAddr,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use amistore_gateway::{
    domain::wall_clock,
    grpc::EncodedList,
    proto::{
        ListStoreImageTasksRequest, ListStoreImageTasksResponse, WatchStoreImageTaskRequest,
        WatchStoreImageTaskResponse,
        server::store_image_task_service_server::{
            StoreImageTaskService, StoreImageTaskServiceServer,
        },
        store_image_task_service_client::StoreImageTaskServiceClient,
    },
    server,
    simulator::{self, Simulator, Story, TaskPlan},
};
use bytes::{Buf as _, BufMut as _, Bytes};
use futures_util::future::BoxFuture;
use http::uri::PathAndQuery;
use prost::Message as _;
use tokio::{
    net::TcpListener,
    task::JoinSet,
    time::{Instant, timeout_at},
};
use tonic::{
    Request, Response, Status,
    body::Body,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    server::{Grpc, NamedService},
    transport::{
        Channel, Endpoint,
        server::{Router, Server, TcpIncoming},
    },
};
use tonic_prost::ProstCodec;

use support::REGION;

type Failure = Box<dyn std::error::Error + Send + Sync>;

const PAGES: [i32; 4] = [1, 20, 100, 1000];
const CONNECTIONS: usize = 4;
const IN_FLIGHT: usize = 8;
const ROUNDS: usize = 7;
const ROUND: Duration = Duration::from_secs(1);
const LIST: &str = "/amistore.v1.StoreImageTaskService/ListStoreImageTasks";

/// Floor (a): clones and encodes the same answer, always.
#[derive(Clone)]
struct Cloning(Arc<ListStoreImageTasksResponse>);

impl NamedService for Cloning {
    const NAME: &'static str = "amistore.v1.StoreImageTaskService";
}

impl tower::Service<http::Request<Body>> for Cloning {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let answer = self.0.clone();
        Box::pin(async move {
            let handler = tower::service_fn(move |_: Request<ListStoreImageTasksRequest>| {
                let answer = answer.clone();
                async move { Ok::<_, Status>(Response::new((*answer).clone())) }
            });
            Ok(Grpc::new(ProstCodec::default()).unary(handler, request).await)
        })
    }
}

/// Floor (b): sends the same bytes, always.
struct Sending(EncodedList);

#[tonic::async_trait]
impl StoreImageTaskService for Sending {
    async fn list_store_image_tasks(
        &self,
        _: Request<ListStoreImageTasksRequest>,
    ) -> Result<Response<EncodedList>, Status> {
        Ok(Response::new(self.0.clone()))
    }

    type WatchStoreImageTaskStream =
        tokio_stream::Empty<Result<WatchStoreImageTaskResponse, Status>>;

    async fn watch_store_image_task(
        &self,
        _: Request<WatchStoreImageTaskRequest>,
    ) -> Result<Response<Self::WatchStoreImageTaskStream>, Status> {
        Err(Status::unimplemented("not measured"))
    }
}

/// Takes messages as they are, so that the load costs little beside what it measures.
#[derive(Clone, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let gateway = gateway().await?;
    println!(
        "| tasks a page | bytes | gateway, answers/s | of (a) | of (b) | p99 | (b) p99 | p99 of (b) | CPU µs | (b) CPU µs |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    for page_size in PAGES {
        let request =
            ListStoreImageTasksRequest { page_size, ..ListStoreImageTasksRequest::default() };
        let mut client = StoreImageTaskServiceClient::connect(format!("http://{gateway}")).await?;
        let answer = client.list_store_image_tasks(request.clone()).await?.into_inner();
        assert_eq!(answer.tasks.len(), usize::try_from(page_size)?, "the account is large enough");
        let bytes = answer.encoded_len();
        let sending = StoreImageTaskServiceServer::new(Sending(EncodedList::of(&answer)));
        let sending = floor(Server::builder().add_service(sending)).await?;
        let cloning = floor(Server::builder().add_service(Cloning(Arc::new(answer)))).await?;
        let request = Bytes::from(request.encode_to_vec());
        let sides = [gateway, cloning, sending];
        let mut rounds = sides.map(|_| Vec::new());
        for _ in 0..ROUNDS {
            for (side, rounds) in sides.iter().zip(&mut rounds) {
                rounds.push(round(*side, &request, bytes).await?);
            }
        }
        let [ours, cloning, sending] = rounds.map(Figures::of);
        println!(
            "| {page_size} | {bytes} | {:.0} | {:.2} | {:.2} | {:.2?} | {:.2?} | {:.2} | {:.1} | {:.1} |",
            ours.rate,
            ours.rate / cloning.rate,
            ours.rate / sending.rate,
            ours.p99,
            sending.p99,
            ours.p99.as_secs_f64() / sending.p99.as_secs_f64(),
            ours.cpu.as_secs_f64() * 1e6,
            sending.cpu.as_secs_f64() * 1e6,
        );
    }
    Ok(())
}

/// A gateway whose account has 1,000 tasks, all known, and with a TTL that does not end meanwhile.
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

async fn floor(server: Router) -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    tokio::spawn(server.serve_with_incoming(incoming));
    Ok(address)
}

/// One round: its latencies, and the CPU time of an answer.
struct Round {
    latencies: Vec<Duration>,
    cpu: Duration,
}

async fn round(address: SocketAddr, request: &Bytes, bytes: usize) -> Result<Round, Failure> {
    let before = cpu_time()?;
    let mut load = JoinSet::new();
    let mut channels = Vec::new();
    for _ in 0..CONNECTIONS {
        channels.push(Endpoint::from_shared(format!("http://{address}"))?.connect().await?);
    }
    let end = Instant::now() + ROUND;
    for channel in channels.iter().cycle().take(CONNECTIONS * IN_FLIGHT) {
        load.spawn(ask_until(end, channel.clone(), request.clone(), bytes));
    }
    let mut latencies = Vec::new();
    while let Some(asked) = load.join_next().await {
        latencies.extend(asked??);
    }
    let answers = u32::try_from(latencies.len())?.max(1);
    Ok(Round { latencies, cpu: cpu_time()?.saturating_sub(before) / answers })
}

/// What this process has used so far, in user and system (proc(5), /proc/self/stat, 14 and 15, in
/// ticks of 10 ms).
fn cpu_time() -> Result<Duration, Failure> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let (_, fields) = stat.rsplit_once(") ").ok_or("the name of the process is not closed")?;
    let ticks: u64 =
        fields.split(' ').skip(11).take(2).map(|field| field.parse().unwrap_or(0)).sum();
    Ok(Duration::from_millis(10 * ticks))
}

async fn ask_until(
    end: Instant,
    channel: Channel,
    request: Bytes,
    bytes: usize,
) -> Result<Vec<Duration>, Status> {
    let mut client = tonic::client::Grpc::new(channel);
    let mut latencies = Vec::new();
    loop {
        let begun = Instant::now();
        let asked = async {
            client.ready().await.map_err(|error| Status::unknown(error.to_string()))?;
            let path = PathAndQuery::from_static(LIST);
            client.unary(Request::new(request.clone()), path, Raw).await
        };
        match timeout_at(end, asked).await {
            Ok(answer) => assert_eq!(answer?.into_inner().len(), bytes, "the same bytes"),
            Err(_) => return Ok(latencies),
        }
        latencies.push(begun.elapsed());
    }
}

struct Figures {
    rate: f64,
    p99: Duration,
    cpu: Duration,
}

impl Figures {
    /// The medians of the rounds.
    fn of(rounds: Vec<Round>) -> Self {
        let mut rates = Vec::new();
        let (mut p99, mut cpu) = (Vec::new(), Vec::new());
        for mut round in rounds {
            round.latencies.sort_unstable();
            rates.push(u32::try_from(round.latencies.len()).unwrap_or(u32::MAX));
            p99.push(round.latencies[round.latencies.len() * 99 / 100]);
            cpu.push(round.cpu);
        }
        Self {
            rate: f64::from(median(rates)) / ROUND.as_secs_f64(),
            p99: median(p99),
            cpu: median(cpu),
        }
    }
}

fn median<T: Copy + Ord>(mut values: Vec<T>) -> T {
    values.sort_unstable();
    values[values.len() / 2]
}
