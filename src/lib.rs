//! Lists and watches Amazon EC2's store-image tasks over gRPC, from a cache that shares EC2 calls
//! among all callers. ARCHITECTURE.md shows the modules and the path of a request through them.

pub mod admin;
pub mod api;
pub mod cache;
pub mod commands;
pub mod domain;
pub mod ec2;
pub mod grpc;
pub mod proto;
pub mod server;
pub mod simulator;
pub mod telemetry;
pub mod watch;
