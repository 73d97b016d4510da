//! Tests of the gateway over its port, a module per capability. One crate, because each crate of
//! tests links the SDK again.

mod admin;
mod cache;
mod certificates;
mod connections;
mod edge;
mod errors;
mod foreign_streams;
mod list;
mod logs;
mod odd_clients;
mod overload;
mod server;
mod simulator;
mod statuses;
mod support;
mod tls;
mod validation;
mod watch;
mod watch_search;
mod watch_trouble;
mod wire;
