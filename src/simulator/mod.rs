//! A simulator of EC2's Query API: `DescribeStoreImageTasks` and `CreateStoreImageTask` over HTTP, in
//! this process. The real SDKs, with their signing and XML readers, talk to it.
//!
//! It reproduces the traps of EC2's behaviour: quotas, pagination tokens that expire, late tasks,
//! and one bad image ID that fails a whole call. Of the gateway it uses only the domain's limits.
//! It does not check signatures, and takes only the access key and the region from them.

mod action;
mod answer;
mod ec2;
mod fault;
mod http;
mod journal;
mod page_token;
mod query;
mod quota;
mod refusal;
mod reply;
mod schedule;
mod settings;
mod story;
mod task;
mod world;

pub use ec2::Simulator;
pub use fault::{Fault, FaultKind, Wire};
pub use http::serve;
pub use journal::{Entry, Journal};
pub use page_token::TokenFault;
pub use quota::Quota;
pub use schedule::{FailingBucket, Trouble, Window};
pub use settings::{Settings, Story};
pub use task::{Outcome, TaskPlan};
