//! `ListStoreImageTasks`: parses a request into a query, and makes the response from the cache's
//! answer.

use std::{
    collections::HashSet,
    time::{Duration, SystemTime},
};

use super::{
    ApiError, ScopePolicy, convert, fields,
    page_token::{self, Fingerprint, PageToken, Place},
    violations::Violations,
};
use crate::{
    cache::{CacheRead, Query},
    domain::{BucketName, ImageId, MAX_FILTER_VALUES, Scope, TaskFilter, wall_clock},
    proto::{ListStoreImageTasksRequest, ListStoreImageTasksResponse},
};

/// Maximum number of `image_ids`.
const MOST_IMAGES: usize = 1_000;
/// Number of tasks on a page without `image_ids` if `page_size` is 0.
const DEFAULT_PAGE_SIZE: usize = 100;
/// Maximum number of tasks on a page. A larger `page_size` is lowered to it.
const LARGEST_PAGE_SIZE: usize = 1_000;
/// Time after the request for the first page during which `max_staleness` counts from that request.
const LONGEST_WALK: Duration = Duration::from_hours(1);
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
    /// The images of the request without duplicates, in its order.
    images: Vec<ImageId>,
    page_size: usize,
    /// The place where the page begins. None means the first page.
    place: Option<Place>,
    /// The time of the request for the first page.
    requested_at: SystemTime,
}

impl ListQuery {
    /// Parses a request.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` that names every invalid field, or `UNAVAILABLE` while the gateway searches for
    /// its region.
    pub fn parse(
        request: &ListStoreImageTasksRequest,
        policy: &ScopePolicy,
    ) -> Result<Self, ApiError> {
        let mut violations = Violations::default();
        let scope = policy.resolve(&mut violations, &request.account, &request.region)?;
        let ids = &request.image_ids;
        let images = fields::names(&mut violations, "image_ids", ids, MOST_IMAGES, ImageId::parse);
        let images = distinct(images);
        let filter = parse_filter(&mut violations, request);
        let default = if images.is_empty() { DEFAULT_PAGE_SIZE } else { images.len() };
        let page_size = parse_page_size(&mut violations, request.page_size, default);
        let max_staleness = match request.max_staleness {
            Some(given) => {
                fields::duration(&mut violations, "max_staleness", given, Duration::ZERO)
            }
            None => None,
        };
        let Some(scope) = scope else { return Err(ApiError::invalid(violations)) };
        let mut token = None;
        // The token's fingerprint covers the other arguments, so it is checked only if they are
        // valid.
        if violations.is_empty() && !request.page_token.is_empty() {
            let fingerprint = Fingerprint::new(&scope, &filter, &images);
            match page_token::read(fingerprint, &request.page_token) {
                Ok(read) => token = Some(read),
                Err(error) => violations.add("page_token", error),
            }
        }
        if !violations.is_empty() {
            return Err(ApiError::invalid(violations));
        }
        let Walk { place, requested_at, max_staleness } = Walk::continued(token, max_staleness);
        let dry_run = request.dry_run;
        Ok(Self { scope, max_staleness, dry_run, filter, images, page_size, place, requested_at })
    }

    /// Refuses a `started_after` in the future. `newest` is the latest start time that EC2 has shown of
    /// the scope.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if it is more than 15 minutes ahead, and later than `newest`.
    pub fn check_started_after(&self, newest: Option<SystemTime>) -> Result<(), ApiError> {
        fields::check_started_after(self.filter.started_after, newest)
    }

    /// The query that the cache must answer.
    #[must_use]
    pub fn cache_query(&self) -> Query {
        if !self.images.is_empty() {
            let first = self.first_image();
            let end = self.images.len().min(first.saturating_add(self.page_size));
            let TaskFilter { states, buckets, started_after } = self.filter.clone();
            let images = self.images[first..end].into();
            return Query::Images { images, buckets, started_after, states };
        }
        let after = match &self.place {
            Some(Place::After(key)) => Some(key.clone()),
            Some(Place::Image(_)) | None => None,
        };
        Query::Listing { filter: self.filter.clone(), after, count: self.page_size }
    }

