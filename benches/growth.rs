//! The cost of a growing snapshot: time for a page, for an image and for a refresh of the head page,
//! each as a ratio to the smallest snapshot, and the memory of a task.
//!
//! The times run from the bytes of the request to the bytes of the answer, without the socket and
//! without cached encoded answers. `cargo bench --bench growth` prints a table. Rounds over all
//! sizes alternate, and each figure is the median of its rounds.

use std::{
    hint::black_box,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, SystemTime},
};

use amistore_gateway::{
    api::ScopePolicy,
    cache::{Cache, Query, ScopeCache, Settings},
    domain::{
        AccountName, Answer, DescribeRequest, DescribeResponse, DescribeTarget, NextToken, Region,
        Scope, TaskFilter, TaskState, UpstreamError, wall_clock,
    },
    grpc::{self, Service},
    proto::{
        EncodedListRequest, ListStoreImageTasksRequest, ListStoreImageTasksResponse,
        server::store_image_task_service_server::StoreImageTaskService as _,
    },
    watch::{self, Watches},
};
use peak_alloc::PeakAlloc;
use prost::Message as _;
use tokio::time::{Instant, sleep};
use tonic::Request;
use tower::util::BoxCloneSyncService;

#[path = "support/account.rs"]
mod account;

use account::{median, task};

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[global_allocator]
static ALLOCATED: PeakAlloc = PeakAlloc;

/// Numbers of tasks.
const SIZES: [u32; 4] = [100, 1_000, 10_000, 100_000];
/// Number of images that are asked for in turn.
const IMAGES: u32 = 64;
/// Number of tasks on an EC2 page: as many as in the smallest snapshot, so that a refresh is the
/// same work for all sizes.
const PAGE: usize = 100;
/// Number of the newest tasks that change with each refresh.
const UNFINISHED: usize = 20;
/// The bucket of all tasks.
const BUCKET: &str = "golden-images";
const ROUNDS: usize = 31;
/// Requests of each kind in a round.
const READS: u32 = 200;
/// Refreshes in a round.
const REFRESHES: u32 = 20;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let mut sizes = Vec::new();
    // The memory of an empty scope does not count as memory of its tasks.
    let (_empty, empty) = Account::loaded(0).await?;
    for size in SIZES {
        let (account, bytes) = Account::loaded(size).await?;
        sizes.push((account, bytes.saturating_sub(empty), Rounds::default()));
    }
    for _ in 0..ROUNDS {
        for (account, _, rounds) in &mut sizes {
            account.measure(rounds).await?;
        }
    }
    println!(
        "| tasks | page of 50 | ratio | an image | ratio | {IMAGES} images in turn, each | ratio | refresh of the head page | ratio | bytes a task |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    let mut smallest = None;
    for (account, bytes, rounds) in sizes {
        let figures = [rounds.page, rounds.image, rounds.images, rounds.refresh].map(median);
        let smallest = *smallest.get_or_insert(figures);
        let figures = figures.iter().zip(smallest).map(|(figure, smallest)| {
            format!("{figure:.2?} | {:.2}", figure.as_secs_f64() / smallest.as_secs_f64())
        });
        let figures = figures.collect::<Vec<_>>().join(" | ");
        let bytes = bytes / usize::try_from(account.size)?;
        println!("| {} | {figures} | {bytes} |", account.size);
    }
    Ok(())
}

/// A scope whose tasks are all in the snapshot.
struct Account {
    size: u32,
    scope: Arc<ScopeCache>,
    service: Service,
    /// Request for a page from the middle of the listing.
    page: EncodedListRequest,
    /// Requests for one image each. The images are spread over the whole listing.
    images: Vec<EncodedListRequest>,
}

/// The time per request or refresh, in each round.
#[derive(Default)]
struct Rounds {
    page: Vec<Duration>,
    image: Vec<Duration>,
    images: Vec<Duration>,
    refresh: Vec<Duration>,
}

