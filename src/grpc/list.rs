//! `ListStoreImageTasks`.

use tonic::{Response, Status, metadata::MetadataValue};

use super::{
    Service, cache_status, convert, page_token, status::status_of_cache, validate::ListQuestion,
};
use crate::{
    cache::{Found, Need, Page, ScopeCache},
    proto::{ListStoreImageTasksRequest, ListStoreImageTasksResponse},
};

impl Service {
    pub(super) async fn list(
        &self,
        request: ListStoreImageTasksRequest,
    ) -> Result<Response<ListStoreImageTasksResponse>, Status> {
        let question = self.accounts.list(&request)?;
        let scope = &question.scope;
        let cache = self.cache.scope(scope).map_err(|error| status_of_cache(&error, scope))?;
        if question.dry_run {
            return dry_run(&cache).await;
        }
        let found = cache.get(question.need(), question.max_staleness).await;
        let found = found.map_err(|error| status_of_cache(&error, scope))?;
        let mut response = Response::new(question.answer(&found));
        if let Some(value) = cache_status::of(&found, self.cache.ttl()) {
            response.metadata_mut().insert(cache_status::CACHE_STATUS, value);
        }
        Ok(response)
    }
}

async fn dry_run(cache: &ScopeCache) -> Result<Response<ListStoreImageTasksResponse>, Status> {
    cache.dry_run().await.map_err(|error| status_of_cache(&error, cache.scope()))?;
    let mut response = Response::new(ListStoreImageTasksResponse::default());
    let metadata = response.metadata_mut();
    metadata.insert("x-ec2-code", MetadataValue::from_static("DryRunOperation"));
    metadata.insert(cache_status::CACHE_STATUS, cache_status::bypass());
    Ok(response)
}

impl ListQuestion {
    /// Images alone ask for the latest task of each, as EC2 answers; everything else is a part of
    /// the listing.
    fn asks_for_latest(&self) -> bool {
        !self.filter.images.is_empty()
            && self.filter.states.is_empty()
            && self.filter.buckets.is_empty()
    }

    fn need(&self) -> Need {
        if self.asks_for_latest() {
            Need::Latest { images: self.filter.images.clone(), bucket: None }
        } else {
            Need::Listing {
                filter: self.filter.clone(),
                after: self.after.clone(),
                count: self.page_size,
            }
        }
    }

    fn page(&self, found: &Found) -> Page {
        let Self { filter, after, page_size, .. } = self;
        if self.asks_for_latest() {
            found.ledger.latest_page(&filter.images, after.as_ref(), *page_size)
        } else {
            found.ledger.page(filter, after.as_ref(), *page_size)
        }
    }

    fn answer(&self, found: &Found) -> ListStoreImageTasksResponse {
        let Page { tasks, more } = self.page(found);
        let last = tasks.last().filter(|_| more);
        ListStoreImageTasksResponse {
            next_page_token: last
                .map(|last| page_token::write(self.fingerprint, &last.key))
                .unwrap_or_default(),
            tasks: tasks
                .iter()
                .map(|task| {
                    convert::task(&self.scope, task, found.ledger.estimated_completion(task))
                })
                .collect(),
            as_of: found.as_of.map(|call| convert::timestamp(call.wall)),
        }
    }
}
