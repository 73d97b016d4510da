//! amistore-gateway: Amazon EC2's store-image tasks over gRPC, from a cache that asks EC2 for
//! everybody at once. ARCHITECTURE.md shows the house and the way of a request through it.

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
