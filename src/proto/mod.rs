//! The contract as generated from `proto/amistore/v1/store_image_task_service.proto`, and the codec
//! of its server.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::doc_lazy_continuation,
    clippy::pedantic,
    reason = "generated code"
)]

mod codec;

pub use codec::{Codec, Decoder, EncodedListRequest, EncodedListResponse, Encoder};

tonic::include_proto!("amistore.v1");

/// The generated server, changed so that it receives and sends a List as encoded bytes.
pub mod server {
    include!(concat!(env!("OUT_DIR"), "/server/amistore.v1.rs"));
}

/// The contract as a descriptor set with comments, which the reflection service sends to clients.
pub const FILE_DESCRIPTOR_SET: &[u8] =
    include_bytes!(concat!(env!("OUT_DIR"), "/amistore_descriptor.bin"));
