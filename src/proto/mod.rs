//! The contract as generated from `proto/amistore/v1/store_image_task_service.proto`, and the codec
//! of its server.

mod codec;
mod generated;

pub use codec::{Codec, Decoder, EncodedListRequest, EncodedListResponse, Encoder};
pub use generated::*;
