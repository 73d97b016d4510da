//! The name of a client that has proved it with a certificate.

use std::{fmt, sync::Arc};

use super::log_text::log_text;

/// 2,048 bytes: the longest name of a client. SPIFFE has the same limit for its IDs.
const MAX_NAME_BYTES: usize = 2_048;

/// The field of a certificate that holds a name, in the order in which they are looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, strum::Display)]
pub enum NameField {
    /// A URI among the subject alternative names, such as a SPIFFE ID.
    #[strum(to_string = "URI")]
    Uri,
    /// A DNS name among the subject alternative names, in lower case.
    #[strum(to_string = "DNS")]
    Dns,
    /// The subject, in the form of RFC 4514.
    #[strum(to_string = "subject")]
    Subject,
}

/// The name of a client, as a CA that the gateway trusts has certified it.
///
/// It is an extension of each request on the client's connection. Names of different fields are never
/// equal, so that no subject can pass for a URI.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerIdentity {
    field: NameField,
    name: Arc<str>,
}

impl PeerIdentity {
    /// An identity, or None if the name is empty or longer than 2,048 bytes. A long name is not cut,
    /// since two clients could then have one identity.
    #[must_use]
    pub fn new(field: NameField, name: &str) -> Option<Self> {
        if name.is_empty() || name.len() > MAX_NAME_BYTES {
            return None;
        }
        let name = match field {
            NameField::Dns => name.to_ascii_lowercase().into(),
            NameField::Uri | NameField::Subject => name.into(),
        };
        Some(Self { field, name })
    }

    /// The field of the certificate that holds the name.
    #[must_use]
    pub fn field(&self) -> NameField {
        self.field
    }

    /// The whole name. It can hold control characters.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// The field and the name, as a log line has them.
impl fmt::Display for PeerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.field, log_text(&self.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_shown_with_its_field_and_without_control_characters() {
        for (field, name, shown) in [
            (NameField::Uri, "spiffe://example/a", "URI:spiffe://example/a"),
            (NameField::Dns, "Client.Example", "DNS:client.example"),
            (NameField::Subject, "CN=a\x1b[2J\n", "subject:CN=a\\u{1b}[2J\\n"),
        ] {
            let identity = PeerIdentity::new(field, name).expect("a name");
            assert_eq!(identity.to_string(), shown);
        }
    }

    #[test]
    fn names_of_different_fields_differ() {
        let of = |field| PeerIdentity::new(field, "a").expect("a name");
        assert_ne!(of(NameField::Uri), of(NameField::Dns));
        assert_eq!(of(NameField::Uri), of(NameField::Uri));
    }

    #[test]
    fn a_name_has_1_to_2048_bytes() {
        assert!(PeerIdentity::new(NameField::Uri, "").is_none());
        let longest = "x".repeat(MAX_NAME_BYTES);
        let identity = PeerIdentity::new(NameField::Uri, &longest).expect("a name");
        assert_eq!(identity.name(), longest);
        assert!(PeerIdentity::new(NameField::Uri, &(longest + "x")).is_none());
    }
}
