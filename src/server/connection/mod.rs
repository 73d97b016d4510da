//! The connections of the gateway's port: how each is served, and what no peer can do to it.
//!
//! [`Connections`] knows them all, and bounds the bytes that they hold together. A connection has a
//! task that runs hyper ([`serve()`]); what happens on it is counted in its [`state::Connection`], by the
//! wrappers of its socket ([`io`]) and of the bodies of its calls ([`body`]). What takes too long is
//! found by one task for all connections ([`reaper`]). So no connection needs a timer of its own.

mod account;
mod body;
mod executor;
mod incidents;
mod io;
mod reaper;
mod registry;
mod serve;
mod service;
mod state;
mod stream;

pub(super) use reaper::Drained;
pub(super) use registry::Connections;
pub(super) use serve::serve;
