//! The watch engine: standing queries, and the streams that follow them.
//!
//! A [`Watch`] subscribes to the topic of its [`Target`], which it shares with all watches of that
//! target. Each scope with watches has one poller. It refreshes the topics when they are due, and
//! publishes each new snapshot of the cache to them, whichever caller caused it. A topic keeps only the
//! newest state: a slow subscriber skips states, so the memory of a stream is bounded and no
//! subscriber waits for another.

mod interval;
mod poller;
mod settings;
mod stream;
mod target;
mod topic;
mod topics;
mod trouble;
mod view;
mod watches;

pub use interval::Bounds;
pub use settings::Settings;
pub use stream::Watch;
pub use target::{Candidate, Target};
pub use trouble::{Degraded, Trouble};
pub use view::{Ended, Kind, Message, NoTask, TaskView, Waiting};
pub use watches::{TooManyWatches, WatchQuery, Watches};
