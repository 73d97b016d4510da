//! A store-image task, its state, and its key: identity and sort order in one.

use std::{cmp::Reverse, sync::Arc, time::SystemTime};

use super::image::ImageId;

/// One task, as one EC2 call described it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreImageTask {
    /// The identity and sort order of the task.
    pub key: TaskKey,
    /// The key of the S3 object, `<image ID>.bin`.
    pub object_key: Arc<str>,
    /// The state of the task.
    pub state: TaskState,
    /// The progress in percent, 0 to 100. None if EC2 gives none.
    pub progress: Option<u8>,
    /// EC2's reason for the failure of the task.
    pub failure_reason: Option<Arc<str>>,
}

impl StoreImageTask {
    /// Returns `news` if it is a newer version of this task, else None.
    ///
    /// EC2's replicas lag, so an answer may be older than the one before it. A task never goes back
    /// from a terminal state to another state, nor to a lower progress.
    #[must_use]
    pub fn advance(&self, mut news: Self) -> Option<Self> {
        if self.state.is_terminal() {
            return None;
        }
        match news.progress {
            // EC2 may leave out the percentage. A completed task is not as far as it was last seen.
            None if news.state != TaskState::Completed => news.progress = self.progress,
            Some(_) if !news.state.is_terminal() && news.progress < self.progress => return None,
            None | Some(_) => {}
        }
        if *self == news { None } else { Some(news) }
    }
}

/// The identity of a task, which is also its sort order: newest first, then image ID, then bucket.
///
/// EC2 gives tasks no ID. These three fields distinguish the tasks in EC2's answers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskKey {
    /// The start time. A later one sorts first.
    pub start_time: Reverse<SystemTime>,
    /// The image.
    pub image_id: ImageId,
    /// The bucket, as EC2 names it. Not a `BucketName`, since EC2 may use names that `BucketName`
    /// refuses.
    pub bucket: Arc<str>,
}

/// The word for a state that EC2 leaves out.
const NO_WORD: &str = "Unknown";

/// The state of a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TaskState {
    /// The task is queued or running.
    InProgress,
    /// The object is in the bucket. Terminal.
    Completed,
    /// The task has failed. Terminal.
    Failed,
    /// EC2's word for a state that this version does not know. It counts as not terminal, so that
    /// the task is refreshed.
    Other(Arc<str>),
}

impl TaskState {
    /// The state that EC2's word stands for. An empty word stands for `Unknown`.
    #[must_use]
    pub fn from_ec2(word: &str) -> Self {
        match word {
            "InProgress" => Self::InProgress,
            "Completed" => Self::Completed,
            "Failed" => Self::Failed,
            "" => Self::Other(NO_WORD.into()),
            other => Self::Other(other.into()),
        }
    }

    /// EC2's word for the state.
    #[must_use]
    pub fn as_ec2(&self) -> &str {
        match self {
            Self::InProgress => "InProgress",
            Self::Completed => "Completed",
            Self::Failed => "Failed",
            Self::Other(word) => word,
        }
    }

    /// Returns whether the state never changes again.
    #[must_use]
    pub fn is_terminal(&self) -> bool {
        matches!(self, Self::Completed | Self::Failed)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn task(state: TaskState, progress: impl Into<Option<u8>>) -> StoreImageTask {
        StoreImageTask {
            key: TaskKey {
                start_time: Reverse(SystemTime::UNIX_EPOCH),
                image_id: ImageId::parse("ami-01234567").expect("valid"),
                bucket: "bucket".into(),
            },
            object_key: "ami-01234567.bin".into(),
            state,
            progress: progress.into(),
            failure_reason: None,
        }
    }

    #[test]
    fn a_task_never_goes_back() {
        let half = task(TaskState::InProgress, 50);
        assert_eq!(half.advance(task(TaskState::InProgress, 40)), None);
        assert_eq!(half.advance(half.clone()), None);
        assert!(half.advance(task(TaskState::InProgress, 51)).is_some());
        assert!(half.advance(task(TaskState::Failed, 0)).is_some());
        let paused = TaskState::Other("Paused".into());
        let taken_over = half.advance(task(paused.clone(), None)).expect("another state");
        assert_eq!((taken_over.state, taken_over.progress), (paused, Some(50)));
        assert_eq!(half.advance(task(TaskState::InProgress, None)), None);
        let failed = half.advance(task(TaskState::Failed, None)).expect("another state");
        assert_eq!(failed.progress, Some(50), "as far as it was last seen");
        let completed = half.advance(task(TaskState::Completed, None)).expect("another state");
        assert_eq!(completed.progress, None, "not half stored");
        let done = task(TaskState::Completed, 100);
        assert_eq!(done.advance(task(TaskState::InProgress, 100)), None);
        assert_eq!(done.advance(task(TaskState::Failed, 100)), None);
    }

    #[test]
    fn newest_first_then_image_then_bucket() {
        let key = |secs, image: &str, bucket: &str| TaskKey {
            start_time: Reverse(SystemTime::UNIX_EPOCH + Duration::from_secs(secs)),
            image_id: ImageId::parse(image).expect("valid"),
            bucket: bucket.into(),
        };
        let sorted = [
            key(2, "ami-00000002", "b"),
            key(1, "ami-00000001", "a"),
            key(1, "ami-00000001", "b"),
            key(1, "ami-00000002", "a"),
        ];
        assert!(sorted.is_sorted());
    }
}
