//! The tasks of a large account, and the median of what is measured with them.

use std::{
    cmp::Reverse,
    time::{Duration, SystemTime},
};

use amistore_gateway::domain::{ImageId, StoreImageTask, TaskKey, TaskState};

/// A finished task. Neighbours in the listing started 20 seconds apart.
pub(crate) fn task(start: SystemTime, number: u32, bucket: &str) -> StoreImageTask {
    let image_id = ImageId::parse(&format!("ami-{number:017x}")).expect("valid");
    StoreImageTask {
        object_key: format!("{image_id}.bin").into(),
        key: TaskKey {
            start_time: Reverse(start - Duration::from_secs(60 + 20 * u64::from(number))),
            image_id,
            bucket: bucket.into(),
        },
        state: TaskState::Completed,
        progress: Some(100),
        failure_reason: None,
    }
}

/// The median of all rounds.
pub(crate) fn median(mut rounds: Vec<Duration>) -> Duration {
    rounds.sort_unstable();
    rounds[rounds.len() / 2]
}
