//! The codec of the server: as prost's, but that a list is sent as the bytes that it was encoded to.

use std::marker::PhantomData;

use bytes::{BufMut as _, Bytes};
use prost::Message;
use tonic::{
    Status,
    codec::{self, BufferSettings, EncodeBuf},
};
use tonic_prost::{ProstCodec, ProstDecoder};

use crate::proto::{ListStoreImageTasksResponse, WatchStoreImageTaskResponse};

/// A `ListStoreImageTasksResponse` in protobuf's encoding.
#[derive(Clone, Debug)]
pub struct EncodedList(pub Bytes);

impl EncodedList {
    /// Encodes a list.
    #[must_use]
    pub fn of(list: &ListStoreImageTasksResponse) -> Self {
        Self(list.encode_to_vec().into())
    }
}

/// A message that can be sent.
pub trait Outgoing: Send + 'static {
    /// Writes the message to where tonic sends it from.
    ///
    /// # Errors
    /// Where there is no room; a buffer of tonic's always has some.
    fn put(self, buffer: &mut EncodeBuf<'_>) -> Result<(), Status>;
}

impl Outgoing for EncodedList {
    fn put(self, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(self.0);
        Ok(())
    }
}

impl Outgoing for WatchStoreImageTaskResponse {
    fn put(self, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        self.encode(buffer).map_err(|error| Status::internal(error.to_string()))
    }
}

/// See the module.
#[derive(Debug)]
pub struct Codec<T, U>(PhantomData<fn(U) -> T>);

/// See the module.
#[derive(Debug)]
pub struct Encoder<T>(PhantomData<fn(T)>);

impl<T, U> Default for Codec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T: Outgoing, U: Message + Default + 'static> codec::Codec for Codec<T, U> {
    type Encode = T;
    type Decode = U;
    type Encoder = Encoder<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> Encoder<T> {
        Encoder(PhantomData)
    }

    fn decoder(&mut self) -> ProstDecoder<U> {
        ProstCodec::<U, U>::raw_decoder(BufferSettings::default())
    }
}

impl<T: Outgoing> codec::Encoder for Encoder<T> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, item: T, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        item.put(buffer)
    }
}
