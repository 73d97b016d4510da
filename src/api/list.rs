//! `ListStoreImageTasks`: parses a request into a query, and makes the response from the cache's
//! answer.

use std::time::Duration;

use super::{
    ApiError, ScopePolicy, convert, fields,
    page_token::{self, Fingerprint},
    violations::Violations,
};
use crate::{
    cache::{CacheRead, Page, Query},
    domain::{BucketName, ImageId, MAX_FILTER_VALUES, Scope, TaskFilter, TaskKey},
    proto::{ListStoreImageTasksRequest, ListStoreImageTasksResponse},
};

/// Maximum number of `image_ids`.
const MOST_IMAGES: usize = 1_000;
/// Number of tasks on a page if `page_size` is 0.
const DEFAULT_PAGE_SIZE: usize = 100;
/// Maximum number of tasks on a page. A larger `page_size` is lowered to it.
const LARGEST_PAGE_SIZE: usize = 1_000;

/// A valid request for one page of tasks.
#[derive(Debug)]
pub struct ListQuery {
    /// The account and region that the request is about.
    pub scope: Scope,
    /// Maximum age of the response. None means the gateway's configured default.
    pub max_staleness: Option<Duration>,
    /// A dry run: ask EC2 about the gateway's permission, and list nothing.
    pub dry_run: bool,
    filter: TaskFilter,
    page_size: usize,
    /// The last task of the previous page.
    after: Option<TaskKey>,
}

impl ListQuery {
    /// Parses a request.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` that names every invalid field.
    pub fn parse(
        request: &ListStoreImageTasksRequest,
        policy: &ScopePolicy,
    ) -> Result<Self, ApiError> {
        let mut violations = Violations::default();
        let scope = policy.resolve(&mut violations, &request.account, &request.region);
        let filter = parse_filter(&mut violations, request);
        let page_size = parse_page_size(&mut violations, request.page_size);
        let max_staleness = match request.max_staleness {
            Some(given) => {
                fields::duration(&mut violations, "max_staleness", given, Duration::ZERO)
            }
            None => None,
        };
        let Some(scope) = scope else { return Err(ApiError::invalid(violations)) };
        let mut after = None;
        // The token's fingerprint covers the other arguments, so it is checked only if they are
        // valid.
        if violations.is_empty() && !request.page_token.is_empty() {
            match page_token::read(Fingerprint::new(&scope, &filter), &request.page_token) {
                Ok(place) => after = Some(place),
                Err(error) => violations.add("page_token", error),
            }
        }
        if !violations.is_empty() {
            return Err(ApiError::invalid(violations));
        }
        let dry_run = request.dry_run;
        Ok(Self { scope, max_staleness, dry_run, filter, page_size, after })
    }

    /// The query that the cache must answer.
    #[must_use]
    pub fn cache_query(&self) -> Query {
        if self.asks_for_latest() {
            Query::Latest { images: self.filter.images.clone(), bucket: None }
        } else {
            let (filter, after) = (self.filter.clone(), self.after.clone());
            Query::Listing { filter, after, count: self.page_size }
        }
    }

    /// The response, made from the cache's answer to [`Self::cache_query`].
    #[must_use]
    pub fn response(&self, read: &CacheRead) -> ListStoreImageTasksResponse {
        let page = self.page(read);
        let next_page_token = match page.tasks.last() {
            Some(last) if page.more => {
                page_token::write(Fingerprint::new(&self.scope, &self.filter), &last.key)
            }
            _ => String::new(),
        };
        let mut tasks = Vec::with_capacity(page.tasks.len());
        for task in &page.tasks {
            let estimate = read.snapshot.estimated_completion(task);
            tasks.push(convert::task(&self.scope, task, estimate));
        }
        let as_of = read.as_of().map(|call| call.wall.into());
        ListStoreImageTasksResponse { tasks, next_page_token, as_of }
    }

    /// Returns whether the request selects by image alone. It then asks for the latest task of each
    /// image, as EC2 selects. Any other request asks for a part of the listing.
    fn asks_for_latest(&self) -> bool {
        !self.filter.images.is_empty()
            && self.filter.states.is_empty()
            && self.filter.buckets.is_empty()
    }

    fn page(&self, read: &CacheRead) -> Page {
        let Self { filter, after, page_size, .. } = self;
        if self.asks_for_latest() {
            read.snapshot.latest_page(&filter.images, after.as_ref(), *page_size)
        } else {
            read.snapshot.page(filter, after.as_ref(), *page_size)
        }
    }
}

fn parse_filter(violations: &mut Violations, request: &ListStoreImageTasksRequest) -> TaskFilter {
    let images =
        fields::names(violations, "image_ids", &request.image_ids, MOST_IMAGES, ImageId::parse);
    let states = fields::states(violations, &request.states);
    let buckets = fields::names(
        violations,
        "buckets",
        &request.buckets,
        MAX_FILTER_VALUES,
        BucketName::parse,
    );
    TaskFilter { images, states, buckets }
}

fn parse_page_size(violations: &mut Violations, given: i32) -> usize {
    match usize::try_from(given) {
        Ok(0) => DEFAULT_PAGE_SIZE,
        Ok(size) => size.min(LARGEST_PAGE_SIZE),
        Err(_) => {
            violations.add(
                "page_size",
                format_args!(
                    "must be between 0 and {LARGEST_PAGE_SIZE} (0 = default {DEFAULT_PAGE_SIZE}), got {given}"
                ),
            );
            DEFAULT_PAGE_SIZE
        }
    }
}
