//! Pagination tokens: the rules by which EC2 checks them, and the faults that they can have.

use std::{
    cmp::Reverse,
    time::{Duration, SystemTime},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

use super::refusal::Refusal;

/// A fault of pagination tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenFault {
    /// EC2 refuses tokens that lead to this page or to a later one. Pages count from 1. The first
    /// page needs no token, so 2 refuses every token.
    RefusedFromPage(u32),
    /// EC2 answers a call that has a token with that same token, without end.
    Repeated,
}

/// The rules for tokens.
#[derive(Debug)]
pub(super) struct TokenRules<'a> {
    /// The time for which a token is valid.
    pub(super) ttl: Duration,
    /// The error code of a token that is refused.
    pub(super) refusal_code: &'a str,
    pub(super) fault: Option<TokenFault>,
}

impl TokenRules<'_> {
    /// Reads a token. Fails if it is invalid, has expired, or is refused by a fault.
    pub(super) fn read(&self, token: &str, now: SystemTime) -> Result<PageToken, Refusal> {
        if let Some(token) = PageToken::decode(token)
            && self.accepts(&token, now)
        {
            return Ok(token);
        }
        Err(Refusal::new(400, self.refusal_code, "The token is not valid or has expired"))
    }

    fn accepts(&self, token: &PageToken, now: SystemTime) -> bool {
        if let Some(TokenFault::RefusedFromPage(number)) = self.fault
            && token.page >= number
        {
            return false;
        }
        now.duration_since(token.issued).unwrap_or_default() <= self.ttl
    }
}

/// The position of a task in a listing: newest first, then by image and bucket.
pub(super) type Position = (Reverse<SystemTime>, String, String);

/// The content of a token.
#[derive(Debug)]
pub(super) struct PageToken {
    /// The time at which the token was issued.
    pub(super) issued: SystemTime,
    /// The number of the page that the token leads to.
    pub(super) page: u32,
    /// The position of the last task of the previous page.
    pub(super) after: Position,
}

impl PageToken {
    pub(super) fn encode(&self) -> String {
        let (Reverse(start), image_id, bucket) = &self.after;
        let (issued, page, start) = (millis(self.issued), self.page, millis(*start));
        URL_SAFE_NO_PAD.encode(format!("{issued}/{page}/{start}/{image_id}/{bucket}"))
    }

    pub(super) fn decode(token: &str) -> Option<Self> {
        let text = String::from_utf8(URL_SAFE_NO_PAD.decode(token).ok()?).ok()?;
        let mut parts = text.splitn(5, '/');
        let issued = time(parts.next()?)?;
        let page = parts.next()?.parse().ok()?;
        let start = time(parts.next()?)?;
        let after = (Reverse(start), parts.next()?.to_owned(), parts.next()?.to_owned());
        Some(Self { issued, page, after })
    }
}

fn millis(time: SystemTime) -> u128 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis()
}

fn time(millis: &str) -> Option<SystemTime> {
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(millis.parse().ok()?))
}
