//! What a List from a warm cache costs, as a ratio to a floor in the same run: a bare tonic service
//! that returns the same message with no cache and no validation.
//!
//! `cargo bench --bench list` prints a table. Rounds of both alternate, and each figure is the
//! median of its rounds, so that what else the machine does falls on both.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use amistore_gateway::{
    domain::{Region, wall_clock},
    ec2::Ec2,
    proto::{
        ListStoreImageTasksRequest, ListStoreImageTasksResponse, WatchStoreImageTaskRequest,
        WatchStoreImageTaskResponse,
        store_image_task_service_client::StoreImageTaskServiceClient,
        store_image_task_service_server::{StoreImageTaskService, StoreImageTaskServiceServer},
    },
    server,
    simulator::{self, Simulator, Story, TaskPlan},
};
use bytes::{Buf as _, BufMut as _, Bytes};
use http::uri::PathAndQuery;
use prost::Message as _;
use tokio::{
    net::TcpListener,
    task::JoinSet,
    time::{Instant, timeout_at},
};
use tonic::{
    Request, Response, Status,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    transport::{
        Channel, Endpoint,
        server::{Server, TcpIncoming},
    },
};

const PAGES: [i32; 4] = [1, 20, 100, 1000];
const CONNECTIONS: usize = 4;
const IN_FLIGHT: usize = 8;
const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_secs(1);
const LIST: &str = "/amistore.v1.StoreImageTaskService/ListStoreImageTasks";

/// The same answer, always.
struct Bare(ListStoreImageTasksResponse);

#[tonic::async_trait]
impl StoreImageTaskService for Bare {
    async fn list_store_image_tasks(
        &self,
        _: Request<ListStoreImageTasksRequest>,
    ) -> Result<Response<ListStoreImageTasksResponse>, Status> {
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
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let gateway = gateway().await?;
    println!(
        "| tasks a page | bytes | gateway, answers/s | floor, answers/s | ratio | gateway p50 | p99 | floor p50 | p99 |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for page_size in PAGES {
        let request =
            ListStoreImageTasksRequest { page_size, ..ListStoreImageTasksRequest::default() };
        let mut client = StoreImageTaskServiceClient::connect(format!("http://{gateway}")).await?;
        let answer = client.list_store_image_tasks(request.clone()).await?.into_inner();
        assert_eq!(answer.tasks.len(), usize::try_from(page_size)?, "the account is large enough");
        let bytes = answer.encoded_len();
        let floor = floor(answer).await?;
        let request = Bytes::from(request.encode_to_vec());
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            ours.push(round(gateway, &request, bytes).await?);
            theirs.push(round(floor, &request, bytes).await?);
        }
        let (ours, theirs) = (Figures::of(ours), Figures::of(theirs));
        println!(
            "| {page_size} | {bytes} | {:.0} | {:.0} | {:.2} | {:.2?} | {:.2?} | {:.2?} | {:.2?} |",
            ours.rate,
            theirs.rate,
            ours.rate / theirs.rate,
            ours.p50,
            ours.p99,
            theirs.p50,
            theirs.p99,
        );
    }
    Ok(())
}

/// A gateway whose account has 1,000 tasks, all known, and with a TTL that does not end meanwhile.
async fn gateway() -> Result<SocketAddr, Box<dyn std::error::Error>> {
    let start = wall_clock();
    let story = Story { finished: 0, running: 0, ..Story::default() };
    let settings = simulator::Settings {
        story,
        latency: Duration::ZERO,
        ..simulator::Settings::starting_at(start)
    };
    let simulator = Arc::new(Simulator::new(settings));
    for number in 0..1000 {
        simulator.add_task("us-east-1", task(start, number));
    }
    let ec2 = TcpListener::bind("127.0.0.1:0").await?;
    let endpoint = format!("http://{}", ec2.local_addr()?);
    tokio::spawn(simulator::serve(simulator, ec2, std::future::pending()));
    let mut settings = server::Settings {
        default_region: Some(Region::parse("us-east-1")?),
        ..server::Settings::default()
    };
    settings.cache.ttl = Duration::from_secs(24 * 3600);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let connect = Ec2::at_endpoint(&endpoint, settings.ec2.clone()).connect();
    tokio::spawn(server::serve(listener, settings, connect, std::future::pending()));
    Ok(address)
}

fn task(start: SystemTime, number: u64) -> TaskPlan {
    let age = Duration::from_secs(3600 + 60 * number);
    let image = format!("ami-{number:017x}");
    TaskPlan::new(&image, "golden-images", start - age, Duration::from_secs(60))
}

async fn floor(answer: ListStoreImageTasksResponse) -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let service = StoreImageTaskServiceServer::new(Bare(answer));
    tokio::spawn(Server::builder().add_service(service).serve_with_incoming(incoming));
    Ok(address)
}

/// The latencies of one round.
async fn round(
    address: SocketAddr,
    request: &Bytes,
    bytes: usize,
) -> Result<Vec<Duration>, Box<dyn std::error::Error>> {
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
    Ok(latencies)
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
    p50: Duration,
    p99: Duration,
}

impl Figures {
    /// The medians of the rounds.
    fn of(rounds: Vec<Vec<Duration>>) -> Self {
        let mut rates = Vec::new();
        let (mut p50, mut p99) = (Vec::new(), Vec::new());
        for mut latencies in rounds {
            latencies.sort_unstable();
            rates.push(u32::try_from(latencies.len()).unwrap_or(u32::MAX));
            p50.push(latencies[latencies.len() / 2]);
            p99.push(latencies[latencies.len() * 99 / 100]);
        }
        rates.sort_unstable();
        p50.sort_unstable();
        p99.sort_unstable();
        Self {
            rate: f64::from(rates[rates.len() / 2]) / ROUND.as_secs_f64(),
            p50: p50[p50.len() / 2],
            p99: p99[p99.len() / 2],
        }
    }
}
