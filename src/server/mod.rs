//! The process of the gateway: wires the modules together, listens, and drains.

mod connection;
mod drain;
mod health;
mod listener;
mod serve;
mod settings;
mod wiring;

pub use serve::{ServeError, serve};
pub use settings::{ConnectionSettings, DrainSettings, Settings};
