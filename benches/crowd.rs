//! The cost of many callers: EC2 calls and time for concurrent Lists, and polling with and without
//! the gateway against EC2's real quota.
//!
//! `cargo bench --bench crowd` prints two tables. The second takes six minutes, because it runs in
//! real time: EC2's quota is a burst of 50 calls, refilled at 0.5 per second.

mod support;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use amistore_gateway::{
    domain::wall_clock,
    proto::{
        ListStoreImageTasksRequest, store_image_task_service_client::StoreImageTaskServiceClient,
    },
    server,
    simulator::{self, Simulator, Story, TaskPlan},
};
use aws_credential_types::Credentials;
use aws_sdk_ec2::config::{BehaviorVersion, retry::RetryConfig};
use futures_util::future::try_join_all;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tonic::transport::{Channel, Endpoint};

use support::REGION;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Numbers of concurrent callers.
const CROWDS: [usize; 5] = [1, 10, 100, 1_000, 10_000];
/// Numbers of clients that poll.
const POLLERS: [usize; 5] = [1, 3, 10, 100, 1_000];
/// Time between two polls, as in the waiters of the SDKs.
const POLL: Duration = Duration::from_secs(5);
/// Time for which each client polls.
const POLL_FOR: Duration = Duration::from_secs(120);
const IMAGE: &str = "ami-00000000000000001";

#[tokio::main]
async fn main() -> Result<(), Failure> {
    println!("| callers at once | EC2 calls | time for all |");
    println!("|---|---|---|");
    for callers in CROWDS {
        let (calls, time) = coalesced(callers).await?;
        println!("| {callers} | {calls} | {time:.1?} |");
    }
    println!();
    println!("| pollers | client | answers in time | errors | p99 | EC2 calls |");
    println!("|---|---|---|---|---|---|");
    // Small crowds leave the machine idle, so they run side by side.
    let (few, many) = POLLERS.split_at(4);
    for pollers in [few, many] {
        let sdk = try_join_all(pollers.iter().map(|pollers| polled(*pollers, Client::Sdk)));
        let gateway = try_join_all(pollers.iter().map(|pollers| polled(*pollers, Client::Gateway)));
        let (sdk, gateway) = if pollers == few {
            tokio::try_join!(sdk, gateway)?
        } else {
            (sdk.await?, gateway.await?)
        };
        for (pollers, (sdk, gateway)) in pollers.iter().zip(sdk.iter().zip(&gateway)) {
            println!("| {pollers} | SDK alone | {sdk} |");
            println!("| {pollers} | gateway | {gateway} |");
        }
    }
    Ok(())
}

/// Starts an EC2 with its real quota and a running task, and a gateway in front of it.
async fn rig() -> Result<(Arc<Simulator>, String, SocketAddr), Failure> {
    let start = wall_clock();
    let story = Story { finished: 50, running: 5, ..Story::default() };
    let settings = simulator::Settings { story, ..simulator::Settings::starting_at(start) };
    let simulator = Simulator::new(settings);
    let task = TaskPlan::new(IMAGE, "golden-images", start, Duration::from_secs(3600));
    simulator.add_task(REGION, task);
    support::start(simulator, server::Settings::default()).await
}

async fn channels(gateway: SocketAddr, count: usize) -> Result<Vec<Channel>, Failure> {
    let endpoint = Endpoint::from_shared(format!("http://{gateway}"))?;
    let mut channels = Vec::new();
    for _ in 0..count {
        channels.push(endpoint.connect().await?);
    }
    Ok(channels)
}

fn of_image() -> ListStoreImageTasksRequest {
    let image_ids = vec![IMAGE.to_owned()];
    ListStoreImageTasksRequest { image_ids, ..ListStoreImageTasksRequest::default() }
}

