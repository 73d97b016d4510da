//! How a scope whose queries cost much to plan disturbs another one: p99 of hits in a calm scope, while
//! a thousand callers ask a large one for rare buckets, as a ratio to p99 beside a process that burns as
//! much CPU time: the plans and their callers keep both worker threads busy.
//!
//! `cargo bench --bench contention` prints a table. Rounds alternate, and each figure is the median of
//! its rounds.

use std::{
    env, hint,
    process::{Child, Command},
    sync::Arc,
    thread,
    time::{Duration, SystemTime},
};

use amistore_gateway::{
    cache::{Cache, Query, ScopeCache, Settings},
    domain::{
        AccountName, Answer, BucketName, DescribeRequest, DescribeResponse, DescribeTarget,
        NextToken, Region, Scope, TaskFilter, UpstreamError, wall_clock,
    },
};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};
use tower::util::BoxCloneSyncService;

#[path = "support/account.rs"]
mod account;

use account::{median, task};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Number of threads that burn CPU time, and that run tasks.
const WORKERS: usize = 2;
/// Tasks of the large scope, and of the calm one.
const LARGE: u32 = 100_000;
const CALM: u32 = 100;
/// Number of callers in the large scope, each with a bucket of its own.
const CALLERS: u32 = 1_000;
const BUCKETS: u32 = 2_000;
/// Tasks on an EC2 page, and how long a call takes.
const PAGE: u32 = 200;
const CALL: Duration = Duration::from_millis(2);
const ROUNDS: usize = 7;
const ROUND: Duration = Duration::from_secs(3);
/// Time in which all callers come.
const ARRIVAL: Duration = Duration::from_millis(500);
/// Time between two hits.
const PAUSE: Duration = Duration::from_millis(1);
/// The argument with which this program only burns CPU time.
const BURN: &str = "burn";

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<(), Failure> {
    if env::args().any(|argument| argument == BURN) {
        thread::scope(|scope| {
            for _ in 0..WORKERS {
                scope.spawn(|| {
                    loop {
                        hint::spin_loop();
                    }
                });
            }
        });
    }
    let cache = cache();
    let (large, calm) = (scope(&cache, "us-east-1")?, scope(&cache, "eu-west-1")?);
    for scope in [&large, &calm] {
        scope.get(listing(None, usize::MAX)?, None).await?;
    }
    let mut figures: [Vec<Duration>; 3] = Default::default();
    for _ in 0..ROUNDS {
        figures[0].push(p99_of_hits(&calm).await?);
        let burning = Burning::start()?;
        figures[1].push(p99_of_hits(&calm).await?);
        drop(burning);
        let mut callers = ask_for_rare_buckets(&large)?;
        // The callers have come, which is work of their own tasks. From now on the plans are the work.
        sleep(ARRIVAL).await;
        figures[2].push(p99_of_hits(&calm).await?);
        callers.shutdown().await;
    }
    let [alone, burning, planning] = figures.map(median);
    let ratio = planning.as_secs_f64() / burning.as_secs_f64();
    println!(
        "| p99 of a hit, alone | beside a process that burns CPU | beside plans for {CALLERS} rare buckets of {LARGE} tasks | ratio |"
    );
    println!("|---|---|---|---|");
    println!("| {alone:.2?} | {burning:.2?} | {planning:.2?} | {ratio:.2} |");
    Ok(())
}

/// A process that burns CPU time until it is dropped.
struct Burning(Child);

impl Burning {
    fn start() -> Result<Self, Failure> {
        Ok(Self(Command::new(env::current_exe()?).arg(BURN).spawn()?))
    }
}

impl Drop for Burning {
    fn drop(&mut self) {
        // It has no other end, so neither call fails.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Callers that ask again and again, each for its bucket, and take nothing old.
fn ask_for_rare_buckets(large: &Arc<ScopeCache>) -> Result<JoinSet<()>, Failure> {
    let mut callers = JoinSet::new();
    for number in 0..CALLERS {
        let (large, query) = (large.clone(), listing(Some(number), 100)?);
        callers.spawn(async move {
            while large.get(query.clone(), Some(Duration::ZERO)).await.is_ok() {}
        });
    }
    Ok(callers)
}

/// The time that one hit in a hundred exceeds, from its task's start to its answer.
async fn p99_of_hits(calm: &Arc<ScopeCache>) -> Result<Duration, Failure> {
    let (begun, mut times) = (Instant::now(), Vec::new());
    while begun.elapsed() < ROUND {
        let (calm, query) = (calm.clone(), listing(None, 20)?);
        let asked = Instant::now();
        let hit = tokio::spawn(async move { calm.get(query, None).await.map(|read| read.outcome) });
        hit.await??;
        times.push(asked.elapsed());
        sleep(PAUSE).await;
    }
    times.sort_unstable();
    Ok(times[times.len() * 99 / 100])
}

fn cache() -> Cache {
    let start = wall_clock();
    let make_upstream = Arc::new(move |scope: &Scope| {
        let size = if scope.region.as_str() == "us-east-1" { LARGE } else { CALM };
        BoxCloneSyncService::new(tower::service_fn(move |request: DescribeRequest| async move {
            sleep(CALL).await;
            let answer = answer(start, size, &request.target);
            Ok::<_, UpstreamError>(DescribeResponse::Tasks(answer))
        }))
    });
    let settings = Settings { ttl: Duration::from_hours(1), ..Settings::default() };
    Cache::new(settings, make_upstream)
}

fn scope(cache: &Cache, region: &str) -> Result<Arc<ScopeCache>, Failure> {
    Ok(cache.scope(&Scope { account: AccountName::default(), region: Region::parse(region)? }))
}

fn listing(bucket: Option<u32>, count: usize) -> Result<Query, Failure> {
    let mut filter = TaskFilter::default();
    if let Some(bucket) = bucket {
        filter.buckets.insert(BucketName::parse(&bucket_name(bucket))?);
    }
    Ok(Query::Listing { filter, after: None, count })
}

fn bucket_name(number: u32) -> String {
    format!("bucket-{:04}", number % BUCKETS)
}

/// EC2's answer. All tasks are finished, and started 20 seconds apart.
fn answer(start: SystemTime, size: u32, target: &DescribeTarget) -> Answer {
    let DescribeTarget::Listing { filter, next } = target else { return Answer::default() };
    let from = next.as_ref().map_or(0, |token| token.0.parse().unwrap_or(size));
    let mut tasks = Vec::new();
    let mut number = from;
    while number < size && tasks.len() < PAGE as usize {
        let bucket = bucket_name(number);
        if filter.buckets.is_empty() || filter.buckets.iter().any(|name| name.as_str() == bucket) {
            tasks.push(task(start, number, &bucket));
        }
        number += 1;
    }
    let next = (number < size).then(|| NextToken(number.to_string().into()));
    Answer { tasks, next }
}
