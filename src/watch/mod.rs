//! The watch engine: standing queries, and the streams that follow them.
//!
//! A [`Watch`] subscribes to the topic of its task, which it shares with all watches of that task.
//! Each scope with watches has one poller. It refreshes the topics when they are due, and publishes
//! each new snapshot of the cache to them, whichever caller caused it. A topic keeps only the
//! newest state: a slow subscriber skips states, so the memory of a stream is bounded and no
//! subscriber waits for another.

mod interval;
mod poller;
mod settings;
mod target;
mod topic;
mod topics;
mod view;
mod watches;

pub use interval::Bounds;
pub use settings::Settings;
pub use view::{Degraded, Ended, State, TaskView};
pub use watches::{Watch, WatchError, WatchQuery, Watches};
