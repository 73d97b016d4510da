//! The gateway as its users see it. One crate, since each one links the SDK again; a module for
//! each capability.

mod cache;
mod errors;
mod list;
mod logs;
mod server;
mod simulator;
mod support;
mod validation;
mod watch;