/// EC2 calls and time for concurrent Lists of one image, with a cold cache.
async fn coalesced(callers: usize) -> Result<(usize, Duration), Failure> {
    let (simulator, _, gateway) = rig().await?;
    let channels = channels(gateway, callers.min(10)).await?;
    let begun = Instant::now();
    let mut crowd = JoinSet::new();
    for channel in channels.iter().cycle().take(callers) {
        let mut client = StoreImageTaskServiceClient::new(channel.clone());
        crowd.spawn(async move { client.list_store_image_tasks(of_image()).await });
    }
    while let Some(answer) = crowd.join_next().await {
        assert_eq!(answer??.into_inner().tasks.len(), 1, "the request names one image");
    }
    Ok((simulator.calls(), begun.elapsed()))
}

/// The clients that the pollers use.
#[derive(Clone, Copy)]
enum Client {
    /// An SDK client of EC2 for each poller.
    Sdk,
    /// A gRPC client of the gateway.
    Gateway,
}

/// The results of the polls of one crowd.
#[derive(Default)]
struct Polls {
    latencies: Vec<Duration>,
    /// Number of polls that should have been made.
    due: usize,
    /// Number of answers within [`POLL`].
    in_time: usize,
    errors: usize,
    calls: usize,
}

impl std::fmt::Display for Polls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let all = f64::from(u32::try_from(self.due.max(1)).unwrap_or(u32::MAX));
        let percent =
            |part: usize| 100.0 * f64::from(u32::try_from(part).unwrap_or(u32::MAX)) / all;
        let p99 = self.latencies.get(self.latencies.len() * 99 / 100).copied().unwrap_or_default();
        let (answered, errors) = (percent(self.in_time), percent(self.errors));
        let calls = self.calls;
        write!(f, "{answered:.1} % | {errors:.1} % | {p99:.1?} | {calls}")
    }
}

/// Polls with this number of clients for [`POLL_FOR`].
async fn polled(pollers: usize, client: Client) -> Result<Polls, Failure> {
    let (simulator, endpoint, gateway) = rig().await?;
    let channels = channels(gateway, pollers.min(10)).await?;
    let end = Instant::now() + POLL_FOR;
    let mut crowd = JoinSet::new();
    for number in 0..pollers {
        // The pollers begin at random times within one interval.
        let begin = Instant::now() + POLL.mul_f64(fastrand::f64());
        let channel = channels[number % channels.len()].clone();
        let sdk = sdk(&endpoint);
        crowd.spawn(async move {
            let mut polls = Polls::default();
            for number in 0.. {
                let due = begin + POLL * number;
                if due >= end {
                    break;
                }
                polls.due += 1;
                // A poll that is due while the last one still runs is missed.
                if number > 0 && due < Instant::now() {
                    continue;
                }
                sleep_until(due).await;
                let asked = Instant::now();
                let failed = match client {
                    Client::Sdk => {
                        let call = sdk.describe_store_image_tasks().image_ids(IMAGE);
                        call.send().await.is_err()
                    }
                    Client::Gateway => {
                        let mut client = StoreImageTaskServiceClient::new(channel.clone());
                        client.list_store_image_tasks(of_image()).await.is_err()
                    }
                };
                let took = asked.elapsed();
                polls.errors += usize::from(failed);
                polls.in_time += usize::from(!failed && took <= POLL);
                polls.latencies.push(took);
            }
            polls
        });
    }
    let mut all = Polls::default();
    while let Some(polls) = crowd.join_next().await {
        let polls = polls?;
        all.due += polls.due;
        all.errors += polls.errors;
        all.in_time += polls.in_time;
        all.latencies.extend(polls.latencies);
    }
    all.latencies.sort_unstable();
    all.calls = simulator.calls();
    Ok(all)
}

/// An SDK client with its default retries: three attempts, with backoff.
fn sdk(endpoint: &str) -> aws_sdk_ec2::Client {
    let config = aws_sdk_ec2::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(aws_config::Region::new(REGION))
        .endpoint_url(endpoint)
        .credentials_provider(Credentials::new("simulated", "simulated", None, None, "bench"))
        .retry_config(RetryConfig::standard())
        .http_client(amistore_gateway::ec2::https())
        .build();
    aws_sdk_ec2::Client::from_conf(config)
}
