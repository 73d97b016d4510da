//! The tonic service: validates requests into the words of the domain, asks the cache or the
//! watches, and converts what comes back. It knows no AWS.

mod cache_status;
mod codec;
mod convert;
mod deadline;
mod list;
mod page_token;
mod response_cache;
mod status;
mod validate;
mod watch;

use std::{pin::Pin, sync::Arc, time::Duration};

use futures_util::Stream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use cache_status::CacheStatus;
pub use codec::{Codec, Decoder, EncodedList, EncodedRequest, Encoder};
use response_cache::ResponseCache;
pub use status::errors_markdown;
pub use validate::Accounts;

use crate::{
    cache::Cache,
    proto::{
        WatchStoreImageTaskRequest, WatchStoreImageTaskResponse,
        server::store_image_task_service_server::{
            StoreImageTaskService, StoreImageTaskServiceServer,
        },
    },
    watch::Watches,
};

/// Largest request that is read: a thousand image IDs and two hundred buckets are 80 KiB.
const LARGEST_REQUEST: usize = 1 << 20;

/// The service.
pub struct Service {
    cache: Arc<Cache>,
    watches: Watches,
    accounts: Accounts,
    settings: Settings,
    draining: CancellationToken,
    responses: ResponseCache,
    cache_status: CacheStatus,
}

/// How the service behaves.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How long a List, or the beginning of a Watch, may take when the client sets no deadline.
    pub request_timeout: Duration,
    /// Most bytes of encoded answers that are kept to be sent again.
    pub max_answer_bytes: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { request_timeout: Duration::from_secs(30), max_answer_bytes: 64 << 20 }
    }
}

impl Service {
    /// A service over this cache and these watches. `draining` ends the watches when the gateway
    /// shuts down.
    #[must_use]
    pub fn new(
        cache: Arc<Cache>,
        watches: Watches,
        accounts: Accounts,
        settings: Settings,
        draining: CancellationToken,
    ) -> Self {
        let responses = ResponseCache::new(settings.max_answer_bytes);
        let cache_status = CacheStatus::new(cache.ttl());
        Self { cache, watches, accounts, settings, draining, responses, cache_status }
    }

    /// The service for tonic's router.
    #[must_use]
    pub fn into_server(self) -> StoreImageTaskServiceServer<Self> {
        StoreImageTaskServiceServer::new(self).max_decoding_message_size(LARGEST_REQUEST)
    }
}

type WatchStream = Pin<Box<dyn Stream<Item = Result<WatchStoreImageTaskResponse, Status>> + Send>>;

#[tonic::async_trait]
impl StoreImageTaskService for Service {
    async fn list_store_image_tasks(
        &self,
        request: Request<EncodedRequest>,
    ) -> Result<Response<EncodedList>, Status> {
        if let Some(hit) = self.hit(request.get_ref()) {
            return Ok(hit);
        }
        let deadline = deadline::of(request.metadata());
        // In a box of its own: a hit should not make room for what it takes to wait.
        let list = Box::pin(self.list(request.into_inner()));
        deadline::within(deadline, self.settings.request_timeout, list).await
    }

    type WatchStoreImageTaskStream = WatchStream;

    async fn watch_store_image_task(
        &self,
        request: Request<WatchStoreImageTaskRequest>,
    ) -> Result<Response<WatchStream>, Status> {
        let deadline = deadline::of(request.metadata());
        let begin = self.begin_watch(request.into_inner(), deadline);
        deadline::within(deadline, self.settings.request_timeout, begin).await
    }
}
