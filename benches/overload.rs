//! Overload: ten times the clients that saturate a gateway, in a closed loop for a minute, nine in ten of
//! them asking what needs EC2. What that costs the others, how soon calls are refused, and what remains
//! of it a second later.
//!
//! `cargo bench --bench overload` prints a table. The load is h2load (Debian: nghttp2-client), in as many
//! processes with and without the overload.

mod support;

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use amistore_gateway::{
    domain::wall_clock,
    proto::{
        ListStoreImageTasksRequest, store_image_task_service_client::StoreImageTaskServiceClient,
    },
    server,
    simulator::{self, Simulator, Story, TaskPlan},
};
use prost::Message as _;
use tokio::{
    task::spawn_blocking,
    time::{Instant, interval, sleep, timeout},
};
use tonic::{Code, transport::Channel};

use support::REGION;

type Failure = Box<dyn std::error::Error + Send + Sync>;
type Client = StoreImageTaskServiceClient<Channel>;

/// Clients that saturate a gateway on two cores, as in the bench `list`: connections, and calls in flight
/// on each.
const CONNECTIONS: u32 = 4;
const IN_FLIGHT: u32 = 8;
/// Processes with as many clients each that ask what needs EC2. With the one that asks hits they are ten
/// times as many as saturate the gateway.
const GREEDY: u32 = 9;
/// Places of calls in progress, fewer than those clients.
const MAX_REQUESTS: usize = 100;
const SECONDS: u64 = 60;
/// Time between two calls that are timed.
const PAUSE: Duration = Duration::from_millis(10);
const LIST: &str = "/amistore.v1.StoreImageTaskService/ListStoreImageTasks";

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let gateway = gateway().await?;
    let mut client = Client::connect(format!("http://{gateway}")).await?;
    client.list_store_image_tasks(hit()).await?;

    let calm = run(gateway, hit()).await?;
    let overload = tokio::spawn(run(gateway, of_ec2()));
    let refusals = refusals(&mut client, Duration::from_secs(SECONDS - 2)).await?;
    let busy = overload.await??;
    sleep(Duration::from_secs(1)).await;
    let after = after(&mut client).await?;

    println!("| what | figure |");
    println!("|---|---|");
    println!("| hits a second, p99: all clients ask hits | {calm} |");
    println!("| hits a second, p99: nine in ten ask what needs EC2 | {busy} |");
    println!("| ratio of the p99 | {:.2} |", busy.p99.as_secs_f64() / calm.p99.as_secs_f64());
    println!("| refusals: number, p99, longest | {refusals} |");
    println!("| a second later, hits: number, p99, longest | {} |", after.hits);
    println!("| a second later, an answer of EC2 after | {:.1?} |", after.of_ec2);
    Ok(())
}

/// A List that the cache answers.
fn hit() -> ListStoreImageTasksRequest {
    ListStoreImageTasksRequest { page_size: 20, ..ListStoreImageTasksRequest::default() }
}

/// A List that needs EC2 each time.
fn of_ec2() -> ListStoreImageTasksRequest {
    ListStoreImageTasksRequest { max_staleness: Some(prost_types::Duration::default()), ..hit() }
}

/// A gateway in front of EC2's real quota.
async fn gateway() -> Result<SocketAddr, Failure> {
    let start = wall_clock();
    let story = Story { finished: 0, running: 0, ..Story::default() };
    let settings = simulator::Settings { story, ..simulator::Settings::starting_at(start) };
    let simulator = Simulator::new(settings);
    for number in 0..1_000 {
        let started = start - Duration::from_secs(3_600 + 60 * number);
        let image = format!("ami-{number:017x}");
        let task = TaskPlan::new(&image, "golden-images", started, Duration::from_secs(60));
        simulator.add_task(REGION, task);
    }
    let mut settings = server::Settings::default();
    settings.grpc.max_requests = MAX_REQUESTS;
    let (_, _, gateway) = support::start(simulator, settings).await?;
    Ok(gateway)
}

/// The hits of one process of clients.
struct Hits {
    rate: f64,
    p99: Duration,
}

impl std::fmt::Display for Hits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.0}/s, {:.1?}", self.rate, self.p99)
    }
}

