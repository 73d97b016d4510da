//! The tonic service: hands each RPC to its handler, within its deadline.

use std::sync::Arc;

use futures_util::stream::Empty;
use tonic::{Request, Response, Status, codec::CompressionEncoding};

use super::{
    connection::{caller, lifetime},
    deadline::{self, Deadline},
    edge::EdgeLayer,
    hits::Hits,
    list::ListHandler,
    method::MAX_MESSAGE_BYTES,
    settings::Settings,
    status::status,
    watch::{WatchHandler, WatchStream},
};
use crate::{
    api::{ApiError, GatewayReason, Phase, ScopePolicy},
    cache::Cache,
    proto::{
        EncodedListRequest, EncodedListResponse, WatchStoreImageTaskRequest,
        WatchStoreImageTasksRequest, WatchStoreImageTasksResponse,
        server::store_image_task_service_server::{
            StoreImageTaskService, StoreImageTaskServiceServer,
        },
    },
    watch::Watches,
};

/// The implementation of `amistore.v1.StoreImageTaskService`.
pub struct Service {
    hits: Arc<Hits>,
    list: ListHandler,
    watch: WatchHandler,
    settings: Settings,
}

impl Service {
    /// Creates the service over a cache and its watches. A call ends with its connection, if the
    /// request has the [`Lifetime`](crate::api::Lifetime) of that among its extensions.
    #[must_use]
    pub fn new(
        cache: Arc<Cache>,
        watches: Watches,
        policy: ScopePolicy,
        settings: Settings,
    ) -> Self {
        let policy = Arc::new(policy);
        let hits = Arc::new(Hits::new(cache.ttl(), settings.max_answer_bytes));
        Self {
            hits: hits.clone(),
            list: ListHandler::new(cache, policy.clone(), hits, settings.max_requests),
            watch: WatchHandler::new(watches, policy),
            settings,
        }
    }

    /// The layer that goes around all services of the port. It answers the hits of this service.
    #[must_use]
    pub fn edge(&self) -> EdgeLayer {
        EdgeLayer::new(self.hits.clone(), self.settings.request_timeout)
    }

    /// Wraps the service for tonic's router. It takes compressed requests and sends no compressed
    /// answers: several client libraries accept gzip by default, and to compress an answer costs more
    /// than to make it.
    #[must_use]
    pub fn into_server(self) -> StoreImageTaskServiceServer<Self> {
        StoreImageTaskServiceServer::new(self)
            .accept_compressed(CompressionEncoding::Gzip)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
    }
}

#[tonic::async_trait]
impl StoreImageTaskService for Service {
    async fn list_store_image_tasks(
        &self,
        request: Request<EncodedListRequest>,
    ) -> Result<Response<EncodedListResponse>, Status> {
        let deadline = request.extensions().get::<Deadline>().copied();
        let mut lifetime = lifetime(request.extensions());
        let answer_by = deadline::answer_by(deadline, self.settings.request_timeout);
        let caller = caller(request.extensions());
        let request = request.into_inner();
        let list = self.list.list(request.clone(), &caller, answer_by);
        tokio::select! {
            biased;
            answered = deadline::within(self.settings.request_timeout, list) => answered,
            // The connection ends so soon that the call cannot wait for EC2 any longer.
            () = lifetime.reached(Phase::LastCall) => self.list.list_now(&request),
        }
    }

    type WatchStoreImageTaskStream = WatchStream;

    async fn watch_store_image_task(
        &self,
        request: Request<WatchStoreImageTaskRequest>,
    ) -> Result<Response<WatchStream>, Status> {
        let deadline = request.extensions().get::<Deadline>().copied();
        let lifetime = lifetime(request.extensions());
        let caller = caller(request.extensions());
        let watch = self.watch.begin(request.into_inner(), &caller, deadline, lifetime);
        Ok(Response::new(watch.await?))
    }

    type WatchStoreImageTasksStream = Empty<Result<WatchStoreImageTasksResponse, Status>>;

    async fn watch_store_image_tasks(
        &self,
        _: Request<WatchStoreImageTasksRequest>,
    ) -> Result<Response<Self::WatchStoreImageTasksStream>, Status> {
        let message = "this version of the gateway does not have WatchStoreImageTasks";
        Err(status(ApiError::gateway(GatewayReason::UnknownMethod, message)))
    }
}
