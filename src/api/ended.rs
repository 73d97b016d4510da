//! The errors of watches that end before their task does.

use std::time::SystemTime;

use super::{ApiError, GatewayReason};
use crate::{
    domain::{Scope, TaskKey},
    watch::{Ended, NoTask, TooManyWatches},
};

impl ApiError {
    /// A watch for which there is no room.
    #[must_use]
    pub fn too_many_watches(error: TooManyWatches) -> Self {
        Self::gateway(GatewayReason::TooManyWatches, error.to_string())
    }

    /// A watch that ended before its task did.
    #[must_use]
    pub fn ended(ended: &Ended, scope: &Scope) -> Self {
        match ended {
            Ended::Refused(error) => Self::cache(error, scope),
            Ended::NoTask(missing) => no_task(missing, scope),
            Ended::Gone(key) => task_gone(key, scope),
            Ended::Preempted => Self::gateway(
                GatewayReason::Preempted,
                "too many watches are open, most of them from this caller, and another caller needed the place; try again later",
            ),
            Ended::Lost => Self::gateway(
                GatewayReason::RequestLost,
                "the watch was lost inside the gateway; call again",
            ),
        }
    }
}

/// The error says what was waited for, so that a wrong image, bucket, region or account shows.
fn no_task(no_task: &NoTask, scope: &Scope) -> ApiError {
    let NoTask { candidate, missing, latest_start } = no_task;
    let mut metadata = Metadata::of(scope);
    let mut message = format!("no store-image task in {scope} of {}", candidate.image);
    metadata.add("imageId", candidate.image.to_string());
    let bucket = candidate.bucket.as_ref().map(ToString::to_string);
    let times = |time: Option<SystemTime>| time.map(time_text);
    for (key, words, value) in [
        ("bucket", " into ", bucket),
        ("startedAfter", " that started after ", times(candidate.started_after)),
        ("ec2Code", "; EC2 refuses the image: ", missing.ec2_code.as_deref().map(str::to_owned)),
        ("latestStartTime", "; its latest other task started at ", times(*latest_start)),
        ("knownSince", "; the listing is known down to ", times(missing.known_since)),
    ] {
        if let Some(value) = value {
            message.push_str(words);
            message.push_str(&value);
            metadata.add(key, value);
        }
    }
    ApiError { metadata: metadata.0, ..ApiError::gateway(GatewayReason::NoTask, message) }
}

fn task_gone(key: &TaskKey, scope: &Scope) -> ApiError {
    let TaskKey { start_time, image_id, bucket } = key;
    let start = time_text(start_time.0);
    let message = format!(
        "EC2 no longer lists the task in {scope} of {image_id} into {bucket} that started at {start}"
    );
    let mut metadata = Metadata::of(scope);
    metadata.add("imageId", image_id.to_string());
    metadata.add("bucket", bucket.to_string());
    metadata.add("startTime", start);
    ApiError { metadata: metadata.0, ..ApiError::gateway(GatewayReason::TaskGone, message) }
}

/// `ErrorInfo.metadata`.
struct Metadata(Vec<(&'static str, String)>);

impl Metadata {
    fn of(scope: &Scope) -> Self {
        Self(vec![("account", scope.account.to_string()), ("region", scope.region.to_string())])
    }

    fn add(&mut self, key: &'static str, value: String) {
        self.0.push((key, value));
    }
}

/// A time as in protobuf's JSON, to the millisecond, as EC2's times are.
fn time_text(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(time).to_string()
}
