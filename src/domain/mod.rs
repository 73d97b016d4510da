//! The types that all modules share: scopes, images, tasks, filters, EC2's limits, callers and their
//! shares of a bound, and one call to EC2 with its response and its errors. All modules import this one, and it imports none of them.

mod attempts;
mod bound_log;
mod caller;
mod caller_shares;
mod default_region;
mod duration;
mod error;
mod error_code;
mod error_kind;
mod fair_permits;
mod filter;
mod image;
mod limits;
#[cfg(test)]
pub(crate) mod log_capture;
mod log_text;
mod name;
mod peer_identity;
mod readiness;
mod task;
mod time;
mod upstream;

pub use attempts::{AttemptEnd, AttemptFailure, AttemptState, Attempts};
pub use bound_log::BoundLog;
pub use caller::Caller;
pub use caller_shares::CallerShares;
pub use default_region::{DefaultRegion, EndSearch, RegionSearch};
pub use duration::{CALENDAR_UNIT, has_calendar_unit, parse_duration};
pub use error::{UpstreamError, code_blames_an_image, code_blames_the_token};
pub use error_code::{ErrorCode, GatewayCode};
pub use error_kind::ErrorKind;
pub use fair_permits::{FairPermit, FairPermits};
pub use filter::{ListingFilter, TaskFilter, TaskStateKind};
pub use image::ImageId;
pub use limits::{MAX_FILTER_VALUES, MAX_IMAGES_PER_CALL, MAX_TASKS_PER_CALL, TASK_LISTED_FOR};
pub use log_text::log_text;
pub use name::{AccountName, BucketName, NameError, Region, Scope};
pub use peer_identity::{NameField, PeerIdentity};
pub use readiness::Readiness;
pub use task::{StoreImageTask, TaskKey, TaskState};
#[cfg(test)]
pub(crate) use time::wall_offset;
pub use time::{CallTime, wall_clock};
pub use upstream::{
    Answer, AttemptTime, DescribeRequest, DescribeResponse, DescribeTarget, MakeUpstream,
    NextToken, Upstream,
};
