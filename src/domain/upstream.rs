//! One call to EC2: its request, its response, and the service that makes it.

use std::sync::{Arc, Mutex, PoisonError};

use tower::util::BoxCloneSyncService;

use super::{
    attempts::{AttemptEnd, Attempts},
    error::UpstreamError,
    filter::ListingFilter,
    image::ImageId,
    name::Scope,
    task::StoreImageTask,
    time::CallTime,
};

/// The client that calls EC2 for one scope. All clones share one rate budget.
pub type Upstream = BoxCloneSyncService<DescribeRequest, DescribeResponse, UpstreamError>;

/// Makes the client of a scope.
pub type MakeUpstream = Arc<dyn Fn(&Scope) -> Upstream + Send + Sync>;

/// EC2's own pagination token.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NextToken(pub Arc<str>);

/// One `DescribeStoreImageTasks` call.
#[derive(Clone, Debug)]
pub struct DescribeRequest {
    /// The tasks that the call asks for.
    pub target: DescribeTarget,
    /// Whether the call only tests the permission.
    pub dry_run: bool,
    /// The time of the newest attempt. The upstream sets it, and the caller reads it.
    pub attempt: AttemptTime,
}

impl DescribeRequest {
    /// A call that was not attempted yet.
    #[must_use]
    pub fn new(target: DescribeTarget, dry_run: bool) -> Self {
        Self { target, dry_run, attempt: AttemptTime::default() }
    }

    /// A call that was not attempted yet. `attempts` is told of its attempts.
    #[must_use]
    pub fn observed(target: DescribeTarget, attempts: Attempts) -> Self {
        let attempt = AttemptTime { attempts, ..AttemptTime::default() };
        Self { target, dry_run: false, attempt }
    }
}

/// The time at which the newest attempt of a call started. All clones of a request share it, since the
/// layers that retry stand between the caller and the client.
#[derive(Clone, Debug, Default)]
pub struct AttemptTime {
    started: Arc<Mutex<Option<CallTime>>>,
    attempts: Attempts,
}

impl AttemptTime {
    /// Records that an attempt starts now.
    pub fn start(&self) {
        *self.started.lock().unwrap_or_else(PoisonError::into_inner) = Some(CallTime::now());
        self.attempts.start();
    }

    /// Records how the attempt ended.
    pub fn end(&self, end: AttemptEnd<'_>) {
        self.attempts.end(end);
    }

    /// The time of the newest attempt. None if the upstream does not record it.
    #[must_use]
    pub fn started(&self) -> Option<CallTime> {
        *self.started.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The tasks that one call can ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DescribeTarget {
    /// A page of a listing, newest first.
    Listing {
        /// The filter of the listing.
        filter: ListingFilter,
        /// The token of the page. None asks for the first page.
        next: Option<NextToken>,
    },
    /// The latest task of each image, for at most [`MAX_IMAGES_PER_CALL`] images. If EC2 refuses
    /// one ID, it refuses the whole call.
    ///
    /// [`MAX_IMAGES_PER_CALL`]: super::MAX_IMAGES_PER_CALL
    Images(Vec<ImageId>),
}

/// The response to one call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DescribeResponse {
    /// The response to a call for tasks.
    Tasks(Answer),
    /// The response to a dry run that is permitted.
    Permitted,
}

/// The tasks of one response.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// The tasks, in EC2's order.
    pub tasks: Vec<StoreImageTask>,
    /// The token of the next page. None on the last page.
    pub next: Option<NextToken>,
}
