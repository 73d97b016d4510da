//! `ListStoreImageTasks`.

use tonic::{Response, Status, metadata::MetadataValue};

use super::{
    Service, cache_status,
    codec::EncodedList,
    convert,
    page_token::{self, Fingerprint},
    ready::Answer,
    status::status_of_cache,
    validate::ListPage,
};
use crate::{
    cache::{Found, Need, Page, ScopeCache},
    proto::{ListStoreImageTasksRequest, ListStoreImageTasksResponse},
};

impl Service {
    pub(super) async fn list(
        &self,
        request: ListStoreImageTasksRequest,
    ) -> Result<Response<EncodedList>, Status> {
        let question = self.accounts.list(&request)?;
        let page = question.page;
        let cache = self.cache.scope(&page.scope);
        let cache = cache.map_err(|error| status_of_cache(&error, &page.scope))?;
        if question.dry_run {
            return dry_run(&cache).await;
        }
        let ready = self.ready.get(&page);
        let recalled =
            ready.as_ref().and_then(|answer| cache.recall(&answer.basis, question.max_staleness));
        let found = match recalled {
            Some(found) => found,
            None => cache
                .get(page.need(), question.max_staleness)
                .await
                .map_err(|error| status_of_cache(&error, &page.scope))?,
        };
        let cache_status = cache_status::of(&found, self.cache.ttl());
        let list = match ready {
            Some(answer) if answer.basis.is_of(&found.ledger) => answer.list,
            _ => {
                let list = EncodedList::of(&page.answer(&found));
                self.ready.put(page, Answer { basis: found.basis(), list: list.clone() });
                list
            }
        };
        let mut response = Response::new(list);
        if let Some(value) = cache_status {
            response.metadata_mut().insert(cache_status::CACHE_STATUS, value);
        }
        Ok(response)
    }
}

async fn dry_run(cache: &ScopeCache) -> Result<Response<EncodedList>, Status> {
    cache.dry_run().await.map_err(|error| status_of_cache(&error, cache.scope()))?;
    let mut response = Response::new(EncodedList::of(&ListStoreImageTasksResponse::default()));
    let metadata = response.metadata_mut();
    metadata.insert("x-ec2-code", MetadataValue::from_static("DryRunOperation"));
    metadata.insert(cache_status::CACHE_STATUS, cache_status::bypass());
    Ok(response)
}

impl ListPage {
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

    fn read(&self, found: &Found) -> Page {
        let Self { filter, after, page_size, .. } = self;
        if self.asks_for_latest() {
            found.ledger.latest_page(&filter.images, after.as_ref(), *page_size)
        } else {
            found.ledger.page(filter, after.as_ref(), *page_size)
        }
    }

    fn answer(&self, found: &Found) -> ListStoreImageTasksResponse {
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
                    convert::task(&self.scope, task, found.ledger.estimated_completion(task))
                })
                .collect(),
            as_of: found.as_of().map(|call| convert::timestamp(call.wall)),
        }
    }
}
