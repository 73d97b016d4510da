//! The code that `build.rs` generates from the contract.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::doc_lazy_continuation,
    clippy::pedantic,
    reason = "generated code"
)]

tonic::include_proto!("amistore.v1");

/// The generated server, changed so that it receives and sends a List as encoded bytes.
pub mod server {
    include!(concat!(env!("OUT_DIR"), "/server/amistore.v1.rs"));
}

/// The contract as a descriptor set with comments, which the reflection service sends to clients.
pub const FILE_DESCRIPTOR_SET: &[u8] =
    include_bytes!(concat!(env!("OUT_DIR"), "/amistore_descriptor.bin"));
