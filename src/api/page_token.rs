//! Page tokens: a position in the sort order, and a fingerprint of the request's arguments.
//!
//! A position means the same on every replica and after every refresh. A client that reads all
//! pages therefore gets each task that existed throughout exactly once. A token is opaque but not
//! secret: a forged token shows nothing that a List without a token would not show.

use std::{
    cmp::Reverse,
    time::{Duration, SystemTime},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest as _, Sha256};

use crate::domain::{ImageId, Scope, TaskFilter, TaskKey};

/// Version of the format, the first byte of every token.
const VERSION: u8 = 1;
/// Length in bytes of the fingerprint and of the checksum.
const DIGEST_BYTES: usize = 8;
/// Maximum length of a token that is decoded. The gateway's own tokens have at most 408 characters.
const LONGEST_TOKEN: usize = 1024;

/// Identifies the arguments that must stay the same from page to page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fingerprint([u8; DIGEST_BYTES]);

impl Fingerprint {
    pub(super) fn new(scope: &Scope, filter: &TaskFilter) -> Self {
        let TaskFilter { images, states, buckets } = filter;
        let mut digest = Sha256::new();
        update(&mut digest, scope.account.as_str());
        update(&mut digest, scope.region.as_str());
        update(&mut digest, "images");
        for image in images {
            update(&mut digest, &image.to_string());
        }
        update(&mut digest, "states");
        for state in states {
            update(&mut digest, state.as_ec2());
        }
        update(&mut digest, "buckets");
        for bucket in buckets {
            update(&mut digest, bucket.as_str());
        }
        Self(first_bytes(digest))
    }
}

/// Adds a text with its length, so that the lists `["ab", "c"]` and `["a", "bc"]` hash differently.
fn update(digest: &mut Sha256, text: &str) {
    digest.update((text.len() as u64).to_le_bytes());
    digest.update(text);
}

/// The reason for which a page token is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum TokenError {
    #[error(
        "must be a next_page_token of this service, passed on unchanged, or empty for the first page"
    )]
    Unreadable,
    #[error(
        "belongs to a request with other arguments: account, region, image_ids, states and buckets must stay the same from page to page"
    )]
    OtherArguments,
}

/// Encodes the position after a task.
pub(super) fn write(fingerprint: Fingerprint, after: &TaskKey) -> String {
    let start = after.start_time.0.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let mut bytes = vec![VERSION];
    bytes.extend(fingerprint.0);
    bytes.extend(start.as_secs().to_le_bytes());
    bytes.extend(start.subsec_nanos().to_le_bytes());
    bytes.extend(format!("{}/{}", after.image_id, after.bucket).bytes());
    let checksum = checksum(&bytes);
    bytes.extend(checksum);
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Decodes a token, and checks that it was issued for the same arguments.
pub(super) fn read(fingerprint: Fingerprint, token: &str) -> Result<TaskKey, TokenError> {
    let payload = payload(token).ok_or(TokenError::Unreadable)?;
    let (given, after) = parse(&payload).ok_or(TokenError::Unreadable)?;
    if given == fingerprint { Ok(after) } else { Err(TokenError::OtherArguments) }
}

/// The bytes before the checksum. None if the checksum does not match.
fn payload(token: &str) -> Option<Vec<u8>> {
    if token.len() > LONGEST_TOKEN {
        return None;
    }
    let mut bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
    let given = bytes.split_off(bytes.len().checked_sub(DIGEST_BYTES)?);
    (given == checksum(&bytes)).then_some(bytes)
}

fn parse(bytes: &[u8]) -> Option<(Fingerprint, TaskKey)> {
    let (&[VERSION], rest) = bytes.split_first_chunk::<1>()? else { return None };
    let (fingerprint, rest) = rest.split_first_chunk()?;
    let (seconds, rest) = rest.split_first_chunk()?;
    let (nanos, rest) = rest.split_first_chunk()?;
    let (image_id, bucket) = std::str::from_utf8(rest).ok()?.split_once('/')?;
    let seconds = Duration::from_secs(u64::from_le_bytes(*seconds));
    let nanos = Duration::from_nanos(u32::from_le_bytes(*nanos).into());
    let start = SystemTime::UNIX_EPOCH.checked_add(seconds.checked_add(nanos)?)?;
    let key = TaskKey {
        start_time: Reverse(start),
        image_id: ImageId::parse(image_id).ok()?,
        bucket: bucket.into(),
    };
    Some((Fingerprint(*fingerprint), key))
}

fn checksum(bytes: &[u8]) -> [u8; DIGEST_BYTES] {
    first_bytes(Sha256::new().chain_update(bytes))
}

fn first_bytes(digest: Sha256) -> [u8; DIGEST_BYTES] {
    let mut first = [0; DIGEST_BYTES];
    first.copy_from_slice(&digest.finalize()[..DIGEST_BYTES]);
    first
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{AccountName, BucketName, Region, TaskStateKind};

    fn query(region: &str) -> Fingerprint {
        let region = Region::parse(region).expect("valid");
        let scope = Scope { account: AccountName::default(), region };
        Fingerprint::new(&scope, &TaskFilter::default())
    }

    fn place() -> TaskKey {
        TaskKey {
            start_time: Reverse(SystemTime::UNIX_EPOCH + Duration::new(1_700_000_000, 123_000_000)),
            image_id: ImageId::parse("ami-0123456789abcdef0").expect("valid"),
            bucket: "a/bucket".into(),
        }
    }

    #[test]
    fn a_token_reads_as_it_was_written() {
        let token = write(query("us-east-1"), &place());
        assert_eq!(read(query("us-east-1"), &token), Ok(place()));
    }

    /// Tokens are valid on every replica, also while old and new versions run side by side.
    #[test]
    fn the_format_of_a_token_stays_as_it_was() {
        let filter = TaskFilter {
            states: [TaskStateKind::Failed].into(),
            buckets: [BucketName::parse("golden-images").expect("valid")].into(),
            ..TaskFilter::default()
        };
        let region = Region::parse("us-east-1").expect("valid");
        let scope = Scope { account: AccountName::default(), region };
        let token = write(Fingerprint::new(&scope, &filter), &place());
        assert_eq!(
            token,
            "AUOKgk2feJXbAPFTZQAAAADA1FQHYW1pLTAxMjM0NTY3ODlhYmNkZWYwL2EvYnVja2V0eGgq6XTmjM0"
        );
    }

    #[test]
    fn a_token_for_other_arguments_is_refused() {
        let token = write(query("us-east-1"), &place());
        assert_eq!(read(query("us-east-2"), &token), Err(TokenError::OtherArguments));
    }

    #[test]
    fn a_token_that_is_cut_or_damaged_anywhere_is_refused() {
        let good = query("us-east-1");
        let token = write(good, &place());
        for end in 0..token.len() {
            assert_eq!(read(good, &token[..end]), Err(TokenError::Unreadable), "{end}");
        }
        for at in 0..token.len() {
            let mut damaged = token.clone().into_bytes();
            damaged[at] = if damaged[at] == b'A' { b'Q' } else { b'A' };
            let damaged = String::from_utf8(damaged).expect("ASCII");
            assert_eq!(read(good, &damaged), Err(TokenError::Unreadable), "{at}");
        }
        for foreign in ["", "é", "!!!!", &"A".repeat(5000)] {
            assert_eq!(read(good, foreign), Err(TokenError::Unreadable));
        }
    }
}
