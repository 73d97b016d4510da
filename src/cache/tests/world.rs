//! An EC2 for the tests of rules and faults: tasks that tests change, and ways in which EC2 errs.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, sleep};
use tower::util::BoxCloneSyncService;

use super::support::{Clock, image_id};
use crate::{
    cache::{Cache, CacheError, CacheRead, Query, ScopeCache, Settings},
    domain::{
        AccountName, Answer, BucketName, DescribeRequest, DescribeResponse, DescribeTarget,
        ErrorKind, ImageId, ListingFilter, NextToken, Region, Scope, StoreImageTask, TaskFilter,
        TaskState, TaskStateKind, UpstreamError,
    },
};

/// What EC2 does with the tokens of pages from some page on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tokens {
    /// Takes them.
    Taken,
    /// Refuses those that lead to this page or below, with this code.
    RefusedFrom(usize, &'static str),
    /// Gives the token of the page that it was asked for.
    Repeated,
    /// The token of this page leads back to page 1.
    BackFrom(usize),
}

/// An EC2.
pub(super) struct Ec2 {
    pub(super) tasks: Vec<StoreImageTask>,
    /// Tasks a page.
    pub(super) page: usize,
    /// EC2's answer to look-ups of an image.
    pub(super) refused: BTreeMap<ImageId, &'static str>,
    /// Whether EC2 names the image that it refuses.
    pub(super) names_images: bool,
    /// EC2's answer to everything.
    pub(super) broken: Option<(ErrorKind, &'static str)>,
    pub(super) tokens: Tokens,
    /// The first page is empty and has a token.
    pub(super) empty_first_page: bool,
    /// The next listings leave these images out.
    pub(super) left_out: Vec<ImageId>,
    pub(super) latency: Duration,
    /// When each attempt of the next calls starts; the last one is answered.
    pub(super) attempts: Vec<Duration>,
    pub(super) calls: Vec<DescribeTarget>,
}

impl Ec2 {
    fn answer(&mut self, target: &DescribeTarget) -> Result<Answer, UpstreamError> {
        self.calls.push(target.clone());
        if let Some((kind, code)) = self.broken {
            return Err(error(kind, code, "on purpose"));
        }
        match target {
            DescribeTarget::Images(images) => self.look_up(images),
            DescribeTarget::Listing { filter, next } => self.list(filter, next.as_ref()),
        }
    }

    fn look_up(&self, images: &[ImageId]) -> Result<Answer, UpstreamError> {
        for image in images {
            if let Some(code) = self.refused.get(image) {
                let kind = if *code == "AuthFailure" {
                    ErrorKind::Credentials
                } else {
                    ErrorKind::NotFound
                };
                let name = if self.names_images { image.to_string() } else { "an image".into() };
                return Err(error(kind, code, &format!("EC2 refuses {name}")));
            }
        }
        let mut tasks = Vec::new();
        for image in images {
            let of_image = self.tasks.iter().filter(|task| task.key.image_id == *image);
            tasks.extend(of_image.min_by(|one, two| one.key.cmp(&two.key)).cloned());
        }
        Ok(Answer { tasks, next: None })
    }

    fn list(
        &self,
        filter: &ListingFilter,
        next: Option<&NextToken>,
    ) -> Result<Answer, UpstreamError> {
        let page: usize = next.map_or(0, |token| token.0.parse().expect("ours"));
        if let Tokens::RefusedFrom(first, code) = self.tokens
            && page >= first
        {
            return Err(error(ErrorKind::InvalidRequest, code, "the token is bad"));
        }
        let mut listed: Vec<_> = self.tasks.iter().filter(|task| filter.matches(task)).collect();
        // EC2 promises nothing about the order of tasks that started at the same time.
        listed.sort_by_key(|task| task.key.start_time);
        listed.retain(|task| !self.left_out.contains(&task.key.image_id));
        let shift = usize::from(self.empty_first_page);
        let first = page.saturating_sub(shift) * self.page;
        let count = if page < shift { 0 } else { self.page };
        let tasks: Vec<_> = listed.iter().skip(first).take(count).copied().cloned().collect();
        let more = first + count < listed.len() || page < shift;
        let following = match self.tokens {
            Tokens::Repeated if page > 0 => page,
            Tokens::BackFrom(last) if page == last => 1,
            _ => page + 1,
        };
        Ok(Answer { tasks, next: more.then(|| NextToken(following.to_string().into())) })
    }
}

fn error(kind: ErrorKind, code: &str, message: &str) -> UpstreamError {
    UpstreamError {
        kind,
        code: code.into(),
        message: message.into(),
        cause: None,
        request_id: None,
        retry_after: None,
    }
}

/// A scope's cache, and EC2 behind it.
pub(super) struct World {
    pub(super) clock: Clock,
    ec2: Arc<Mutex<Ec2>>,
    pub(super) cache: Cache,
    pub(super) scope: Arc<ScopeCache>,
}

impl World {
    pub(super) fn new() -> Self {
        Self::with(Settings::default())
    }

