//! Names of accounts, regions and buckets. Each type can only hold a valid name.

use std::{borrow::Borrow, fmt, sync::Arc};

/// A text that is not a valid name: the text, and the form that was expected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} is not {expected}")]
pub struct NameError {
    given: String,
    expected: &'static str,
}

impl NameError {
    pub(super) fn new(given: &str, expected: &'static str) -> Self {
        // The text comes from a caller, so the error quotes at most 64 characters of it.
        let given = given.chars().take(64).collect();
        Self { given, expected }
    }
}

/// Defines a type for a checked name. Its clones share one allocation.
macro_rules! name {
    ($(#[$meta:meta])* $name:ident, $expected:literal, $check:path) => {
        $(#[$meta])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Parses a name.
            ///
            /// # Errors
            /// If the text does not have the form of such a name.
            pub fn parse(text: &str) -> Result<Self, NameError> {
                if $check(text) {
                    Ok(Self(text.into()))
                } else {
                    Err(NameError::new(text, $expected))
                }
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl std::str::FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::parse(text)
            }
        }
    };
}

name!(
    /// An S3 bucket's exact name, 3 to 255 characters.
    ///
    /// The form covers today's names and those of old buckets in us-east-1 (S3 user guide,
    /// "General purpose buckets naming rules"). It excludes the wildcards that EC2 would expand in
    /// a filter.
    BucketName,
    "a bucket name: 3 to 255 letters, digits, \".\", \"-\" and \"_\"",
    is_bucket_name
);

name!(
    /// The gateway's name for an AWS account.
    AccountName,
    "an account name: 1 to 64 lower-case letters, digits and \"-\"",
    is_account_name
);

name!(
    /// An AWS region's name: words of lower-case letters and a number, such as `us-east-1` or
    /// `us-gov-west-1`.
    ///
    /// The name becomes part of a host name, so no other form is accepted.
    Region,
    "a region: lower-case words and a number joined by \"-\", such as \"us-east-1\"",
    is_region
);

fn is_bucket_name(text: &str) -> bool {
    (3..=255).contains(&text.len()) && text.bytes().all(is_bucket_byte)
}

fn is_bucket_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_')
}

fn is_account_name(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(is_account_byte)
}

fn is_account_byte(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-'
}

fn is_region(text: &str) -> bool {
    if text.len() > 32 {
        return false;
    }
    let parts: Vec<&str> = text.split('-').collect();
    let Some((number, words)) = parts.split_last() else {
        return false;
    };
    for word in words {
        if word.is_empty() || !word.bytes().all(|byte| byte.is_ascii_lowercase()) {
            return false;
        }
    }
    (2..=4).contains(&words.len())
        && (1..=2).contains(&number.len())
        && number.bytes().all(|byte| byte.is_ascii_digit())
}

impl AccountName {
    /// The name of the default account, which an empty name selects.
    pub const DEFAULT: &'static str = "default";
}

impl Default for AccountName {
    fn default() -> Self {
        Self(Self::DEFAULT.into())
    }
}

/// An account and a region. EC2 keeps quotas and tasks per scope, and so does the cache.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Scope {
    /// The account.
    pub account: AccountName,
    /// The region.
    pub region: Region,
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.account, self.region)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions() {
        for good in
            ["us-east-1", "us-gov-west-1", "ap-southeast-7", "eusc-de-east-1", "us-iso-east-1"]
        {
            assert!(Region::parse(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "evil.example/#",
            "us-east",
            "us--1",
            "-1",
            "1",
            "US-EAST-1",
            "us-east-1a",
            "us-east-123",
            "a-b-c-d-e-1",
        ] {
            assert!(Region::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn buckets() {
        for good in ["abc", "my.bucket-1", "Old_Bucket"] {
            assert!(BucketName::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "ab", "with*", "question?", "a/b"] {
            assert!(BucketName::parse(bad).is_err(), "{bad}");
        }
        assert!(BucketName::parse(&"a".repeat(256)).is_err());
    }
}
