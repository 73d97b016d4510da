//! The contract as generated from `proto/amistore/v1/store_image_task_service.proto`, the codec of
//! its server, and gRPC's framing of messages.

mod codec;
pub mod framing;
mod generated;

pub use codec::{Codec, Decoder, EncodedListRequest, EncodedListResponse, Encoder};
pub use generated::*;
