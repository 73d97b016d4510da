//! The bound of unary calls in progress.
//!
//! Only calls that have to wait for EC2 count: what is known is answered before the bound is looked at,
//! and whether it is known takes the decoding of a request. Health is not bounded, since its checks are
//! answered from memory at once, and a kubelet that they refused would end the process when it is busiest.

use crate::{
    api::ApiError,
    domain::{Caller, FairPermits},
};

/// The unary calls in progress.
pub(super) struct RequestBound(FairPermits);

impl RequestBound {
    pub(super) fn new(max_requests: usize) -> Self {
        Self(FairPermits::new("requests", None, max_requests))
    }

    /// Runs the call of a caller if there is room, and until another caller needs its place.
    pub(super) async fn run<T>(
        &self,
        caller: &Caller,
        call: impl Future<Output = Result<T, ApiError>>,
    ) -> Result<T, ApiError> {
        let Some(mut permit) = self.0.acquire(caller) else {
            return Err(ApiError::too_many_requests());
        };
        tokio::select! {
            biased;
            result = call => result,
            () = permit.preempted() => Err(ApiError::preempted()),
        }
    }
}
