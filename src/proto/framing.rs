//! gRPC's framing of a message: a flag, four bytes of length, and the message (gRPC over HTTP2,
//! "Length-Prefixed-Message").

use bytes::Bytes;

/// Number of bytes before a message: the flag and the length.
pub const PREFIX_BYTES: usize = 5;

/// The flag of a message that is not compressed.
const PLAIN: u8 = 0;

/// Puts the prefix before a message that is not compressed.
#[must_use]
pub fn frame(message: &[u8]) -> Bytes {
    // Every message of the gateway's own stays below 3.5 MiB.
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    let mut framed = Vec::with_capacity(PREFIX_BYTES + message.len());
    framed.push(PLAIN);
    framed.extend(length.to_be_bytes());
    framed.extend(message);
    framed.into()
}

/// The length that the prefix at the beginning of a body announces, if the prefix is there.
#[must_use]
pub fn announced_bytes(body: &[u8]) -> Option<usize> {
    let (prefix, _) = body.split_first_chunk::<PREFIX_BYTES>()?;
    let [_, length @ ..] = *prefix;
    usize::try_from(u32::from_be_bytes(length)).ok()
}

/// The message of a body that has exactly one, which is not compressed.
#[must_use]
pub fn only_message(body: &[u8]) -> Option<&[u8]> {
    let (prefix, message) = body.split_at_checked(PREFIX_BYTES)?;
    let whole = announced_bytes(prefix)? == message.len();
    if whole && prefix.first() == Some(&PLAIN) { Some(message) } else { None }
}

/// Follows the messages of a body whose bytes come in pieces of any size.
#[derive(Debug, Default)]
pub struct Messages {
    count: usize,
    /// The bytes of a prefix that is not whole yet.
    prefix: Vec<u8>,
    /// Number of bytes that remain of the present message.
    left: usize,
}

impl Messages {
    /// Number of messages that have begun.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// Reads the next bytes. Returns the length of the longest message that they announce, or 0.
    pub fn read(&mut self, mut bytes: &[u8]) -> usize {
        let mut longest = 0;
        while let Some((first, rest)) = bytes.split_first() {
            if self.left > 0 {
                let read = self.left.min(bytes.len());
                self.left -= read;
                bytes = &bytes[read..];
                continue;
            }
            if self.prefix.is_empty() {
                self.count += 1;
            }
            self.prefix.push(*first);
            bytes = rest;
            if let Some(length) = announced_bytes(&self.prefix) {
                self.prefix.clear();
                self.left = length;
                longest = longest.max(length);
            }
        }
        longest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_framed_message_is_found_again() {
        for message in [b"".as_slice(), b"a", &[7; 300]] {
            let framed = frame(message);
            assert_eq!(framed.len(), PREFIX_BYTES + message.len());
            assert_eq!(announced_bytes(&framed), Some(message.len()));
            assert_eq!(only_message(&framed), Some(message));
        }
    }

    #[test]
    fn a_body_with_anything_but_one_plain_message_has_no_only_message() {
        let compressed = [1, 0, 0, 0, 1, 9];
        let two = [frame(b"a"), frame(b"b")].concat();
        for body in [&[][..], &[0, 0, 0, 0], &[0, 0, 0, 0, 2, 1], &compressed, &two] {
            assert_eq!(only_message(body), None, "{body:?}");
        }
        assert_eq!(announced_bytes(&[0, 0, 0, 1]), None);
        assert_eq!(announced_bytes(&[0, 255, 255, 255, 255]), Some(0xffff_ffff));
    }

    #[test]
    fn messages_are_counted_however_their_bytes_are_cut() {
        let body =
            [frame(b"a"), frame(b""), frame(&[7; 300]), Bytes::from_static(&[0, 0])].concat();
        for piece in [1, 2, 5, 7, 300, body.len()] {
            let mut messages = Messages::default();
            let mut longest = 0;
            for bytes in body.chunks(piece) {
                longest = longest.max(messages.read(bytes));
            }
            assert_eq!((messages.count(), longest), (4, 300), "{piece} bytes at a time");
        }
    }
}