impl Account {
    /// Loads an account of this number of tasks. Also returns the bytes that the scope allocates.
    async fn loaded(size: u32) -> Result<(Self, usize), Failure> {
        let before = ALLOCATED.current_usage();
        let start = wall_clock();
        let calls = Arc::new(AtomicU32::new(0));
        let upstream = tower::service_fn(move |request: DescribeRequest| {
            let call = calls.fetch_add(1, Ordering::Relaxed);
            let answer = answer(start, size, call, &request.target);
            async { Ok::<_, UpstreamError>(DescribeResponse::Tasks(answer)) }
        });
        let make_upstream = Arc::new(move |_: &Scope| BoxCloneSyncService::new(upstream.clone()));
        let settings = Settings { ttl: Duration::from_hours(1), ..Settings::default() };
        let cache = Arc::new(Cache::new(settings, make_upstream));
        let region = Region::parse("us-east-1")?;
        let scope = cache.scope(&Scope { account: AccountName::default(), region: region.clone() });
        let found = scope.get(listing(usize::MAX), None).await?;
        assert_eq!(found.snapshot.len(), usize::try_from(size)?, "the snapshot has all tasks");
        drop(found);
        // The refresher still holds the last answer for a moment, which would count as memory of
        // the tasks.
        sleep(Duration::from_millis(50)).await;
        let bytes = ALLOCATED.current_usage().saturating_sub(before);

        let watches = Watches::new(cache.clone(), watch::Settings::default());
        let policy = ScopePolicy { default_region: Some(region).into(), ..ScopePolicy::default() };
        let settings = grpc::Settings { max_answer_bytes: 0, ..grpc::Settings::default() };
        let service = Service::new(cache, watches, policy, settings);
        let page_token = middle(&service, size).await?;
        let page = encoded(&ListStoreImageTasksRequest {
            page_token,
            page_size: 50,
            ..ListStoreImageTasksRequest::default()
        });
        let images = (0..IMAGES).map(|number| {
            let image_ids =
                vec![task(start, number * size / IMAGES, BUCKET).key.image_id.to_string()];
            encoded(&ListStoreImageTasksRequest {
                image_ids,
                ..ListStoreImageTasksRequest::default()
            })
        });
        let images = images.collect();
        Ok((Self { size, scope, service, page, images }, bytes))
    }

    async fn measure(&self, rounds: &mut Rounds) -> Result<(), Failure> {
        let pages = each(READS, async |_| self.ask(&self.page).await);
        rounds.page.push(pages.await?);
        let image = each(READS, async |_| self.ask(&self.images[self.images.len() / 2]).await);
        rounds.image.push(image.await?);
        let images =
            each(READS, async |number| self.ask(&self.images[number % self.images.len()]).await);
        rounds.images.push(images.await?);
        let refreshes = each(REFRESHES, async |_| {
            self.scope.get(listing(100), Some(Duration::ZERO)).await?;
            Ok(())
        });
        rounds.refresh.push(refreshes.await?);
        Ok(())
    }

    async fn ask(&self, request: &EncodedListRequest) -> Result<(), Failure> {
        let list = self.service.list_store_image_tasks(Request::new(request.clone())).await?;
        black_box(list);
        Ok(())
    }
}

/// The page token for the middle of the listing.
async fn middle(service: &Service, size: u32) -> Result<String, Failure> {
    let mut page_token = String::new();
    let mut left = size / 2;
    while left > 0 {
        let page_size = left.min(1000);
        left -= page_size;
        let request = encoded(&ListStoreImageTasksRequest {
            page_token,
            page_size: i32::try_from(page_size)?,
            ..ListStoreImageTasksRequest::default()
        });
        let list = service.list_store_image_tasks(Request::new(request)).await?.into_inner();
        page_token = ListStoreImageTasksResponse::decode(list.message())?.next_page_token;
    }
    Ok(page_token)
}

fn encoded(request: &ListStoreImageTasksRequest) -> EncodedListRequest {
    EncodedListRequest(request.encode_to_vec().into())
}

/// The mean time of one run of the work.
async fn each(
    times: u32,
    mut work: impl AsyncFnMut(usize) -> Result<(), Failure>,
) -> Result<Duration, Failure> {
    let begun = Instant::now();
    for number in 0..times {
        work(usize::try_from(number)?).await?;
    }
    Ok(begun.elapsed() / times)
}

fn listing(count: usize) -> Query {
    Query::Listing { filter: TaskFilter::default(), after: None, count }
}

/// The answer of EC2. The newest tasks are unfinished, and change with each call.
fn answer(start: SystemTime, size: u32, call: u32, target: &DescribeTarget) -> Answer {
    let DescribeTarget::Listing { next, .. } = target else { return Answer::default() };
    let from = next.as_ref().map_or(0, |token| token.0.parse().unwrap_or(size));
    let to = size.min(from + u32::try_from(PAGE).unwrap_or(u32::MAX));
    let next = (to < size).then(|| NextToken(to.to_string().into()));
    let mut tasks: Vec<_> = (from..to).map(|number| task(start, number, BUCKET)).collect();
    for task in tasks.iter_mut().take(if from == 0 { UNFINISHED } else { 0 }) {
        task.state = TaskState::InProgress;
        task.failure_reason = Some(call.to_string().into());
    }
    Answer { tasks, next }
}
