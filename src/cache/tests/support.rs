//! Stories for the tests of the pure parts: tasks by a number, calls by a second.

use std::{
    cmp::Reverse,
    time::{Duration, SystemTime},
};

use tokio::time::Instant;

use crate::cache::{
    assess::assess, coverage::Position, fetch::Fetch, pages::PageStart, pending::PendingGap,
    query::Query, reading::Assessment, snapshot::Snapshot,
};
use crate::domain::{
    Answer, CallTime, Caller, ImageId, ListingFilter, NextToken, StoreImageTask, TaskKey, TaskState,
};

/// A beginning for both clocks.
#[derive(Clone, Copy)]
pub(in crate::cache) struct Clock {
    instant: Instant,
    wall: SystemTime,
}

impl Clock {
    pub(in crate::cache) fn new() -> Self {
        Self {
            instant: Instant::now(),
            wall: SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000),
        }
    }

    /// For stories on tokio's clock.
    pub(in crate::cache) fn beginning_now() -> Self {
        let CallTime { instant, wall } = CallTime::now();
        Self { instant, wall }
    }

    /// A call that started at this second.
    pub(in crate::cache) fn at(&self, second: u64) -> CallTime {
        let since = Duration::from_secs(second);
        CallTime { instant: self.instant + since, wall: self.wall + since }
    }

    /// A task of an image that started so many minutes before the beginning.
    pub(in crate::cache) fn task(
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
            progress: Some(progress),
            failure_reason: None,
        }
    }

    /// The finished tasks of these images, as many minutes old as their number.
    pub(in crate::cache) fn done(
        &self,
        images: impl IntoIterator<Item = u64>,
    ) -> Vec<StoreImageTask> {
        images.into_iter().map(|image| self.task(image, image, TaskState::Completed, 100)).collect()
    }
}

pub(in crate::cache) fn image_id(number: u64) -> ImageId {
    ImageId::parse(&format!("ami-{number:017x}")).expect("valid")
}

pub(in crate::cache) fn token(name: &str) -> NextToken {
    NextToken(name.into())
}

/// An answer with these tasks, and the token that leads on.
pub(in crate::cache) fn answer(tasks: Vec<StoreImageTask>, next: Option<&str>) -> Answer {
    Answer { tasks, next: next.map(token) }
}

/// The first page of all tasks.
pub(in crate::cache) fn first_page() -> Fetch {
    Fetch::first_page(ListingFilter::default())
}

/// The page after a task.
pub(in crate::cache) fn next_page(after: &StoreImageTask, name: &str) -> Fetch {
    Fetch::Page {
        filter: ListingFilter::default(),
        start: PageStart { from: Position::above(&after.key), token: Some(token(name)) },
    }
}

/// The images of all known tasks, in sort order.
pub(in crate::cache) fn images(snapshot: &Snapshot) -> Vec<ImageId> {
    snapshot.tasks_after(None).map(|task| task.key.image_id).collect()
}

/// What pending queries lack of a snapshot.
pub(in crate::cache) fn gaps(snapshot: &Snapshot, pending: &[(Query, Instant)]) -> Vec<PendingGap> {
    let mut gaps = Vec::new();
    for (id, (query, not_before)) in (0..).zip(pending) {
        if let Assessment::Missing(gap) = assess(snapshot, query, *not_before) {
            let (caller, not_before) = (Some(Caller::default()), *not_before);
            gaps.push(PendingGap { id, caller, not_before, gap, is_optional: false });
        }
    }
    gaps
}
