//! Converts the domain's types to the contract's messages.

use std::time::SystemTime;

use super::{ApiError, StatusCode, error::GATEWAY_DOMAIN, task_id::task_id};
use crate::{
    cache::{CacheRead, MissingImage, Outcome, StaleReason},
    domain::{Scope, StoreImageTask, TaskState},
    proto::{self, WatchStoreImageTaskResponse, store_image_task::State},
    watch::{Degraded, Kind, Message, Trouble, Waiting},
};

/// 1 KiB: the longest failure reason, so that the size of a page is bounded.
const MAX_REASON_BYTES: usize = 1 << 10;

/// The end of a failure reason that was cut.
const ELLIPSIS: &str = "…";

/// A message of a watch.
#[must_use]
pub fn watch_message(scope: &Scope, message: &Message) -> WatchStoreImageTaskResponse {
    let kind = match message.kind {
        Kind::Update => proto::watch_store_image_task_response::Kind::Update,
        Kind::Heartbeat => proto::watch_store_image_task_response::Kind::Heartbeat,
    };
    let view = message.task.as_ref();
    WatchStoreImageTaskResponse {
        kind: kind.into(),
        task: view.map(|view| task(scope, &view.task, view.estimated_completion)),
        as_of: view.map(|view| view.as_of.wall.into()),
        degraded: message.degraded.as_ref().map(|trouble| degraded(trouble, scope)),
        waiting: message.waiting.as_ref().map(waiting),
    }
}

fn waiting(waiting: &Waiting) -> proto::Waiting {
    proto::Waiting {
        ec2_code: waiting.ec2_code.as_deref().unwrap_or_default().to_owned(),
        latest_start_time: waiting.latest_start.map(Into::into),
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
pub(super) fn stale(read: &CacheRead, scope: &Scope) -> Option<proto::Degraded> {
    let Outcome::StaleIfError(reason) = &read.outcome else { return None };
    let since = read.as_of().map(|call| call.wall);
    Some(match reason {
        StaleReason::Failed(error) => degraded_by(ApiError::upstream(error, scope), since),
        StaleReason::BudgetSpent => unavailable(
            "CALL_BUDGET_SPENT",
            "the gateway's own call budget of the account and region is spent",
            since,
        ),
        StaleReason::Slow => slow(since),
    })
}

fn degraded(degraded: &Degraded, scope: &Scope) -> proto::Degraded {
    let since = Some(degraded.since);
    match &degraded.trouble {
        Trouble::Failed(error) => degraded_by(ApiError::cache(error, scope), since),
        Trouble::Unanswered => slow(since),
    }
}

fn slow(since: Option<SystemTime>) -> proto::Degraded {
    unavailable("EC2_IS_SLOW", "EC2 has not answered the newest call for some seconds", since)
}

/// Trouble that no status stands for.
fn unavailable(reason: &str, message: &str, since: Option<SystemTime>) -> proto::Degraded {
    proto::Degraded {
        code: StatusCode::Unavailable.number(),
        reason: reason.to_owned(),
        domain: GATEWAY_DOMAIN.to_owned(),
        message: message.to_owned(),
        since: since.map(Into::into),
    }
}

fn degraded_by(error: ApiError, since: Option<SystemTime>) -> proto::Degraded {
    let ApiError { code, reason, domain, message, .. } = error;
    let since = since.map(Into::into);
    proto::Degraded { code: code.number(), reason, domain: domain.to_owned(), message, since }
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
