//! Pagination tokens: the position of the last task of a page, and the time of issue.

use std::{
    cmp::Reverse,
    time::{Duration, SystemTime},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

/// The position of a task in a listing: newest first, then by image and bucket.
pub(super) type Position = (Reverse<SystemTime>, String, String);

/// The content of a token.
#[derive(Debug)]
pub(super) struct PageToken {
    /// When the token was issued.
    pub(super) issued: SystemTime,
    /// The position of the last task of the page before.
    pub(super) after: Position,
}

impl PageToken {
    pub(super) fn encode(&self) -> String {
        let (Reverse(start), image_id, bucket) = &self.after;
        let text = format!("{}/{}/{image_id}/{bucket}", millis(self.issued), millis(*start));
        URL_SAFE_NO_PAD.encode(text)
    }

    pub(super) fn decode(token: &str) -> Option<Self> {
        let text = String::from_utf8(URL_SAFE_NO_PAD.decode(token).ok()?).ok()?;
        let mut parts = text.splitn(4, '/');
        let issued = time(parts.next()?)?;
        let start = time(parts.next()?)?;
        let after = (Reverse(start), parts.next()?.to_owned(), parts.next()?.to_owned());
        Some(Self { issued, after })
    }
}

fn millis(time: SystemTime) -> u128 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis()
}

fn time(millis: &str) -> Option<SystemTime> {
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(millis.parse().ok()?))
}
