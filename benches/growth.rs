//! What a growing ledger costs: reading a page, the latest task of an image, and a whole refresh of
//! the head page, each as a ratio to the smallest ledger; and the memory of a task.
//!
//! `cargo bench --bench growth` prints a table. Rounds over all sizes alternate, and each figure is
//! the median of its rounds.

use std::{
    cmp::Reverse,
    hint::black_box,
    sync::Arc,
    time::{Duration, SystemTime},
};

use amistore_gateway::{
    cache::{Cache, Found, Need, ScopeCache, Settings},
    domain::{
        AccountName, Answer, DescribeRequest, DescribeResponse, ImageId, NextToken, Question,
        Region, Scope, StoreImageTask, TaskFilter, TaskKey, TaskState, UpstreamError, wall_clock,
    },
};
use peak_alloc::PeakAlloc;
use tokio::time::Instant;
use tower::util::BoxCloneSyncService;

#[global_allocator]
static ALLOCATED: PeakAlloc = PeakAlloc;

const SIZES: [u32; 4] = [100, 1_000, 10_000, 100_000];
/// EC2's pages, as many as the smallest ledger has: a refresh is the same work for all.
const PAGE: usize = 100;
const ROUNDS: usize = 31;
const READS: u32 = 200;
const REFRESHES: u32 = 20;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut sizes = Vec::new();
    for size in SIZES {
        let before = ALLOCATED.current_usage();
        let account = Account::loaded(size).await?;
        let bytes = ALLOCATED.current_usage().saturating_sub(before);
        sizes.push((account, bytes, Rounds::default()));
    }
    for _ in 0..ROUNDS {
        for (account, _, rounds) in &mut sizes {
            account.measure(rounds).await?;
        }
    }
    println!(
        "| tasks | page of 100 | ratio | latest of an image | ratio | refresh of the head page | ratio | bytes a task |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    let mut smallest = None;
    for (account, bytes, rounds) in sizes {
        let figures = [rounds.page, rounds.image, rounds.refresh].map(median);
        let base = *smallest.get_or_insert(figures);
        let [page, image, refresh] =
            [0, 1, 2].map(|i| (figures[i], figures[i].as_secs_f64() / base[i].as_secs_f64()));
        println!(
            "| {} | {:.2?} | {:.2} | {:.2?} | {:.2} | {:.2?} | {:.2} | {} |",
            account.size,
            page.0,
            page.1,
            image.0,
            image.1,
            refresh.0,
            refresh.1,
            bytes / usize::try_from(account.size)?,
        );
    }
    Ok(())
}

/// A scope whose tasks are all known.
struct Account {
    size: u32,
    start: SystemTime,
    scope: Arc<ScopeCache>,
    // Keeps the scope.
    _cache: Cache,
}

#[derive(Default)]
struct Rounds {
    page: Vec<Duration>,
    image: Vec<Duration>,
    refresh: Vec<Duration>,
}

impl Account {
    async fn loaded(size: u32) -> Result<Self, Box<dyn std::error::Error>> {
        let start = wall_clock();
        let upstream = tower::service_fn(move |request: DescribeRequest| async move {
            Ok::<_, UpstreamError>(DescribeResponse::Tasks(answer(start, size, &request.question)))
        });
        let connect = Arc::new(move |_: &Scope| BoxCloneSyncService::new(upstream));
        let cache = Cache::new(Settings::default(), connect);
        let region = Region::parse("us-east-1")?;
        let scope = cache.scope(&Scope { account: AccountName::default(), region })?;
        let all = listing(usize::MAX);
        let found = scope.get(all, Some(Duration::from_hours(1))).await?;
        assert_eq!(found.ledger.len(), usize::try_from(size)?, "all are known");
        Ok(Self { size, start, scope, _cache: cache })
    }

    async fn measure(&self, rounds: &mut Rounds) -> Result<(), Box<dyn std::error::Error>> {
        let lasts = Some(Duration::from_hours(1));
        let middle = task(self.start, self.size / 2);
        let hundred = listing(100);
        rounds.page.push(
            each(READS, async || {
                let Found { ledger, .. } = self.scope.get(hundred.clone(), lasts).await?;
                let after = (self.size > 100).then_some(&middle.key);
                black_box(ledger.page(&TaskFilter::default(), after, 50));
                Ok(())
            })
            .await?,
        );
        let image = Need::Latest { images: [middle.key.image_id].into(), bucket: None };
        rounds.image.push(
            each(READS, async || {
                let Found { ledger, .. } = self.scope.get(image.clone(), lasts).await?;
                black_box(ledger.latest(&middle.key.image_id, None));
                Ok(())
            })
            .await?,
        );
        rounds.refresh.push(
            each(REFRESHES, async || {
                self.scope.get(hundred.clone(), Some(Duration::ZERO)).await?;
                Ok(())
            })
            .await?,
        );
        Ok(())
    }
}

async fn each(
    times: u32,
    mut work: impl AsyncFnMut() -> Result<(), Box<dyn std::error::Error>>,
) -> Result<Duration, Box<dyn std::error::Error>> {
    let begun = Instant::now();
    for _ in 0..times {
        work().await?;
    }
    Ok(begun.elapsed() / times)
}

fn listing(count: usize) -> Need {
    Need::Listing { filter: TaskFilter::default(), after: None, count }
}

/// EC2, with tasks a second apart.
fn answer(start: SystemTime, size: u32, question: &Question) -> Answer {
    let Question::Listing { next, .. } = question else { return Answer::default() };
    let from = next.as_ref().map_or(0, |token| token.0.parse().unwrap_or(size));
    let to = size.min(from + u32::try_from(PAGE).unwrap_or(u32::MAX));
    let next = (to < size).then(|| NextToken(to.to_string().into()));
    Answer { tasks: (from..to).map(|number| task(start, number)).collect(), next }
}

fn task(start: SystemTime, number: u32) -> StoreImageTask {
    let image_id = ImageId::parse(&format!("ami-{number:017x}")).expect("valid");
    StoreImageTask {
        object_key: format!("{image_id}.bin").into(),
        key: TaskKey {
            start_time: Reverse(start - Duration::from_secs(60 + u64::from(number))),
            image_id,
            bucket: "golden-images".into(),
        },
        state: TaskState::Completed,
        progress: 100,
        failure_reason: None,
    }
}

fn median(mut values: Vec<Duration>) -> Duration {
    values.sort_unstable();
    values[values.len() / 2]
}