    /// The response, made from the cache's answer to [`Self::cache_query`].
    #[must_use]
    pub fn response(&self, read: &CacheRead) -> ListStoreImageTasksResponse {
        let mut next_page_token = String::new();
        if let Some(place) = self.next_place(read) {
            let token = PageToken { place, requested_at: self.requested_at };
            let fingerprint = Fingerprint::new(&self.scope, &self.filter, &self.images);
            next_page_token = page_token::write(fingerprint, &token);
        }
        let mut tasks = Vec::with_capacity(read.reading.tasks.len());
        for task in &read.reading.tasks {
            let estimate = read.snapshot.estimated_completion(task);
            tasks.push(convert::task(&self.scope, task, estimate));
        }
        let mut missing_images = Vec::with_capacity(read.reading.missing.len());
        for missing in &read.reading.missing {
            missing_images.push(convert::missing_image(missing));
        }
        ListStoreImageTasksResponse {
            tasks,
            next_page_token,
            as_of: read.as_of().map(|call| call.wall.into()),
            missing_images,
            degraded: convert::stale(read, &self.scope),
            dry_run_permitted: false,
        }
    }

    /// Returns whether the response may be sent again to a byte-identical request. If it has a page
    /// token, the token of a request with a staleness carries the time of that very request, and a
    /// request for images may resolve more images than the one before it. A stale response is made
    /// for its own time.
    #[must_use]
    pub fn is_repeatable(&self, response: &ListStoreImageTasksResponse) -> bool {
        let is_one_time = self.max_staleness.is_some() || !self.images.is_empty();
        response.degraded.is_none() && (response.next_page_token.is_empty() || !is_one_time)
    }

    /// The position of the page's first image in the request.
    fn first_image(&self) -> usize {
        match self.place {
            Some(Place::Image(position)) => self.images.len().min(position as usize),
            Some(Place::After(_)) | None => 0,
        }
    }

    /// The place where the next page begins. None after the last page.
    fn next_place(&self, read: &CacheRead) -> Option<Place> {
        if self.images.is_empty() {
            if !read.reading.more {
                return None;
            }
            return Some(Place::After(read.reading.tasks.last()?.key.clone()));
        }
        let next = self.first_image() + read.reading.images;
        if next >= self.images.len() {
            return None;
        }
        Some(Place::Image(u32::try_from(next).ok()?))
    }
}

/// The walk over pages that a request begins or continues.
struct Walk {
    place: Option<Place>,
    requested_at: SystemTime,
    max_staleness: Option<Duration>,
}

impl Walk {
    /// A staleness that is given counts from the request for the first page, if that is at most an
    /// hour ago.
    fn continued(token: Option<PageToken>, max_staleness: Option<Duration>) -> Self {
        let now = wall_clock();
        let Some(PageToken { place, requested_at }) = token else {
            return Self { place: None, requested_at: now, max_staleness };
        };
        let place = Some(place);
        let elapsed = now.duration_since(requested_at).unwrap_or_default();
        if elapsed > LONGEST_WALK {
            return Self { place, requested_at: now, max_staleness };
        }
        let max_staleness = max_staleness.map(|given| given.saturating_add(elapsed));
        Self { place, requested_at, max_staleness }
    }
}

/// Drops duplicates, and keeps the order.
fn distinct(images: Vec<ImageId>) -> Vec<ImageId> {
    let mut seen = HashSet::new();
    let mut distinct = Vec::with_capacity(images.len());
    for image in images {
        if seen.insert(image) {
            distinct.push(image);
        }
    }
    distinct
}

fn parse_filter(violations: &mut Violations, request: &ListStoreImageTasksRequest) -> TaskFilter {
    let states = fields::states(violations, &request.states);
    let buckets = fields::names(
        violations,
        "buckets",
        &request.buckets,
        MAX_FILTER_VALUES,
        BucketName::parse,
    );
    let started_after = match request.started_after {
        Some(given) => fields::time(violations, "started_after", given),
        None => None,
    };
    TaskFilter { states, buckets: buckets.into_iter().collect(), started_after }
}

fn parse_page_size(violations: &mut Violations, given: i32, default: usize) -> usize {
    match usize::try_from(given) {
        Ok(0) => default,
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
