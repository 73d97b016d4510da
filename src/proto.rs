//! The contract, as generated from proto/amistore/v1/store_image_task_service.proto.
#![allow(missing_docs, unreachable_pub, clippy::pedantic, reason = "generated code")]

tonic::include_proto!("amistore.v1");

/// The server's side: as generated, but that a List comes and goes as encoded messages.
pub mod server {
    include!(concat!(env!("OUT_DIR"), "/server/amistore.v1.rs"));
}

/// The contract as a descriptor set, comments included: what reflection serves.
pub const FILE_DESCRIPTOR_SET: &[u8] =
    include_bytes!(concat!(env!("OUT_DIR"), "/amistore_descriptor.bin"));
