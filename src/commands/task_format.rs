//! The forms in which the client commands print tasks: texts for people, protobuf's JSON for
//! programs.

use std::time::SystemTime;

use prost_types::Timestamp;
use serde_json::{Value, json};

use crate::proto::{StoreImageTask, store_image_task::State};

/// Time of a timestamp, if it is set and within the range of `SystemTime`.
pub(super) fn time(timestamp: Option<&Timestamp>) -> Option<SystemTime> {
    SystemTime::try_from(*timestamp?).ok()
}

/// Text of a timestamp to the second, empty if it is not set.
pub(super) fn time_text(timestamp: Option<&Timestamp>) -> String {
    match time(timestamp) {
        Some(time) => humantime::format_rfc3339_seconds(time).to_string(),
        None => String::new(),
    }
}

/// JSON form of a timestamp to the millisecond, null if it is not set.
pub(super) fn time_json(timestamp: Option<&Timestamp>) -> Value {
    match time(timestamp) {
        Some(time) => humantime::format_rfc3339_millis(time).to_string().into(),
        None => Value::Null,
    }
}

/// JSON form of a task.
pub(super) fn task_json(task: &StoreImageTask) -> Value {
    json!({
        "account": task.account,
        "region": task.region,
        "imageId": task.image_id,
        "taskId": task.task_id,
        "bucket": task.bucket,
        "objectKey": task.object_key,
        "startTime": time_json(task.start_time.as_ref()),
        "state": task.state().as_str_name(),
        "stateText": task.state_text,
        "done": task.done,
        "progressPercentage": task.progress_percentage,
        "failureReason": task.failure_reason,
        "estimatedCompletionTime": time_json(task.estimated_completion_time.as_ref()),
    })
}

/// Returns whether the task has failed.
pub(super) fn has_failed(task: &StoreImageTask) -> bool {
    task.state() == State::Failed
}

/// Progress such as `50 %`. Empty if EC2 gives none.
pub(super) fn progress_text(task: &StoreImageTask) -> String {
    match task.progress_percentage {
        Some(percent) => format!("{percent} %"),
        None => String::new(),
    }
}
