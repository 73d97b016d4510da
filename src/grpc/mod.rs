//! The tonic service: validates requests into the words of the domain, asks the cache or the
//! watches, and converts what comes back. It knows no AWS.

mod cache_status;
mod convert;
mod deadline;
mod list;
mod page_token;
mod status;
mod validate;
mod watch;

use std::{pin::Pin, sync::Arc, time::Duration};

use futures_util::Stream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

pub use status::errors_markdown;
pub use validate::Accounts;

use crate::{
    cache::Cache,
    proto::{
        ListStoreImageTasksRequest, ListStoreImageTasksResponse, WatchStoreImageTaskRequest,
        WatchStoreImageTaskResponse,
        store_image_task_service_server::{StoreImageTaskService, StoreImageTaskServiceServer},
    },
    watch::Watches,
};

/// Largest request that is read: a thousand image IDs and two hundred buckets are 80 KiB.
const LARGEST_REQUEST: usize = 1 << 20;

/// The service.
pub struct Service {
    /// What is known.
    pub cache: Arc<Cache>,
    /// Who is told.
    pub watches: Watches,
    /// Which scopes may be asked for.
    pub accounts: Accounts,
    /// How long a List, or the beginning of a Watch, may take when the client sets no deadline.
    pub request_timeout: Duration,
    /// Ends the watches when the gateway shuts down.
    pub draining: CancellationToken,
}

impl Service {
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
        request: Request<ListStoreImageTasksRequest>,
    ) -> Result<Response<ListStoreImageTasksResponse>, Status> {
        let deadline = deadline::of(request.metadata());
        deadline::within(deadline, self.request_timeout, self.list(request.into_inner())).await
    }

    type WatchStoreImageTaskStream = WatchStream;

    async fn watch_store_image_task(
        &self,
        request: Request<WatchStoreImageTaskRequest>,
    ) -> Result<Response<WatchStream>, Status> {
        let deadline = deadline::of(request.metadata());
        let begin = self.begin_watch(request.into_inner(), deadline);
        deadline::within(deadline, self.request_timeout, begin).await
    }
}
