//! What a crowd costs: callers at once against EC2 calls and time; and the same polling with and
//! without the gateway, against EC2's real quota.
//!
//! `cargo bench --bench crowd` prints two tables. The second takes six minutes, in real time, since
//! the quota is: 50 calls and 0.5 a second.

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

const CROWDS: [usize; 5] = [1, 10, 100, 1_000, 10_000];
const POLLERS: [usize; 5] = [1, 3, 10, 100, 1_000];
/// What a waiter of the SDK's documentation does.
const POLL: Duration = Duration::from_secs(5);
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
    println!("| pollers | way | answers in time | errors | p99 | EC2 calls |");
    println!("|---|---|---|---|---|---|");
    // The small crowds side by side: they leave the machine idle.
    let (few, many) = POLLERS.split_at(4);
    for pollers in [few, many] {
        let alone = try_join_all(pollers.iter().map(|pollers| polled(*pollers, Way::Alone)));
        let behind = try_join_all(pollers.iter().map(|pollers| polled(*pollers, Way::Gateway)));
        let (alone, behind) = if pollers == few {
            tokio::try_join!(alone, behind)?
        } else {
            (alone.await?, behind.await?)
        };
        for (pollers, (alone, behind)) in pollers.iter().zip(alone.iter().zip(&behind)) {
            println!("| {pollers} | SDK alone | {alone} |");
            println!("| {pollers} | gateway | {behind} |");
        }
    }
    Ok(())
}

/// An EC2 with its real quota and a running task, and a gateway in front of it.
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
        assert_eq!(answer??.into_inner().tasks.len(), 1, "it was asked for one image");
    }
    Ok((simulator.calls(), begun.elapsed()))
}

#[derive(Clone, Copy)]
enum Way {
    Alone,
    Gateway,
}

/// What the polls of one crowd came to.
#[derive(Default)]
struct Polls {
    latencies: Vec<Duration>,
    /// How many there should have been.
    due: usize,
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

async fn polled(pollers: usize, way: Way) -> Result<Polls, Failure> {
    let (simulator, endpoint, gateway) = rig().await?;
    let channels = channels(gateway, pollers.min(10)).await?;
    let end = Instant::now() + POLL_FOR;
    let mut crowd = JoinSet::new();
    for number in 0..pollers {
        // They do not begin in one moment.
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
                // Who is late for a poll has missed it.
                if number > 0 && due < Instant::now() {
                    continue;
                }
                sleep_until(due).await;
                let asked = Instant::now();
                let failed = match way {
                    Way::Alone => {
                        let call = sdk.describe_store_image_tasks().image_ids(IMAGE);
                        call.send().await.is_err()
                    }
                    Way::Gateway => {
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

/// The SDK as it comes: three attempts, with its own backoff.
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
