//! Logs each of EC2's words for a state that this version does not know, once.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};

use crate::domain::{StoreImageTask, TaskState};

/// 16 words: the most that are logged, so that an endpoint that is not AWS cannot fill the log.
const MAX_WORDS: usize = 16;

/// The unknown words so far. All clients share them.
#[derive(Clone, Debug, Default)]
pub(super) struct UnknownWords(Arc<Mutex<BTreeSet<Arc<str>>>>);

impl UnknownWords {
    /// Logs the word of a task's state, if it is unknown and new.
    pub(super) fn observe(&self, task: &StoreImageTask) {
        let TaskState::Other(word) = &task.state else { return };
        let mut words = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if words.len() >= MAX_WORDS || !words.insert(word.clone()) {
            return;
        }
        tracing::warn!(
            state = &**word,
            image = %task.key.image_id,
            "EC2 reports a state that this version does not know; such a task counts as unfinished"
        );
    }
}

#[cfg(test)]
mod tests {
    use std::cmp::Reverse;

    use super::*;
    use crate::domain::{ImageId, TaskKey, log_capture::LogCapture};

    fn task(state: &str) -> StoreImageTask {
        StoreImageTask {
            key: TaskKey {
                start_time: Reverse(std::time::SystemTime::UNIX_EPOCH),
                image_id: ImageId::parse("ami-01234567").expect("valid"),
                bucket: "bucket".into(),
            },
            object_key: "ami-01234567.bin".into(),
            state: TaskState::from_ec2(state),
            progress: None,
            failure_reason: None,
        }
    }

    #[test]
    fn each_unknown_word_is_one_line_and_there_is_a_bound() {
        let log = LogCapture::start();
        let words = UnknownWords::default();
        for state in ["InProgress", "Paused", "Paused", "", "Failed", "Paused"] {
            words.observe(&task(state));
        }
        let lines = log.lines();
        assert_eq!(lines.len(), 2, "{lines:#?}");
        assert!(
            lines[0].starts_with("WARN") && lines[0].contains("state=\"Paused\""),
            "{lines:#?}"
        );
        assert!(lines[1].contains("state=\"Unknown\""), "{lines:#?}");
        for number in 0..100 {
            words.observe(&task(&format!("State{number}")));
        }
        assert_eq!(log.lines().len(), MAX_WORDS);
    }
}
