//! The one file that knows how the cache is asked and how its answers are read. All else in the model
//! speaks of [`Ask`] and [`Told`].

use std::{sync::Arc, time::Duration};

use tower::util::BoxCloneSyncService;

use super::{
    ask::{Ask, ImagesAsk, ListingAsk, Missing, Told},
    ec2::{Endpoint, Shared},
    story::Features,
};
use crate::{
    cache::{Cache, CacheError, CacheRead, Query, ScopeCache, Settings},
    domain::{AccountName, Region, Scope, TaskFilter},
};

/// The stories that the cache answers rightly. Those left out are its known faults.
pub(super) const HOLDS: Features = Features {
    ties: false,
    short_pages: false,
    unsorted: false,
    token_codes: false,
    offsets: false,
    repeated_tokens: false,
    refused_pages: false,
    omissions: false,
    vanishing: true,
    deregistered: false,
    foreign_images: false,
    missing_images: false,
    images_into_buckets: true,
    several_buckets: false,
    images_in_states: false,
    started_after: false,
    clock_leaps: false,
    new_states: false,
    collapsed: false,
    newer_success: false,
    evicted_tasks: false,
    gone_callers: false,
};

/// The cache of one scope, which asks EC2.
pub(super) struct Subject {
    scope: Arc<ScopeCache>,
    /// Keeps the scope.
    _cache: Cache,
}

impl Subject {
    pub(super) fn new(ec2: &Shared, settings: &Settings) -> Self {
        let endpoint = BoxCloneSyncService::new(Endpoint::new(ec2));
        // The search for idle scopes wakes up often, and a story may last for weeks.
        let settings = Settings { scope_idle: Duration::from_hours(100_000), ..settings.clone() };
        let cache = Cache::new(settings, Arc::new(move |_: &Scope| endpoint.clone()));
        let region = Region::parse("us-east-1").expect("valid");
        let scope = Scope { account: AccountName::default(), region };
        let scope = cache.scope(&scope).expect("the first scope");
        Self { scope, _cache: cache }
    }

    /// Asks the cache.
    pub(super) fn get(
        &self,
        ask: &Ask,
        max_staleness: Option<Duration>,
    ) -> impl Future<Output = Result<Told, CacheError>> + 'static {
        let (scope, ask) = (self.scope.clone(), ask.clone());
        async move {
            let found = scope.get(query(&ask), max_staleness).await?;
            Ok(told(&ask, &found))
        }
    }
}

impl Subject {
    /// How many tasks the cache keeps, and how many of them are not finished.
    pub(super) fn tasks_kept(&self) -> (usize, usize) {
        let snapshot = self.scope.subscribe().borrow().clone();
        let unfinished = snapshot.tasks_after(None).filter(|task| !task.state.is_terminal());
        (snapshot.len(), unfinished.count())
    }
}

/// The cache's query for a question.
fn query(ask: &Ask) -> Query {
    match ask {
        Ask::Listing(ask) => {
            Query::Listing { filter: filter(ask), after: ask.after.clone(), count: ask.count }
        }
        Ask::Images(ask) => {
            let ImagesAsk { images, states, buckets, started_after } = ask;
            assert!(states.is_empty() && started_after.is_none() && buckets.len() <= 1);
            let images = images.iter().copied().collect();
            Query::Latest { images, bucket: buckets.first().cloned() }
        }
        Ask::Task(key) => Query::Task(key.clone()),
    }
}

fn filter(ask: &ListingAsk) -> TaskFilter {
    assert!(ask.started_after.is_none());
    let (states, buckets) = (ask.states.clone(), ask.buckets.clone());
    TaskFilter { states, buckets, ..TaskFilter::default() }
}

/// The answer to a question as the caller reads it.
fn told(ask: &Ask, found: &CacheRead) -> Told {
    let as_of = found.as_of().map(|call| call.instant);
    let outcome = found.outcome.clone();
    let mut told = Told { tasks: Vec::new(), missing: Vec::new(), more: false, as_of, outcome };
    match ask {
        Ask::Listing(ask) => {
            let page = found.snapshot.page(&filter(ask), ask.after.as_ref(), ask.count);
            told.tasks = page.tasks;
            told.more = page.more;
        }
        Ask::Images(ask) => {
            let bucket = ask.buckets.first().map(crate::domain::BucketName::as_str);
            for image in &ask.images {
                match found.snapshot.latest(image, bucket) {
                    Some(task) => told.tasks.push(task.clone()),
                    None => {
                        told.missing.push(Missing {
                            image: *image,
                            ec2_code: None,
                            known_since: None,
                        });
                    }
                }
            }
        }
        Ask::Task(key) => told.tasks.extend(found.snapshot.task(key).cloned()),
    }
    told
}
