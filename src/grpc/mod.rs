//! The gRPC front end: a tonic service that translates requests for [`crate::api`], asks the cache
//! or the watches, and renders responses and errors. It does not use AWS's crates.

mod connection;
mod deadline;
mod edge;
mod foreign_body;
mod foreign_status;
mod foreign_streams;
mod hits;
mod list;
mod metadata;
mod method;
mod reflection;
mod request_bound;
mod response_cache;
mod service;
mod settings;
mod status;
mod watch;

pub use edge::{Edge, EdgeFuture, EdgeLayer};
pub use foreign_streams::{ForeignStreams, ForeignStreamsLayer};
pub use method::MAX_FOREIGN_MESSAGE_BYTES;
pub use service::Service;
pub use settings::Settings;
pub use status::refusal;
