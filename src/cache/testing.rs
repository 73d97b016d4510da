//! Stories for the tests of the pure parts: tasks by a number, calls by a second.

use std::{
    cmp::Reverse,
    time::{Duration, SystemTime},
};

use tokio::time::Instant;

use super::{
    ground::Depth,
    ledger::{Call, Ledger},
};
use crate::domain::{
    Answer, CallTime, ImageId, ListingFilter, NextToken, StoreImageTask, TaskKey, TaskState,
};

/// A beginning for both clocks.
#[derive(Clone, Copy)]
pub(super) struct Clock {
    instant: Instant,
    wall: SystemTime,
}

impl Clock {
    pub(super) fn new() -> Self {
        Self {
            instant: Instant::now(),
            wall: SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000),
        }
    }

    /// For stories on tokio's clock.
    pub(super) fn beginning_now() -> Self {
        let CallTime { instant, wall } = CallTime::now();
        Self { instant, wall }
    }

    /// A call that started at this second.
    pub(super) fn at(&self, second: u64) -> CallTime {
        let since = Duration::from_secs(second);
        CallTime { instant: self.instant + since, wall: self.wall + since }
    }

    /// A task of an image that started so many minutes before the beginning.
    pub(super) fn task(
        &self,
        image: u64,
        minutes: u64,
        state: TaskState,
        progress: u8,
    ) -> StoreImageTask {
        let image_id = image_id(image);
        StoreImageTask {
            object_key: format!("{image_id}.bin").into(),
            key: TaskKey {
                start_time: Reverse(self.wall - Duration::from_secs(60 * minutes)),
                image_id,
                bucket: "bucket".into(),
            },
            state,
            progress,
            failure_reason: None,
        }
    }

    /// The finished tasks of these images, as many minutes old as their number.
    pub(super) fn done(&self, images: impl IntoIterator<Item = u64>) -> Vec<StoreImageTask> {
        images.into_iter().map(|image| self.task(image, image, TaskState::Completed, 100)).collect()
    }
}

pub(super) fn image_id(number: u64) -> ImageId {
    ImageId::parse(&format!("ami-{number:017x}")).expect("valid")
}

pub(super) fn token(name: &str) -> NextToken {
    NextToken(name.into())
}

/// An answer with these tasks, and the token that leads on.
pub(super) fn answer(tasks: Vec<StoreImageTask>, next: Option<&str>) -> Answer {
    Answer { tasks, next: next.map(token) }
}

/// The head page of all tasks.
pub(super) fn head() -> Call {
    Call::head(ListingFilter::default())
}

/// The page after a task.
pub(super) fn next_page(after: &StoreImageTask, name: &str) -> Call {
    Call::Page {
        filter: ListingFilter::default(),
        from: Depth::At(after.key.clone()),
        token: Some(token(name)),
    }
}

/// The images of all known tasks, in sort order.
pub(super) fn images(ledger: &Ledger) -> Vec<ImageId> {
    ledger.tasks_after(None).map(|task| task.key.image_id).collect()
}
