//! Names, parsed at the edge into types that cannot be wrong.

use std::{fmt, sync::Arc};

/// Why a text is not the name that it should be: what is allowed, never what was given twice.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} is not {expected}")]
pub struct NameError {
    given: String,
    expected: &'static str,
}

impl NameError {
    pub(super) fn new(given: &str, expected: &'static str) -> Self {
        // What a stranger sent is quoted, but not at any length.
        let given = given.chars().take(64).collect();
        Self { given, expected }
    }
}

/// A text whose clones share one allocation, and which a parser has checked.
macro_rules! name {
    ($(#[$meta:meta])* $name:ident, $expected:literal, $check:expr) => {
        $(#[$meta])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks and takes over a text.
            ///
            /// # Errors
            /// When the text does not have the form that the type stands for.
            pub fn parse(text: &str) -> Result<Self, NameError> {
                let check: fn(&str) -> bool = $check;
                if check(text) {
                    Ok(Self(text.into()))
                } else {
                    Err(NameError::new(text, $expected))
                }
            }

            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
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
    /// An S3 bucket's exact name, 3 to 255 characters: today's rules, and those of old buckets in
    /// us-east-1 (S3 user guide, "General purpose buckets naming rules"). The form leaves no room
    /// for the wildcards that EC2 would obey in a filter.
    BucketName,
    "a bucket name: 3 to 255 letters, digits, \".\", \"-\" and \"_\"",
    |text| (3..=255).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
);

name!(
    /// The gateway's name for an AWS account.
    AccountName,
    "an account name: 1 to 64 lower-case letters, digits and \"-\"",
    |text| (1..=64).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
);

name!(
    /// An AWS region by its form: words of lower-case letters and a number, such as `us-east-1`
    /// or `us-gov-west-1`. A region's name becomes part of a host name, so nothing else may pass.
    Region,
    "a region: lower-case words and a number joined by \"-\", such as \"us-east-1\"",
    |text| {
        let mut parts = text.split('-');
        let number = parts.next_back().unwrap_or_default();
        let words: Vec<_> = parts.collect();
        text.len() <= 32
            && (1..=2).contains(&number.len())
            && number.bytes().all(|b| b.is_ascii_digit())
            && (2..=4).contains(&words.len())
            && words.iter().all(|word| {
                !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase())
            })
    }
);

impl AccountName {
    /// The account that an empty name stands for.
    pub const DEFAULT: &'static str = "default";
}

impl Default for AccountName {
    fn default() -> Self {
        Self(Self::DEFAULT.into())
    }
}

/// Where EC2 counts: quotas, tasks and knowledge are per account and region.
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
