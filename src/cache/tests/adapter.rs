//! The one file that knows how the cache is asked and how its answers are read. All else in the model
//! speaks of [`Ask`] and [`Told`].

use std::{sync::Arc, time::Duration};

use tower::util::BoxCloneSyncService;

use super::{
    ask::{Ask, ImagesAsk, ListingAsk, Missing, Told},
    ec2::{Endpoint, Shared},
};
use crate::{
    cache::{Cache, CacheError, CacheRead, Query, ScopeCache, Settings},
    domain::{AccountName, Region, Scope, TaskFilter},
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
        let cache = Cache::new(settings.clone(), Arc::new(move |_: &Scope| endpoint.clone()));
        let region = Region::parse("us-east-1").expect("valid");
        let scope = cache.scope(&Scope { account: AccountName::default(), region });
        Self { scope, _cache: cache }
    }

    /// Asks the cache.
    pub(super) fn get(
        &self,
        ask: &Ask,
        max_staleness: Option<Duration>,
    ) -> impl Future<Output = Result<Told, CacheError>> + 'static {
        let (scope, ask) = (self.scope.clone(), ask.clone());
        async move { Ok(told(&scope.get(query(&ask), max_staleness).await?)) }
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
            let ImagesAsk { images, states, buckets, started_after } = ask.clone();
            Query::Images { images: images.into(), buckets, started_after, states }
        }
        Ask::Task(key) => Query::Task(key.clone()),
    }
}

fn filter(ask: &ListingAsk) -> TaskFilter {
    let ListingAsk { states, buckets, started_after, .. } = ask.clone();
    TaskFilter { states, buckets, started_after }
}

/// The answer to a question as the caller reads it.
fn told(found: &CacheRead) -> Told {
    let mut missing = Vec::new();
    for image in &found.reading.missing {
        missing.push(Missing {
            image: image.image_id,
            ec2_code: image.ec2_code.clone(),
            known_since: image.known_since,
        });
    }
    Told {
        tasks: found.reading.tasks.clone(),
        missing,
        more: found.reading.more,
        as_of: found.as_of().map(|call| call.instant),
        outcome: found.outcome.clone(),
    }
}
