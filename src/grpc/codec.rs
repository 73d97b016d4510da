//! The codec of the server: as prost's, but that a List comes as the bytes that it was asked in, and
//! is answered with the bytes that it was encoded to. Who asks the same again is known by the bytes.

use std::marker::PhantomData;

use bytes::{Buf as _, BufMut as _, Bytes};
use prost::{DecodeError, Message};
use tonic::{
    Status,
    codec::{self, DecodeBuf, EncodeBuf},
};

use crate::proto::{
    ListStoreImageTasksRequest, ListStoreImageTasksResponse, WatchStoreImageTaskRequest,
    WatchStoreImageTaskResponse,
};

/// A `ListStoreImageTasksRequest` in protobuf's encoding, not looked at yet.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EncodedRequest(pub Bytes);

impl EncodedRequest {
    pub(super) fn decode(&self) -> Result<ListStoreImageTasksRequest, Status> {
        ListStoreImageTasksRequest::decode(&*self.0).map_err(|error| unreadable(&error))
    }

    /// The same in memory of its own: as it came it is a part of all that was read from the socket.
    pub(super) fn compact(&self) -> Self {
        Self(Bytes::copy_from_slice(&self.0))
    }
}

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

/// A message that can be received.
pub trait Incoming: Sized + Send + 'static {
    /// Reads the message from where tonic received it.
    ///
    /// # Errors
    /// Where it is not in protobuf's encoding.
    fn take(buffer: &mut DecodeBuf<'_>) -> Result<Self, Status>;
}

impl Incoming for EncodedRequest {
    fn take(buffer: &mut DecodeBuf<'_>) -> Result<Self, Status> {
        Ok(Self(buffer.copy_to_bytes(buffer.remaining())))
    }
}

impl Incoming for WatchStoreImageTaskRequest {
    fn take(buffer: &mut DecodeBuf<'_>) -> Result<Self, Status> {
        Self::decode(buffer).map_err(|error| unreadable(&error))
    }
}

/// As tonic says it.
fn unreadable(error: &DecodeError) -> Status {
    Status::internal(error.to_string())
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

/// See the module.
#[derive(Debug)]
pub struct Decoder<U>(PhantomData<fn() -> U>);

impl<T, U> Default for Codec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T: Outgoing, U: Incoming> codec::Codec for Codec<T, U> {
    type Encode = T;
    type Decode = U;
    type Encoder = Encoder<T>;
    type Decoder = Decoder<U>;

    fn encoder(&mut self) -> Encoder<T> {
        Encoder(PhantomData)
    }

    fn decoder(&mut self) -> Decoder<U> {
        Decoder(PhantomData)
    }
}

impl<T: Outgoing> codec::Encoder for Encoder<T> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, item: T, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        item.put(buffer)
    }
}

impl<U: Incoming> codec::Decoder for Decoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        U::take(buffer).map(Some)
    }
}
