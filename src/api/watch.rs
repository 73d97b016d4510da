//! `WatchStoreImageTask`: parses a request into a query.

use std::time::{Duration, SystemTime};

use super::{ApiError, ScopePolicy, fields, task_id, violations::Violations};
use crate::{
    domain::{BucketName, ImageId, TaskKey},
    proto::WatchStoreImageTaskRequest,
    watch::{Candidate, Target, WatchQuery},
};

/// Shortest `heartbeat_interval`.
const SHORTEST_HEARTBEAT: Duration = Duration::from_secs(1);
/// Default `heartbeat_interval`: half of the idle time after which nginx and AWS load balancers cut
/// a stream.
const DEFAULT_HEARTBEAT: Duration = Duration::from_secs(30);

/// A valid request to watch one task.
#[derive(Clone, Debug)]
pub struct WatchCall {
    /// The watch that is asked for.
    pub query: WatchQuery,
}

impl WatchCall {
    /// Parses a request.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` that names every invalid field, or `UNAVAILABLE` while the gateway searches for
    /// its region.
    pub fn parse(
        request: &WatchStoreImageTaskRequest,
        policy: &ScopePolicy,
    ) -> Result<Self, ApiError> {
        let mut violations = Violations::default();
        let scope = policy.resolve(&mut violations, &request.account, &request.region)?;
        let target = parse_target(&mut violations, request);
        let field = "wait_for_task";
        let wait_for_task =
            optional_duration(&mut violations, field, request.wait_for_task, Duration::ZERO)
                .unwrap_or_default();
        let field = "heartbeat_interval";
        let given = request.heartbeat_interval;
        let heartbeat = optional_duration(&mut violations, field, given, SHORTEST_HEARTBEAT)
            .unwrap_or(DEFAULT_HEARTBEAT);
        match (scope, target) {
            (Some(scope), Some(target)) if violations.is_empty() => {
                Ok(Self { query: WatchQuery { scope, target, wait_for_task, heartbeat } })
            }
            _ => Err(ApiError::invalid(violations)),
        }
    }

    /// Refuses a `started_after` in the future. `newest` is the latest start time that EC2 has shown of
    /// the scope.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if it is more than 15 minutes ahead, and later than `newest`.
    pub fn check_started_after(&self, newest: Option<SystemTime>) -> Result<(), ApiError> {
        match &self.query.target {
            Target::Candidate(candidate) => {
                fields::check_started_after(candidate.started_after, newest)
            }
            Target::Task(_) => Ok(()),
        }
    }
}

fn parse_target(
    violations: &mut Violations,
    request: &WatchStoreImageTaskRequest,
) -> Option<Target> {
    let image = match request.image_id.as_str() {
        "" if !request.task_id.is_empty() => None,
        image => fields::name(violations, "image_id", image, ImageId::parse),
    };
    let bucket = match request.bucket.as_str() {
        "" => None,
        bucket => fields::name(violations, "bucket", bucket, BucketName::parse),
    };
    let mut started_after = None;
    if let Some(given) = request.started_after {
        started_after = fields::time(violations, "started_after", given);
    }
    if request.task_id.is_empty() {
        return Some(Target::Candidate(Candidate { image: image?, bucket, started_after }));
    }
    match task_id::parse(&request.task_id) {
        Ok(key) => {
            check_agreement(violations, &key, image, bucket.as_ref(), started_after);
            Some(Target::Task(key))
        }
        Err(error) => {
            violations.add("task_id", error);
            None
        }
    }
}

/// The other fields, if they are there, must select the task that `task_id` names.
fn check_agreement(
    violations: &mut Violations,
    key: &TaskKey,
    image: Option<ImageId>,
    bucket: Option<&BucketName>,
    started_after: Option<SystemTime>,
) {
    let TaskKey { start_time, image_id, bucket: stored_into } = key;
    if let Some(image) = image
        && image != *image_id
    {
        let expected = format_args!("must be {image_id}, as task_id says, or empty, got {image}");
        violations.add("image_id", expected);
    }
    if let Some(bucket) = bucket
        && bucket.as_str() != &**stored_into
    {
        let expected =
            format_args!("must be {stored_into}, as task_id says, or empty, got {bucket}");
        violations.add("bucket", expected);
    }
    if started_after.is_some_and(|limit| start_time.0 <= limit) {
        violations.add("started_after", "must be before the start time that task_id says");
    }
}

/// Parses a duration. None if it is absent or invalid.
fn optional_duration(
    violations: &mut Violations,
    field: &str,
    given: Option<prost_types::Duration>,
    least: Duration,
) -> Option<Duration> {
    fields::duration(violations, field, given?, least)
}
