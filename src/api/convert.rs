//! Converts the domain's types to the contract's messages.

use std::time::SystemTime;

use super::{error::status_code, status_code::StatusCode};
use crate::{
    cache::{CacheRead, MissingImage, Outcome, StaleReason},
    domain::{Scope, StoreImageTask, TaskState},
    proto::{self, StoreImageTaskState, WatchStoreImageTaskResponse},
    watch::{Degraded, TaskView},
};

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
        bucket: task.key.bucket.to_string(),
        object_key: task.object_key.to_string(),
        start_time: Some(task.key.start_time.0.into()),
        state: state(&task.state).into(),
        state_text: task.state.as_ec2().to_owned(),
        progress_percentage: task.progress.into(),
        failure_reason: task.failure_reason.as_deref().unwrap_or_default().to_owned(),
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

fn state(state: &TaskState) -> StoreImageTaskState {
    match state {
        TaskState::InProgress => StoreImageTaskState::InProgress,
        TaskState::Completed => StoreImageTaskState::Completed,
        TaskState::Failed => StoreImageTaskState::Failed,
        TaskState::Other(_) => StoreImageTaskState::Unspecified,
    }
}
