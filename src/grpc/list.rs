//! The handler of `ListStoreImageTasks`.

use std::sync::Arc;

use tokio::time::Instant;
use tonic::{Extensions, Response, Status};

use super::{
    hits::Hits, metadata, request_bound::RequestBound, response_cache::CachedResponse,
    status::status,
};
use crate::{
    api::{ApiError, ListQuery, ScopePolicy},
    cache::{Cache, CacheRead, ScopeCache},
    domain::Caller,
    proto::{EncodedListRequest, EncodedListResponse, ListStoreImageTasksResponse},
};

/// Answers Lists that are no hits: decodes the request, asks the cache, and encodes the response.
pub(super) struct ListHandler {
    cache: Arc<Cache>,
    policy: Arc<ScopePolicy>,
    hits: Arc<Hits>,
    bound: RequestBound,
}

impl ListHandler {
    pub(super) fn new(
        cache: Arc<Cache>,
        policy: Arc<ScopePolicy>,
        hits: Arc<Hits>,
        max_requests: usize,
    ) -> Self {
        Self { cache, policy, hits, bound: RequestBound::new(max_requests) }
    }

    /// The response to a request that [`Hits`] does not answer.
    pub(super) async fn list(
        &self,
        request: EncodedListRequest,
        caller: &Caller,
        answer_by: Instant,
    ) -> Result<Response<EncodedListResponse>, Status> {
        let query = ListQuery::parse(&request.decode()?, &self.policy).map_err(status)?;
        self.answer(&request, &query, caller, answer_by).await.map_err(status)
    }

    /// The response to a request that cannot wait for EC2 any longer, since its connection ends: from
    /// old data if the request takes that.
    ///
    /// # Errors
    /// `SHUTTING_DOWN` if there is no such data.
    pub(super) fn list_now(
        &self,
        request: &EncodedListRequest,
    ) -> Result<Response<EncodedListResponse>, Status> {
        let query = ListQuery::parse(&request.decode()?, &self.policy).map_err(status)?;
        let cache = self.cache.scope(&query.scope);
        if !query.dry_run
            && let Some(read) = cache.get_now(&query.cache_query(), query.max_staleness)
        {
            return Ok(self.respond(request, &query, &cache, &read));
        }
        Err(status(ApiError::shutting_down()))
    }

    async fn answer(
        &self,
        request: &EncodedListRequest,
        query: &ListQuery,
        caller: &Caller,
        answer_by: Instant,
    ) -> Result<Response<EncodedListResponse>, ApiError> {
        let cache = self.cache.scope(&query.scope);
        if query.dry_run {
            return self.bound.run(caller, dry_run(&cache, caller)).await;
        }
        query.check_started_after(cache.newest_start())?;
        let read = match cache.get_known(query.cache_query(), query.max_staleness) {
            Ok(read) => read,
            Err(miss) => {
                let read = async {
                    let read = cache.wait_for(*miss, caller, Some(answer_by)).await;
                    read.map_err(|error| ApiError::cache(&error, &query.scope))
                };
                self.bound.run(caller, read).await?
            }
        };
        Ok(self.respond(request, query, &cache, &read))
    }

    fn respond(
        &self,
        request: &EncodedListRequest,
        query: &ListQuery,
        cache: &Arc<ScopeCache>,
        read: &CacheRead,
    ) -> Response<EncodedListResponse> {
        let metadata = self.hits.headers.metadata(&read.outcome, read.age());
        let response = match self.encoded_from(request, read) {
            Some(response) => response,
            None => self.encode(request, query, cache, read),
        };
        Response::from_parts(metadata, response, Extensions::default())
    }

    /// The encoded response to another caller's identical request, if it was made from the same
    /// snapshot. Callers that waited together share one encoding.
    fn encoded_from(
        &self,
        request: &EncodedListRequest,
        read: &CacheRead,
    ) -> Option<EncodedListResponse> {
        let cached = self.hits.responses.get(&request.0)?;
        if read.is_as(&cached.validator) { Some(cached.response.clone()) } else { None }
    }

    fn encode(
        &self,
        request: &EncodedListRequest,
        query: &ListQuery,
        cache: &Arc<ScopeCache>,
        read: &CacheRead,
    ) -> EncodedListResponse {
        let message = query.response(read);
        let response = EncodedListResponse::new(&message);
        if !query.is_repeatable(&message) {
            return response;
        }
        let cached = CachedResponse {
            scope: Arc::downgrade(cache),
            max_staleness: query.max_staleness,
            validator: read.validator(),
            response: response.clone(),
        };
        self.hits.responses.put(request, cached);
        response
    }
}

async fn dry_run(
    cache: &ScopeCache,
    caller: &Caller,
) -> Result<Response<EncodedListResponse>, ApiError> {
    if let Err(error) = cache.dry_run(Instant::now(), caller).await {
        return Err(ApiError::cache(&error, cache.scope()));
    }
    let permitted = ListStoreImageTasksResponse { dry_run_permitted: true, ..Default::default() };
    let response = EncodedListResponse::new(&permitted);
    Ok(Response::from_parts(metadata::dry_run_permitted(), response, Extensions::default()))
}
