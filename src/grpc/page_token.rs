//! Page tokens: a place in the sort order, and a digest of the question that it belongs to.
//!
//! A place means the same on every replica and after every refresh, so a walk returns each task
//! that existed throughout exactly once. The token is opaque and not secret: who forges one gets
//! what a List would have given anyway.

use std::{
    cmp::Reverse,
    time::{Duration, SystemTime},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest as _, Sha256};

use crate::domain::{ImageId, Scope, TaskFilter, TaskKey};

const VERSION: u8 = 1;
/// Bytes of each digest.
const DIGEST: usize = 8;
/// Longer texts are not looked at: ours have up to 400 characters.
const LONGEST: usize = 1024;

/// The question that a walk is about: what must stay the same from page to page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fingerprint([u8; DIGEST]);

impl Fingerprint {
    pub(super) fn of(scope: &Scope, filter: &TaskFilter) -> Self {
        let TaskFilter { images, states, buckets } = filter;
        let mut digest = Sha256::new();
        let mut part = |text: &str| {
            digest.update((text.len() as u64).to_le_bytes());
            digest.update(text);
        };
        part(scope.account.as_str());
        part(scope.region.as_str());
        part("images");
        for image in images {
            part(&image.to_string());
        }
        part("states");
        for state in states {
            part(&format!("{state:?}"));
        }
        part("buckets");
        for bucket in buckets {
            part(bucket.as_str());
        }
        Self(first_bytes(digest))
    }
}

/// Why a token is no good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum TokenError {
    #[error(
        "is not a page token of this service, or was cut or damaged: pass next_page_token as it came, or start again without"
    )]
    NotOurs,
    #[error(
        "belongs to a question with other arguments: account, region, image_ids, states and buckets must stay as they were"
    )]
    OtherQuestion,
}

pub(super) fn write(fingerprint: Fingerprint, after: &TaskKey) -> String {
    let start = after.start_time.0.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let mut bytes = vec![VERSION];
    bytes.extend(fingerprint.0);
    bytes.extend(start.as_secs().to_le_bytes());
    bytes.extend(start.subsec_nanos().to_le_bytes());
    bytes.extend(format!("{}/{}", after.image_id, after.bucket).bytes());
    let check: [u8; DIGEST] = first_bytes(Sha256::new().chain_update(&bytes));
    bytes.extend(check);
    URL_SAFE_NO_PAD.encode(bytes)
}

pub(super) fn read(fingerprint: Fingerprint, token: &str) -> Result<TaskKey, TokenError> {
    let bytes = unsealed(token).ok_or(TokenError::NotOurs)?;
    let (known, after) = parts(&bytes).ok_or(TokenError::NotOurs)?;
    if known == fingerprint { Ok(after) } else { Err(TokenError::OtherQuestion) }
}

fn unsealed(token: &str) -> Option<Vec<u8>> {
    let mut bytes = URL_SAFE_NO_PAD.decode(token.get(..token.len().min(LONGEST + 1))?).ok()?;
    if token.len() > LONGEST {
        return None;
    }
    let check = bytes.split_off(bytes.len().checked_sub(DIGEST)?);
    let expected: [u8; DIGEST] = first_bytes(Sha256::new().chain_update(&bytes));
    (check == expected).then_some(bytes)
}

fn parts(bytes: &[u8]) -> Option<(Fingerprint, TaskKey)> {
    let (&[VERSION], rest) = bytes.split_first_chunk::<1>()? else { return None };
    let (fingerprint, rest) = rest.split_first_chunk()?;
    let (secs, rest) = rest.split_first_chunk()?;
    let (nanos, rest) = rest.split_first_chunk()?;
    let (image_id, bucket) = std::str::from_utf8(rest).ok()?.split_once('/')?;
    let since = Duration::from_secs(u64::from_le_bytes(*secs))
        .checked_add(Duration::from_nanos(u32::from_le_bytes(*nanos).into()))?;
    let key = TaskKey {
        start_time: Reverse(SystemTime::UNIX_EPOCH.checked_add(since)?),
        image_id: ImageId::parse(image_id).ok()?,
        bucket: bucket.into(),
    };
    Some((Fingerprint(*fingerprint), key))
}

fn first_bytes(digest: Sha256) -> [u8; DIGEST] {
    let mut first = [0; DIGEST];
    first.copy_from_slice(&digest.finalize()[..DIGEST]);
    first
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{AccountName, Region};

    fn query(region: &str) -> Fingerprint {
        let region = Region::parse(region).expect("valid");
        let scope = Scope { account: AccountName::default(), region };
        Fingerprint::of(&scope, &TaskFilter::default())
    }

    fn place() -> TaskKey {
        TaskKey {
            start_time: Reverse(SystemTime::UNIX_EPOCH + Duration::new(1_700_000_000, 123_000_000)),
            image_id: ImageId::parse("ami-0123456789abcdef0").expect("valid"),
            bucket: "a/bucket".into(),
        }
    }

    #[test]
    fn a_token_is_read_as_it_was_written() {
        let token = write(query("us-east-1"), &place());
        assert_eq!(read(query("us-east-1"), &token), Ok(place()));
    }

    #[test]
    fn a_token_of_another_question_is_refused() {
        let token = write(query("us-east-1"), &place());
        assert_eq!(read(query("us-east-2"), &token), Err(TokenError::OtherQuestion));
    }

    #[test]
    fn a_token_that_was_cut_or_damaged_anywhere_is_refused() {
        let good = query("us-east-1");
        let token = write(good, &place());
        for end in 0..token.len() {
            assert_eq!(read(good, &token[..end]), Err(TokenError::NotOurs), "{end}");
        }
        for at in 0..token.len() {
            let mut damaged = token.clone().into_bytes();
            damaged[at] = if damaged[at] == b'A' { b'Q' } else { b'A' };
            let damaged = String::from_utf8(damaged).expect("ASCII");
            assert_eq!(read(good, &damaged), Err(TokenError::NotOurs), "{at}");
        }
        for foreign in ["", "é", "!!!!", &"A".repeat(5000)] {
            assert_eq!(read(good, foreign), Err(TokenError::NotOurs));
        }
    }
}
