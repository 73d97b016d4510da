//! The part of the API that is independent of the protocol. It parses requests into queries, and
//! holds the scope policy, page tokens, `cache-status`, the conversion to messages and the error
//! table.
//!
//! A front end, such as gRPC, translates its protocol to this module and back, and decides nothing
//! else. The module knows the contract's messages, but neither tonic nor HTTP.

mod cache_status;
mod convert;
mod ended;
mod error;
mod error_docs;
mod fields;
mod lifetime;
mod list;
mod page_token;
mod reason;
mod retry_delay;
mod scope_policy;
mod sealed;
mod status_code;
mod task_id;
mod violations;
mod watch;

pub use cache_status::{BYPASS, cache_status, remembered_refusal};
pub use convert::watch_message;
pub use error::ApiError;
pub use error_docs::errors_markdown;
pub use lifetime::{Lifetime, Phase, Phases};
pub use list::ListQuery;
pub use reason::GatewayReason;
pub use scope_policy::ScopePolicy;
pub use status_code::StatusCode;
pub use violations::{Violation, Violations};
pub use watch::WatchCall;
