//! Opaque texts that clients hand back: bytes with a checksum, in URL-safe base64. They are not secret.

use std::{
    cmp::Reverse,
    time::{Duration, SystemTime},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest as _, Sha256};

use crate::domain::{ImageId, TaskKey};

/// Size of a checksum or a fingerprint in bytes.
pub(super) const DIGEST_BYTES: usize = 8;

/// The text of these bytes.
pub(super) fn seal(mut bytes: Vec<u8>) -> String {
    let checksum = checksum(&bytes);
    bytes.extend(checksum);
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The bytes of a text, if it has at most this many characters and its checksum is right.
pub(super) fn open(text: &str, longest: usize) -> Option<Vec<u8>> {
    if text.len() > longest {
        return None;
    }
    let mut bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
    let given = bytes.split_off(bytes.len().checked_sub(DIGEST_BYTES)?);
    if given == checksum(&bytes) { Some(bytes) } else { None }
}

/// Adds a task's identity. Nothing can follow it.
pub(super) fn put_key(bytes: &mut Vec<u8>, key: &TaskKey) {
    let start = since_epoch(key.start_time.0);
    bytes.extend(start.as_secs().to_le_bytes());
    bytes.extend(start.subsec_nanos().to_le_bytes());
    bytes.extend(format!("{}/{}", key.image_id, key.bucket).bytes());
}

/// The identity that [`put_key`] has added.
pub(super) fn read_key(bytes: &[u8]) -> Option<TaskKey> {
    let (seconds, rest) = bytes.split_first_chunk()?;
    let (nanos, rest) = rest.split_first_chunk()?;
    let (image_id, bucket) = std::str::from_utf8(rest).ok()?.split_once('/')?;
    let seconds = Duration::from_secs(u64::from_le_bytes(*seconds));
    let nanos = Duration::from_nanos(u32::from_le_bytes(*nanos).into());
    let start = SystemTime::UNIX_EPOCH.checked_add(seconds.checked_add(nanos)?)?;
    let image_id = ImageId::parse(image_id).ok()?;
    Some(TaskKey { start_time: Reverse(start), image_id, bucket: bucket.into() })
}

/// The time since 1970, zero before.
pub(super) fn since_epoch(time: SystemTime) -> Duration {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

/// The first bytes of a digest.
pub(super) fn first_bytes(digest: Sha256) -> [u8; DIGEST_BYTES] {
    let mut first = [0; DIGEST_BYTES];
    first.copy_from_slice(&digest.finalize()[..DIGEST_BYTES]);
    first
}

fn checksum(bytes: &[u8]) -> [u8; DIGEST_BYTES] {
    first_bytes(Sha256::new().chain_update(bytes))
}
