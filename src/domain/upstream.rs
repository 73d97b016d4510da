//! One call to EC2: its request, its response, and the service that makes it.

use std::sync::Arc;

use tower::util::BoxCloneSyncService;

use super::{
    error::UpstreamError, filter::ListingFilter, image::ImageId, name::Scope, task::StoreImageTask,
};

/// The client that calls EC2 for one scope. All clones share one rate budget.
pub type Upstream = BoxCloneSyncService<DescribeRequest, DescribeResponse, UpstreamError>;

/// Makes the client of a scope.
pub type MakeUpstream = Arc<dyn Fn(&Scope) -> Upstream + Send + Sync>;

/// EC2's own pagination token.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NextToken(pub Arc<str>);

/// One `DescribeStoreImageTasks` call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DescribeRequest {
    /// The tasks that the call asks for.
    pub target: DescribeTarget,
    /// Whether the call only tests the permission.
    pub dry_run: bool,
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
