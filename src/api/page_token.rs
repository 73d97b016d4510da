//! Page tokens: the place where the next page begins, the time of the request for the first page, and a
//! fingerprint of the request's arguments.
//!
//! A place means the same on every replica and after every refresh, so a walk returns each task that
//! existed throughout exactly once. A token is opaque but not secret: a forged one yields only data
//! that any List can read.

use std::time::{Duration, SystemTime};

use sha2::{Digest as _, Sha256};

use super::sealed::{self, DIGEST_BYTES, first_bytes, since_epoch};
use crate::domain::{ImageId, Scope, TaskFilter, TaskKey};

/// First byte of every token. A new format gets a new number.
const VERSION: u8 = 1;
/// First byte of a place after a task.
const AFTER_TASK: u8 = 0;
/// First byte of a place in the request's images.
const AT_IMAGE: u8 = 1;
/// Maximum length of a token that is decoded. The gateway's own tokens have at most 420 characters.
const LONGEST_TOKEN: usize = 1024;

/// A fingerprint of the arguments that must stay the same from page to page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fingerprint([u8; DIGEST_BYTES]);

impl Fingerprint {
    /// The order of `images` counts, since a place in the images is a position.
    pub(super) fn new(scope: &Scope, filter: &TaskFilter, images: &[ImageId]) -> Self {
        let TaskFilter { states, buckets, started_after } = filter;
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
        if let Some(time) = started_after {
            update(&mut digest, "started after");
            digest.update(since_epoch(*time).as_nanos().to_le_bytes());
        }
        Self(first_bytes(digest))
    }
}

/// Adds a text and its length to a digest. Without the lengths, two lists of texts could have the same
/// concatenation.
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
        "belongs to a request with other arguments: account, region, image_ids, states, buckets and started_after must stay the same from page to page"
    )]
    OtherArguments,
}

/// The place where a page begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// After this task of the listing.
    After(TaskKey),
    /// At this position in the request's images.
    Image(u32),
}

/// The content of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PageToken {
    pub(super) place: Place,
    /// The time of the request for the first page, to the millisecond.
    pub(super) requested_at: SystemTime,
}

/// Encodes a token.
pub(super) fn write(fingerprint: Fingerprint, token: &PageToken) -> String {
    let mut bytes = vec![VERSION];
    bytes.extend(fingerprint.0);
    let millis = since_epoch(token.requested_at).as_millis();
    bytes.extend(u64::try_from(millis).unwrap_or(u64::MAX).to_le_bytes());
    match &token.place {
        Place::After(key) => {
            bytes.push(AFTER_TASK);
            sealed::put_key(&mut bytes, key);
        }
        Place::Image(position) => {
            bytes.push(AT_IMAGE);
            bytes.extend(position.to_le_bytes());
        }
    }
    sealed::seal(bytes)
}

/// Decodes a token that was issued for the same arguments.
pub(super) fn read(fingerprint: Fingerprint, token: &str) -> Result<PageToken, TokenError> {
    let payload = sealed::open(token, LONGEST_TOKEN).ok_or(TokenError::Unreadable)?;
    let (given, token) = parse(&payload).ok_or(TokenError::Unreadable)?;
    if given == fingerprint { Ok(token) } else { Err(TokenError::OtherArguments) }
}

fn parse(bytes: &[u8]) -> Option<(Fingerprint, PageToken)> {
    let (&[VERSION], rest) = bytes.split_first_chunk::<1>()? else { return None };
    let (fingerprint, rest) = rest.split_first_chunk()?;
    let (millis, rest) = rest.split_first_chunk()?;
    let requested_at = Duration::from_millis(u64::from_le_bytes(*millis));
    let requested_at = SystemTime::UNIX_EPOCH.checked_add(requested_at)?;
    let place = match rest.split_first()? {
        (&AFTER_TASK, rest) => Place::After(sealed::read_key(rest)?),
        (&AT_IMAGE, rest) => Place::Image(u32::from_le_bytes(rest.try_into().ok()?)),
        _ => return None,
    };
    Some((Fingerprint(*fingerprint), PageToken { place, requested_at }))
}

#[cfg(test)]
mod tests {
    use std::cmp::Reverse;

    use super::*;
    use crate::domain::{AccountName, BucketName, Region, TaskStateKind};

    fn query(region: &str) -> Fingerprint {
        let region = Region::parse(region).expect("valid");
        let scope = Scope { account: AccountName::default(), region };
        Fingerprint::new(&scope, &TaskFilter::default(), &[])
    }

    fn places() -> [PageToken; 2] {
        let start = SystemTime::UNIX_EPOCH + Duration::new(1_700_000_000, 123_000_000);
        let key = TaskKey {
            start_time: Reverse(start),
            image_id: ImageId::parse("ami-0123456789abcdef0").expect("valid"),
            bucket: "a/bucket".into(),
        };
        let places = [Place::After(key), Place::Image(77)];
        places.map(|place| PageToken { place, requested_at: start })
    }

    fn place() -> PageToken {
        places()[0].clone()
    }

    #[test]
    fn a_token_reads_as_it_was_written() {
        let token = write(query("us-east-1"), &place());
        assert_eq!(read(query("us-east-1"), &token), Ok(place()));
    }

    #[test]
    fn every_argument_is_part_of_the_fingerprint() {
        let region = Region::parse("us-east-1").expect("valid");
        let scope = Scope { account: AccountName::default(), region };
        let ids = ["ami-00000001", "ami-00000002"].map(|id| ImageId::parse(id).expect("valid"));
        let started_after = Some(SystemTime::UNIX_EPOCH);
        let filters = [
            TaskFilter::default(),
            TaskFilter { states: [TaskStateKind::Failed].into(), ..TaskFilter::default() },
            TaskFilter { started_after, ..TaskFilter::default() },
        ];
        let mut seen = Vec::new();
        for filter in &filters {
            for images in [&[][..], &ids, &[ids[1], ids[0]]] {
                let fingerprint = Fingerprint::new(&scope, filter, images);
                assert!(!seen.contains(&fingerprint), "{filter:?} {images:?}");
                seen.push(fingerprint);
            }
        }
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
        let token = write(Fingerprint::new(&scope, &filter, &[]), &place());
        assert_eq!(
            token,
            "AUOKgk2feJXbe2jlz4sBAAAAAPFTZQAAAADA1FQHYW1pLTAxMjM0NTY3ODlhYmNkZWYwL2EvYnVja2V0xdxD5dSU7nY"
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
