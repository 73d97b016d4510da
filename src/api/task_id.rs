//! Task IDs: the names of tasks in the contract. EC2 gives tasks none.
//!
//! A task ID is an encoding of the task's image, bucket and start time. So it is the same in every RPC,
//! on every replica and after every restart, and a Watch finds the task by it alone.

use super::sealed;
use crate::domain::TaskKey;

/// First byte of every task ID. No page token begins with it.
const TASK_ID: u8 = b't';

/// 512 characters: the most that the contract promises. A bucket's name of 255 bytes makes 400.
pub(super) const MAX_TASK_ID: usize = 512;

/// The reason for which a task ID is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be a task_id of this service, passed on unchanged")]
pub(super) struct TaskIdError;

/// The ID of a task.
pub(super) fn task_id(key: &TaskKey) -> String {
    let mut bytes = vec![TASK_ID];
    sealed::put_key(&mut bytes, key);
    sealed::seal(bytes)
}

/// The task that an ID names.
pub(super) fn parse(text: &str) -> Result<TaskKey, TaskIdError> {
    let bytes = sealed::open(text, MAX_TASK_ID).ok_or(TaskIdError)?;
    match bytes.split_first() {
        Some((&TASK_ID, key)) => sealed::read_key(key).ok_or(TaskIdError),
        _ => Err(TaskIdError),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        cmp::Reverse,
        time::{Duration, SystemTime},
    };

    use super::*;
    use crate::domain::ImageId;

    fn key(bucket: &str) -> TaskKey {
        let start = SystemTime::UNIX_EPOCH + Duration::new(1_700_000_000, 123_000_000);
        TaskKey {
            start_time: Reverse(start),
            image_id: ImageId::parse("ami-0123456789abcdef0").expect("valid"),
            bucket: bucket.into(),
        }
    }

    #[test]
    fn a_task_id_names_its_task_and_stays_the_same() {
        for bucket in ["golden-images", "a/bucket", &"b".repeat(255)] {
            let id = task_id(&key(bucket));
            assert_eq!(parse(&id), Ok(key(bucket)));
            assert!(id.len() <= MAX_TASK_ID, "{}", id.len());
            assert!(id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)));
        }
        // Clients keep IDs for as long as they like, so the encoding never changes.
        assert_eq!(
            task_id(&key("golden-images")),
            "dADxU2UAAAAAwNRUB2FtaS0wMTIzNDU2Nzg5YWJjZGVmMC9nb2xkZW4taW1hZ2VzpoiKlHNVjgo"
        );
    }

    #[test]
    fn every_change_of_a_task_id_is_noticed() {
        let id = task_id(&key("golden-images"));
        for place in 0..id.len() {
            let mut changed = id.clone().into_bytes();
            changed[place] = if changed[place] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).expect("ASCII");
            assert_eq!(parse(&changed), Err(TaskIdError), "{changed}");
        }
        for bad in ["", "t", &id[1..], &id[..id.len() - 1], &format!("{id}="), &"A".repeat(600)] {
            assert_eq!(parse(bad), Err(TaskIdError), "{bad}");
        }
    }
}
