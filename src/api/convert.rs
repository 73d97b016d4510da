//! Converts the domain's types to the contract's messages.

use std::time::SystemTime;

use super::{error::status_code, status_code::StatusCode, task_id::task_id};
use crate::{
    cache::{CacheRead, MissingImage, Outcome, StaleReason},
    domain::{Scope, StoreImageTask, TaskState},
    proto::{self, WatchStoreImageTaskResponse, store_image_task::State},
    watch::{Degraded, TaskView},
};

/// 1 KiB: the longest failure reason, so that the size of a page is bounded.
const MAX_REASON_BYTES: usize = 1 << 10;

/// The end of a failure reason that was cut.
const ELLIPSIS: &str = "…";

/// A message of a watch.
#[must_use]
pub fn watch_message(
    kind: proto::watch_store_image_task_response::Kind,
    scope: &Scope,
    view: &TaskView,
) -> WatchStoreImageTaskResponse {
    WatchStoreImageTaskResponse {
        kind: kind.into(),
        task: Some(task(scope, &view.task, view.estimated_completion)),
        as_of: Some(view.as_of.wall.into()),
        degraded: view.degraded.as_ref().map(degraded),
    }
}

pub(super) fn task(
    scope: &Scope,
    task: &StoreImageTask,
    estimated_completion: Option<SystemTime>,
) -> proto::StoreImageTask {
    proto::StoreImageTask {
        account: scope.account.to_string(),
        region: scope.region.to_string(),
        image_id: task.key.image_id.to_string(),
        task_id: task_id(&task.key),
        bucket: task.key.bucket.to_string(),
        object_key: task.object_key.to_string(),
        start_time: Some(task.key.start_time.0.into()),
        state: state(&task.state).into(),
        state_text: task.state.as_ec2().to_owned(),
        done: task.state.is_terminal(),
        progress_percentage: task.progress.map(Into::into),
        failure_reason: failure_reason(task),
        estimated_completion_time: estimated_completion.map(Into::into),
    }
}

pub(super) fn missing_image(missing: &MissingImage) -> proto::MissingImage {
    proto::MissingImage {
        image_id: missing.image_id.to_string(),
        ec2_code: missing.ec2_code.as_deref().unwrap_or_default().to_owned(),
        known_since: missing.known_since.map(Into::into),
    }
}

/// The trouble because of which an answer is older than it may be while EC2 can be asked. None if the
/// answer is not older.
pub(super) fn stale(read: &CacheRead) -> Option<proto::Degraded> {
    let Outcome::StaleIfError(reason) = &read.outcome else { return None };
    let (code, reason) = match reason {
        StaleReason::Failed(error) => (status_code(error.kind), error.code.to_string()),
        StaleReason::BudgetSpent => (StatusCode::Unavailable, "CALL_BUDGET_SPENT".to_owned()),
        StaleReason::Slow => (StatusCode::Unavailable, "EC2_IS_SLOW".to_owned()),
    };
    let since = read.as_of().map(|call| call.wall.into());
    Some(proto::Degraded { code: code.number(), reason, since })
}

fn degraded(degraded: &Degraded) -> proto::Degraded {
    proto::Degraded {
        code: status_code(degraded.error.kind).number(),
        reason: degraded.error.code.to_string(),
        since: Some(degraded.since.into()),
    }
}

/// The failure reason, in at most [`MAX_REASON_BYTES`].
fn failure_reason(task: &StoreImageTask) -> String {
    let reason = task.failure_reason.as_deref().unwrap_or_default();
    if reason.len() <= MAX_REASON_BYTES {
        return reason.to_owned();
    }
    let end = reason.floor_char_boundary(MAX_REASON_BYTES - ELLIPSIS.len());
    format!("{}{ELLIPSIS}", &reason[..end])
}

fn state(state: &TaskState) -> State {
    match state {
        TaskState::InProgress => State::InProgress,
        TaskState::Completed => State::Completed,
        TaskState::Failed => State::Failed,
        TaskState::Other(_) => State::Other,
    }
}

#[cfg(test)]
mod tests {
    use std::cmp::Reverse;

    use super::*;
    use crate::domain::{ImageId, TaskKey};

    #[test]
    fn a_long_failure_reason_is_cut_at_a_character() {
        let task = |reason: &str| StoreImageTask {
            key: TaskKey {
                start_time: Reverse(SystemTime::UNIX_EPOCH),
                image_id: ImageId::parse("ami-01234567").expect("valid"),
                bucket: "bucket".into(),
            },
            object_key: "ami-01234567.bin".into(),
            state: TaskState::Failed,
            progress: None,
            failure_reason: Some(reason.into()),
        };
        for whole in ["", "short", &"r".repeat(MAX_REASON_BYTES)] {
            assert_eq!(failure_reason(&task(whole)), whole);
        }
        for long in ["r".repeat(MAX_REASON_BYTES + 1), "é".repeat(MAX_REASON_BYTES)] {
            let cut = failure_reason(&task(&long));
            assert!(cut.len() <= MAX_REASON_BYTES && cut.len() > MAX_REASON_BYTES - 8, "{cut}");
            assert!(long.starts_with(cut.strip_suffix('…').expect("it is cut")), "{cut}");
        }
    }
}