/// One process of clients asks hits, and the others ask this.
async fn run(gateway: SocketAddr, others: ListStoreImageTasksRequest) -> Result<Hits, Failure> {
    let mut greedy = Vec::new();
    for number in 0..GREEDY {
        greedy.push(load(gateway, &format!("greedy-{number}"), &others)?);
    }
    let (measured, log) = load(gateway, "hits", &hit())?;
    let hits = spawn_blocking(move || hits(measured, &log)).await??;
    for (mut child, _) in greedy {
        child.wait()?;
    }
    Ok(hits)
}

/// Starts a process of clients that repeat a request.
fn load(
    gateway: SocketAddr,
    name: &str,
    request: &ListStoreImageTasksRequest,
) -> Result<(Child, PathBuf), Failure> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let (data, log) = (folder.join(name), folder.join(format!("{name}.log")));
    let message = request.encode_to_vec();
    let length = u32::try_from(message.len())?;
    fs::write(&data, [&[0], length.to_be_bytes().as_slice(), &message].concat())?;
    // h2load appends to the file.
    if log.exists() {
        fs::remove_file(&log)?;
    }
    let mut h2load = Command::new("h2load");
    h2load
        .arg(format!("--clients={CONNECTIONS}"))
        .arg(format!("--max-concurrent-streams={IN_FLIGHT}"))
        .arg(format!("--duration={SECONDS}"))
        .args(["--header=content-type: application/grpc", "--header=te: trailers"])
        .arg(format!("--data={}", data.display()))
        .arg(format!("--log-file={}", log.display()))
        .arg(format!("http://{gateway}{LIST}"))
        .stdout(Stdio::null());
    let child = h2load
        .spawn()
        .map_err(|error| format!("cannot run h2load (Debian: nghttp2-client): {error}"))?;
    Ok((child, log))
}

/// Waits for a process of clients, and reads its log: start, HTTP status and microseconds of each call.
fn hits(mut child: Child, log: &Path) -> Result<Hits, Failure> {
    child.wait()?;
    let mut latencies = Vec::new();
    for line in fs::read_to_string(log)?.lines() {
        let mut columns = line.split('\t').skip(1);
        let (Some("200"), Some(micros)) = (columns.next(), columns.next()) else {
            return Err(format!("expected status 200 and a latency, found: {line}").into());
        };
        latencies.push(Duration::from_micros(micros.parse()?));
    }
    let rate =
        f64::from(u32::try_from(latencies.len())?) / Duration::from_secs(SECONDS).as_secs_f64();
    Ok(Hits { rate, p99: Latencies(latencies).p99() })
}

/// How long calls took.
struct Latencies(Vec<Duration>);

impl Latencies {
    fn p99(&self) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        sorted.get(sorted.len() * 99 / 100).copied().unwrap_or_default()
    }
}

impl std::fmt::Display for Latencies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let longest = self.0.iter().max().copied().unwrap_or_default();
        write!(f, "{}, {:.1?}, {longest:.1?}", self.0.len(), self.p99())
    }
}

/// Calls what needs EC2 again and again, and times the refusals.
async fn refusals(client: &mut Client, time: Duration) -> Result<Latencies, Failure> {
    let mut latencies = Vec::new();
    let mut pause = interval(PAUSE);
    let end = Instant::now() + time;
    while Instant::now() < end {
        pause.tick().await;
        let begun = Instant::now();
        // A call that is let in waits for EC2. It is given up, so that the next one is timed.
        match timeout(Duration::from_millis(500), client.list_store_image_tasks(of_ec2())).await {
            Ok(Err(refusal)) if refusal.code() == Code::Unavailable => {
                if refusal.metadata().get("grpc-retry-pushback-ms").is_none() {
                    return Err(format!("a refusal without a pushback: {refusal:?}").into());
                }
                latencies.push(begun.elapsed());
            }
            Ok(Err(error)) => return Err(error.into()),
            Ok(Ok(_)) | Err(_) => {}
        }
    }
    Ok(Latencies(latencies))
}

/// The service that callers get a second after the overload.
struct After {
    hits: Latencies,
    of_ec2: Duration,
}

async fn after(client: &mut Client) -> Result<After, Failure> {
    let mut latencies = Vec::new();
    for _ in 0..1_000 {
        let begun = Instant::now();
        client.list_store_image_tasks(hit()).await?;
        latencies.push(begun.elapsed());
    }
    let begun = Instant::now();
    client.list_store_image_tasks(of_ec2()).await?;
    Ok(After { hits: Latencies(latencies), of_ec2: begun.elapsed() })
}
