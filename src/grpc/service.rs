//! The tonic service: hands each RPC to its handler, within its deadline.

use std::sync::Arc;

use futures_util::stream::Empty;
use tonic::{Request, Response, Status, codec::CompressionEncoding};

use super::{
    deadline::{self, Deadline},
    list::ListHandler,
    settings::Settings,
    status::status,
    watch::{WatchHandler, WatchStream},
};
use crate::{
    api::{ApiError, GatewayReason, Lifetime, Phase, ScopePolicy},
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

/// Maximum size of a request, unpacked: 1 MiB. tonic stops unpacking there. A request with 1,000
/// image IDs and 200 buckets has 80 KiB.
const LARGEST_REQUEST: usize = 1 << 20;

/// The implementation of `amistore.v1.StoreImageTaskService`.
pub struct Service {
    list: ListHandler,
    watch: WatchHandler,
    settings: Settings,
}

impl Service {
    /// Creates the service over a cache and its watches. A call ends with its connection, if the
    /// request has the [`Lifetime`] of that among its extensions.
    #[must_use]
    pub fn new(
        cache: Arc<Cache>,
        watches: Watches,
        policy: ScopePolicy,
        settings: Settings,
    ) -> Self {
        let policy = Arc::new(policy);
        Self {
            list: ListHandler::new(cache, policy.clone(), settings.max_answer_bytes),
            watch: WatchHandler::new(watches, policy),
            settings,
        }
    }

    /// Wraps the service for tonic's router. It takes compressed requests and sends no compressed
    /// answers: several client libraries accept gzip by default, and to compress an answer costs more
    /// than to make it.
    #[must_use]
    pub fn into_server(self) -> StoreImageTaskServiceServer<Self> {
        StoreImageTaskServiceServer::new(self)
            .accept_compressed(CompressionEncoding::Gzip)
            .max_decoding_message_size(LARGEST_REQUEST)
    }
}

#[tonic::async_trait]
impl StoreImageTaskService for Service {
    async fn list_store_image_tasks(
        &self,
        request: Request<EncodedListRequest>,
    ) -> Result<Response<EncodedListResponse>, Status> {
        if let Some(hit) = self.list.hit(request.get_ref()) {
            return Ok(hit);
        }
        let deadline = request.extensions().get::<Deadline>().copied();
        let lifetime = request.extensions().get::<Lifetime>().cloned();
        let answer_by = deadline::answer_by(deadline, self.settings.request_timeout);
        let request = request.into_inner();
        // Boxed, so that a hit does not reserve the memory that waiting for EC2 takes.
        let list = Box::pin(self.list.list(request.clone(), answer_by));
        tokio::select! {
            biased;
            answered = deadline::within(self.settings.request_timeout, list) => answered,
            () = last_call(lifetime) => self.list.list_now(&request),
        }
    }

    type WatchStoreImageTaskStream = WatchStream;

    async fn watch_store_image_task(
        &self,
        request: Request<WatchStoreImageTaskRequest>,
    ) -> Result<Response<WatchStream>, Status> {
        let deadline = request.extensions().get::<Deadline>().copied();
        let lifetime = request.extensions().get::<Lifetime>().cloned();
        Ok(Response::new(self.watch.begin(request.into_inner(), deadline, lifetime).await?))
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

/// Waits until the call's connection ends so soon that it cannot wait for EC2 any longer.
async fn last_call(lifetime: Option<Lifetime>) {
    match lifetime {
        Some(mut lifetime) => lifetime.reached(Phase::LastCall).await,
        None => std::future::pending().await,
    }
}
