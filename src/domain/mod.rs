//! The words that every room speaks: scopes, images, tasks, filters, and the question that is put
//! to EC2 with its answer and its errors. Imported by all rooms, imports none of them.

mod bound_log;
mod filter;
mod image;
mod name;
mod task;
mod time;
mod upstream;

pub use bound_log::BoundLog;
pub use filter::{ListingFilter, TaskFilter, TaskStateKind};
pub use image::ImageId;
pub use name::{AccountName, BucketName, NameError, Region, Scope};
pub use task::{StoreImageTask, TaskKey, TaskState};
pub use time::{CallTime, wall_clock};
pub use upstream::{
    Answer, DescribeRequest, DescribeResponse, DescribeTarget, ErrorKind, MAX_IMAGES_PER_CALL,
    MAX_TASKS_PER_CALL, MakeUpstream, NextToken, Upstream, UpstreamError,
};
