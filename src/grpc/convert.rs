//! From the domain's words to the contract's.

use std::time::SystemTime;

use prost_types::Timestamp;

use super::status::code_of;
use crate::{
    domain::{Scope, TaskState},
    proto::{self, StoreImageTaskState},
    watch::{Degraded, TaskView},
};

pub(super) fn task(
    scope: &Scope,
    task: &crate::domain::StoreImageTask,
    estimated_completion: Option<SystemTime>,
) -> proto::StoreImageTask {
    proto::StoreImageTask {
        account: scope.account.to_string(),
        region: scope.region.to_string(),
        image_id: task.key.image_id.to_string(),
        bucket: task.key.bucket.to_string(),
        object_key: task.object_key.to_string(),
        start_time: Some(timestamp(task.key.start_time.0)),
        state: state(&task.state).into(),
        state_text: task.state.as_ec2().to_owned(),
        progress_percentage: task.progress.into(),
        failure_reason: task.failure_reason.as_deref().unwrap_or_default().to_owned(),
        estimated_completion_time: estimated_completion.map(timestamp),
    }
}

pub(super) fn watch_response(
    kind: proto::watch_store_image_task_response::Kind,
    scope: &Scope,
    view: &TaskView,
) -> proto::WatchStoreImageTaskResponse {
    proto::WatchStoreImageTaskResponse {
        kind: kind.into(),
        task: Some(task(scope, &view.task, view.estimated_completion)),
        as_of: Some(timestamp(view.as_of.wall)),
        degraded: view.degraded.as_ref().map(degraded),
    }
}

fn degraded(degraded: &Degraded) -> proto::Degraded {
    proto::Degraded {
        code: code_of(degraded.error.kind).into(),
        reason: degraded.error.code.to_string(),
        since: Some(timestamp(degraded.since)),
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

pub(super) fn timestamp(time: SystemTime) -> Timestamp {
    Timestamp::from(time)
}
