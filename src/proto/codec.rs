//! The codec of the server: prost's, except that a List arrives and leaves as encoded bytes. The
//! bytes of a request are the key under which its encoded response is cached.

use std::{borrow::Borrow, marker::PhantomData};

use bytes::{Buf as _, BufMut as _, Bytes};
use prost::{DecodeError, Message};
use tonic::{
    Status,
    codec::{self, DecodeBuf, EncodeBuf},
};

use super::{
    framing::{PREFIX_BYTES, frame},
    generated::{
        ListStoreImageTasksRequest, ListStoreImageTasksResponse, WatchStoreImageTaskRequest,
        WatchStoreImageTaskResponse, WatchStoreImageTasksRequest, WatchStoreImageTasksResponse,
    },
};

/// A `ListStoreImageTasksRequest` in protobuf's encoding, not decoded yet.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EncodedListRequest(pub Bytes);

impl EncodedListRequest {
    /// Decodes the request.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if the bytes are not in protobuf's encoding.
    pub fn decode(&self) -> Result<ListStoreImageTasksRequest, Status> {
        ListStoreImageTasksRequest::decode(&*self.0).map_err(|error| decode_status(&error))
    }

    /// Copies the request into memory of its own. As received, it is a slice of the connection's
    /// whole read buffer, which it would keep alive.
    #[must_use]
    pub fn compact(&self) -> Self {
        Self(Bytes::copy_from_slice(&self.0))
    }
}

/// A request is found by its bytes alone. They have the same hash as the request.
impl Borrow<[u8]> for EncodedListRequest {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

/// A `ListStoreImageTasksResponse` in protobuf's encoding, with gRPC's prefix before it.
#[derive(Clone, Debug)]
pub struct EncodedListResponse {
    framed: Bytes,
}

impl EncodedListResponse {
    /// Encodes a response.
    #[must_use]
    pub fn new(response: &ListStoreImageTasksResponse) -> Self {
        Self { framed: frame(&response.encode_to_vec()) }
    }

    /// The message and its prefix, as they stand in the body of a response.
    #[must_use]
    pub fn framed(&self) -> &Bytes {
        &self.framed
    }

    /// The message alone.
    #[must_use]
    pub fn message(&self) -> Bytes {
        self.framed.slice(PREFIX_BYTES..)
    }
}

/// A message that the server can receive.
pub trait Incoming: Sized + Send + 'static {
    /// Reads the message from tonic's receive buffer.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if the bytes are not in protobuf's encoding.
    fn read(buffer: &mut DecodeBuf<'_>) -> Result<Self, Status>;
}

impl Incoming for EncodedListRequest {
    fn read(buffer: &mut DecodeBuf<'_>) -> Result<Self, Status> {
        Ok(Self(buffer.copy_to_bytes(buffer.remaining())))
    }
}

impl Incoming for WatchStoreImageTaskRequest {
    fn read(buffer: &mut DecodeBuf<'_>) -> Result<Self, Status> {
        Self::decode(buffer).map_err(|error| decode_status(&error))
    }
}

impl Incoming for WatchStoreImageTasksRequest {
    fn read(buffer: &mut DecodeBuf<'_>) -> Result<Self, Status> {
        Self::decode(buffer).map_err(|error| decode_status(&error))
    }
}

/// Without details: the codec knows no error table. The edge fills them in.
fn decode_status(error: &DecodeError) -> Status {
    Status::invalid_argument(error.to_string())
}

/// A message that the server can send.
pub trait Outgoing: Send + 'static {
    /// Writes the message to tonic's send buffer.
    ///
    /// # Errors
    /// `INTERNAL` if the buffer has no room; tonic's buffer grows, so this does not happen.
    fn write(self, buffer: &mut EncodeBuf<'_>) -> Result<(), Status>;
}

impl Outgoing for EncodedListResponse {
    fn write(self, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(self.message());
        Ok(())
    }
}

impl Outgoing for WatchStoreImageTaskResponse {
    fn write(self, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        self.encode(buffer).map_err(|error| Status::internal(error.to_string()))
    }
}

impl Outgoing for WatchStoreImageTasksResponse {
    fn write(self, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        self.encode(buffer).map_err(|error| Status::internal(error.to_string()))
    }
}

/// Encodes messages of type `T` and decodes messages of type `U`.
#[derive(Debug)]
pub struct Codec<T, U>(PhantomData<fn(U) -> T>);

/// The encoding half of [`Codec`].
#[derive(Debug)]
pub struct Encoder<T>(PhantomData<fn(T)>);

/// The decoding half of [`Codec`].
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
        item.write(buffer)
    }
}

impl<U: Incoming> codec::Decoder for Decoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        U::read(buffer).map(Some)
    }
}
