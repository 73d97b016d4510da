//! `WatchStoreImageTask`: parses a request into a query.

use std::time::Duration;

use super::{ApiError, ScopePolicy, fields, violations::Violations};
use crate::{
    domain::{BucketName, ImageId},
    proto::WatchStoreImageTaskRequest,
    watch::WatchQuery,
};

/// Shortest `heartbeat_interval`.
const SHORTEST_HEARTBEAT: Duration = Duration::from_secs(1);
/// Default `heartbeat_interval`: half of the idle time after which nginx and AWS load balancers cut
/// a stream.
const DEFAULT_HEARTBEAT: Duration = Duration::from_secs(30);

/// A valid request to watch one task.
#[derive(Clone, Debug)]
pub struct WatchCall {
    /// The task to watch.
    pub query: WatchQuery,
    /// Time without another message after which a heartbeat is sent.
    pub heartbeat: Duration,
}

impl WatchCall {
    /// Parses a request.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` that names every invalid field.
    pub fn parse(
        request: &WatchStoreImageTaskRequest,
        policy: &ScopePolicy,
    ) -> Result<Self, ApiError> {
        let mut violations = Violations::default();
        let scope = policy.resolve(&mut violations, &request.account, &request.region);
        let image = fields::name(&mut violations, "image_id", &request.image_id, ImageId::parse);
        let bucket = match request.bucket.as_str() {
            "" => None,
            bucket => fields::name(&mut violations, "bucket", bucket, BucketName::parse),
        };
        let heartbeat = match request.heartbeat_interval {
            None => Some(DEFAULT_HEARTBEAT),
            Some(given) => {
                let field = "heartbeat_interval";
                fields::duration(&mut violations, field, given, SHORTEST_HEARTBEAT)
            }
        };
        match (scope, image, heartbeat) {
            (Some(scope), Some(image), Some(heartbeat)) if violations.is_empty() => {
                let wait_for_task = request.wait_for_task;
                let query = WatchQuery { scope, image, bucket, wait_for_task };
                Ok(Self { query, heartbeat })
            }
            _ => Err(ApiError::invalid(violations)),
        }
    }
}