    pub(super) fn with(settings: Settings) -> Self {
        let ec2 = Arc::new(Mutex::new(Ec2 {
            tasks: Vec::new(),
            page: 10,
            refused: BTreeMap::new(),
            names_images: true,
            broken: None,
            tokens: Tokens::Taken,
            empty_first_page: false,
            left_out: Vec::new(),
            latency: Duration::from_millis(100),
            attempts: Vec::new(),
            calls: Vec::new(),
        }));
        let behind = ec2.clone();
        let upstream = tower::service_fn(move |request: DescribeRequest| {
            let ec2 = behind.clone();
            async move {
                let begun = Instant::now();
                let attempts = std::mem::take(&mut lock(&ec2).attempts);
                for attempt in attempts {
                    tokio::time::sleep_until(begun + attempt).await;
                    request.attempt.start();
                }
                // EC2's state is that of the call's arrival.
                let (answer, latency) = {
                    let mut ec2 = lock(&ec2);
                    (ec2.answer(&request.target), ec2.latency)
                };
                sleep(latency).await;
                match answer {
                    Ok(_) if request.dry_run => Ok(DescribeResponse::Permitted),
                    answer => answer.map(DescribeResponse::Tasks),
                }
            }
        });
        let make = Arc::new(move |_: &Scope| BoxCloneSyncService::new(upstream.clone()));
        let cache = Cache::new(settings, make);
        let scope = cache.scope(&scope("us-east-1"));
        Self { clock: Clock::beginning_now(), ec2, cache, scope }
    }

    pub(super) fn ec2(&self) -> MutexGuard<'_, Ec2> {
        lock(&self.ec2)
    }

    /// Adds terminal tasks, a minute apart, the first one `minutes` old.
    pub(super) fn add_done(&self, images: impl IntoIterator<Item = u64>, minutes: u64) {
        for (age, image) in (minutes..).zip(images) {
            let task = self.clock.task(image, age, TaskState::Completed, 100);
            self.ec2().tasks.push(task);
        }
    }

    /// Adds a task in progress.
    pub(super) fn add_running(&self, image: u64, minutes: u64) -> StoreImageTask {
        let task = self.clock.task(image, minutes, TaskState::InProgress, 5);
        self.ec2().tasks.push(task.clone());
        task
    }

    pub(super) fn calls(&self) -> usize {
        self.ec2().calls.len()
    }

    pub(super) async fn get(&self, query: Query) -> Result<CacheRead, CacheError> {
        self.scope.get(query, None).await
    }

    /// Nothing older than this request.
    pub(super) async fn get_now(&self, query: Query) -> Result<CacheRead, CacheError> {
        self.scope.get(query, Some(Duration::ZERO)).await
    }
}

fn lock(ec2: &Mutex<Ec2>) -> MutexGuard<'_, Ec2> {
    ec2.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn scope(region: &str) -> Scope {
    Scope { account: AccountName::default(), region: Region::parse(region).expect("valid") }
}

pub(super) fn all(count: usize) -> Query {
    listing(&[], None, count)
}

pub(super) fn listing(states: &[TaskStateKind], bucket: Option<&str>, count: usize) -> Query {
    let mut filter =
        TaskFilter { states: states.iter().copied().collect(), ..TaskFilter::default() };
    filter.buckets.extend(bucket.map(bucket_name));
    Query::Listing { filter, after: None, count }
}

fn bucket_name(name: &str) -> BucketName {
    BucketName::parse(name).expect("valid")
}

pub(super) fn latest(images: impl IntoIterator<Item = u64>) -> Query {
    Query::Images {
        images: images.into_iter().map(image_id).collect(),
        buckets: BTreeSet::new(),
        started_after: None,
        states: BTreeSet::new(),
    }
}
