//! Telemetry of the process, for its operators: log lines.
//!
//! Every module emits `tracing` events. Only this module decides which of them are written, where
//! and in which format.

mod log_writer;
pub mod logs;
mod panics;
