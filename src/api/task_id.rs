//! Task IDs: the names of tasks in the contract. EC2 gives tasks none.
//!
//! A task ID is an encoding of the task's image, bucket and start time. So it is the same in every RPC,
//! on every replica and after every restart, and a Watch finds the task by it alone.

use super::sealed;
use crate::domain::TaskKey;

/// First byte of every task ID. No page token begins with it.
const TASK_ID: u8 = b't';

/// The ID of a task.
pub(super) fn task_id(key: &TaskKey) -> String {
    let mut bytes = vec![TASK_ID];
    sealed::put_key(&mut bytes, key);
    sealed::seal(bytes)
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
            assert!(id.len() <= 512, "{}", id.len());
            assert!(id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)));
        }
        // Clients keep IDs for as long as they like, so the encoding never changes.
        assert_eq!(
            task_id(&key("golden-images")),
            "dADxU2UAAAAAwNRUB2FtaS0wMTIzNDU2Nzg5YWJjZGVmMC9nb2xkZW4taW1hZ2VzpoiKlHNVjgo"
        );
    }
}
