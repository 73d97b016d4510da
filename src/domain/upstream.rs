//! The question that is put to EC2, its answer, and its one error type.

use std::{fmt, sync::Arc, time::Duration};

use tower::util::BoxCloneSyncService;

use super::{ImageId, ListingFilter, Scope, StoreImageTask};

/// Most image IDs that EC2 takes in one call (API reference, `DescribeStoreImageTasks`).
pub const MAX_IMAGES_PER_CALL: usize = 20;

/// Most tasks that EC2 puts on a page (API model of the same action, `MaxResults`).
pub const MAX_TASKS_PER_CALL: u8 = 200;

/// A way to one scope's EC2. A clone shares the rate budget.
pub type Upstream = BoxCloneSyncService<DescribeRequest, DescribeResponse, UpstreamError>;

/// Makes the way to a scope's EC2.
pub type MakeUpstream = Arc<dyn Fn(&Scope) -> Upstream + Send + Sync>;

/// EC2's own pagination token.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NextToken(pub Arc<str>);

/// One `DescribeStoreImageTasks` call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DescribeRequest {
    /// What is asked.
    pub target: DescribeTarget,
    /// Ask only whether it is permitted.
    pub dry_run: bool,
}

/// What one call can ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DescribeTarget {
    /// A page of a listing, newest first.
    Listing {
        /// Of which tasks.
        filter: ListingFilter,
        /// Leads to the page; None is the first.
        next: Option<NextToken>,
    },
    /// The latest task of each image, at most [`MAX_IMAGES_PER_CALL`]. EC2 refuses the whole call
    /// when it refuses one ID.
    Images(Vec<ImageId>),
}

/// What a call brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DescribeResponse {
    /// Tasks.
    Tasks(Answer),
    /// The dry run: it is permitted.
    Permitted,
}

/// The tasks that a call brought.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// The tasks, in EC2's order.
    pub tasks: Vec<StoreImageTask>,
    /// Leads to the next page, if there is one.
    pub next: Option<NextToken>,
}

/// What kind of failure an upstream error is. Decides about retrying, remembering and the gRPC
/// status; a new kind does not compile until each of them knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// EC2 finds the request itself wrong.
    InvalidRequest,
    /// What was asked for does not exist.
    NotFound,
    /// The credentials are good but not allowed to do this.
    Denied,
    /// The credentials are bad, expired or missing.
    Credentials,
    /// The account or the image is not in a state for this.
    AccountState,
    /// Too many calls, by EC2's count.
    Throttled,
    /// The endpoint does not know the action.
    Unsupported,
    /// EC2 is in trouble or cannot be reached.
    Unavailable,
    /// EC2's answer cannot be read.
    MalformedAnswer,
    /// An unknown code with a 4xx status.
    UnknownRefusal,
}

impl ErrorKind {
    /// Every kind, in the order of docs/errors.md.
    pub const ALL: [Self; 10] = [
        Self::InvalidRequest,
        Self::NotFound,
        Self::Denied,
        Self::Credentials,
        Self::AccountState,
        Self::Throttled,
        Self::Unsupported,
        Self::Unavailable,
        Self::MalformedAnswer,
        Self::UnknownRefusal,
    ];

    /// Whether it can heal by itself, so that waiting or asking again makes sense.
    #[must_use]
    pub fn is_transient(self) -> bool {
        match self {
            Self::Throttled | Self::Unavailable | Self::MalformedAnswer => true,
            Self::InvalidRequest
            | Self::NotFound
            | Self::Denied
            | Self::Credentials
            | Self::AccountState
            | Self::Unsupported
            | Self::UnknownRefusal => false,
        }
    }

    /// Whether it says no to everything in the account and region, and not to one question.
    #[must_use]
    pub fn concerns_the_scope(self) -> bool {
        match self {
            Self::Denied | Self::Credentials | Self::AccountState | Self::Unsupported => true,
            Self::InvalidRequest
            | Self::NotFound
            | Self::Throttled
            | Self::Unavailable
            | Self::MalformedAnswer
            | Self::UnknownRefusal => false,
        }
    }

    /// The kind in words, as docs/errors.md has it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidRequest => "invalid request",
            Self::NotFound => "not found",
            Self::Denied => "denied",
            Self::Credentials => "credentials",
            Self::AccountState => "account state",
            Self::Throttled => "throttled",
            Self::Unsupported => "unsupported",
            Self::Unavailable => "unavailable",
            Self::MalformedAnswer => "malformed answer",
            Self::UnknownRefusal => "unknown refusal",
        }
    }
}

/// Why a call to EC2 brought no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct UpstreamError {
    /// What kind of failure it is.
    pub kind: ErrorKind,
    /// EC2's error code, or one of ours in the same style where EC2 said nothing.
    pub code: Arc<str>,
    /// What went wrong, without secrets.
    pub message: Arc<str>,
    /// EC2's request ID, where there was an answer.
    pub request_id: Option<Arc<str>>,
    /// How long EC2 asked to wait.
    pub retry_after: Option<Duration>,
}

impl UpstreamError {
    /// Whether EC2 found fault with an image ID: one bad ID fails a whole call.
    #[must_use]
    pub fn blames_an_image(&self) -> bool {
        self.code.starts_with("InvalidAMIID.")
    }

    /// Whether EC2 no longer takes the pagination token of the call.
    #[must_use]
    pub fn blames_the_token(&self) -> bool {
        matches!(&*self.code, "InvalidNextToken" | "InvalidPaginationToken")
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
