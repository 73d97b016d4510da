//! `ListStoreImageTasks`.

use std::sync::Arc;

use tonic::{Extensions, Response, Status, metadata::MetadataValue};

use super::{
    Service, cache_status,
    codec::{EncodedList, EncodedRequest},
    convert,
    page_token::{self, Fingerprint},
    response_cache::CachedResponse,
    status::status_of_cache,
    validate::{ListPage, ListQuery},
};
use crate::{
    cache::{CacheRead, Outcome, Page, Query, ScopeCache},
    proto::ListStoreImageTasksResponse,
};

impl Service {
    /// The answer, where it is known, new enough and encoded. Who asks the same in the same bytes
    /// as somebody before pays for nothing that was done for them.
    pub(super) fn hit(&self, request: &EncodedRequest) -> Option<Response<EncodedList>> {
        let answer = self.responses.get(request)?;
        let age = answer.scope.upgrade()?.revalidate(&answer.validator, answer.max_staleness)?;
        let metadata = self.cache_status.of(&Outcome::Hit, age);
        Some(Response::from_parts(metadata, answer.list.clone(), Extensions::default()))
    }

    pub(super) async fn list(
        &self,
        request: EncodedRequest,
    ) -> Result<Response<EncodedList>, Status> {
        let ListQuery { page, max_staleness, dry_run } = self.accounts.list(&request.decode()?)?;
        let cache = self.cache.scope(&page.scope);
        let cache = cache.map_err(|error| status_of_cache(&error, &page.scope))?;
        if dry_run {
            return self::dry_run(&cache).await;
        }
        let found = cache.get(page.query(), max_staleness).await;
        let found = found.map_err(|error| status_of_cache(&error, &page.scope))?;
        let metadata = self.cache_status.of(&found.outcome, found.age());
        // A crowd that waited for the same answer has it encoded once, and so has who gets a stale one.
        let known =
            self.responses.get(&request).filter(|answer| answer.validator.is_of(&found.snapshot));
        let list = if let Some(answer) = known {
            answer.list.clone()
        } else {
            let list = EncodedList::of(&page.answer(&found));
            let scope = Arc::downgrade(&cache);
            let validator = found.validator();
            self.responses.put(
                &request,
                CachedResponse { scope, max_staleness, validator, list: list.clone() },
            );
            list
        };
        Ok(Response::from_parts(metadata, list, Extensions::default()))
    }
}

async fn dry_run(cache: &ScopeCache) -> Result<Response<EncodedList>, Status> {
    cache.dry_run().await.map_err(|error| status_of_cache(&error, cache.scope()))?;
    let mut metadata = cache_status::bypass();
    metadata.insert("x-ec2-code", MetadataValue::from_static("DryRunOperation"));
    let empty = EncodedList::of(&ListStoreImageTasksResponse::default());
    Ok(Response::from_parts(metadata, empty, Extensions::default()))
}

impl ListPage {
    /// Images alone ask for the latest task of each, as EC2 answers; everything else is a part of
    /// the listing.
    fn asks_for_latest(&self) -> bool {
        !self.filter.images.is_empty()
            && self.filter.states.is_empty()
            && self.filter.buckets.is_empty()
    }

    fn query(&self) -> Query {
        if self.asks_for_latest() {
            Query::Latest { images: self.filter.images.clone(), bucket: None }
        } else {
            Query::Listing {
                filter: self.filter.clone(),
                after: self.after.clone(),
                count: self.page_size,
            }
        }
    }

    fn read(&self, found: &CacheRead) -> Page {
        let Self { filter, after, page_size, .. } = self;
        if self.asks_for_latest() {
            found.snapshot.latest_page(&filter.images, after.as_ref(), *page_size)
        } else {
            found.snapshot.page(filter, after.as_ref(), *page_size)
        }
    }

    fn answer(&self, found: &CacheRead) -> ListStoreImageTasksResponse {
        let Page { tasks, more } = self.read(found);
        let last = tasks.last().filter(|_| more);
        let fingerprint = || Fingerprint::of(&self.scope, &self.filter);
        ListStoreImageTasksResponse {
            next_page_token: last
                .map(|last| page_token::write(fingerprint(), &last.key))
                .unwrap_or_default(),
            tasks: tasks
                .iter()
                .map(|task| {
                    convert::task(&self.scope, task, found.snapshot.estimated_completion(task))
                })
                .collect(),
            as_of: found.as_of().map(|call| convert::timestamp(call.wall)),
        }
    }
}
