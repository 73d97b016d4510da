//! The invalid fields of a request, collected so that all are reported together.

use std::fmt;

/// One invalid field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Path of the field, for example `image_ids[3]`.
    pub field: String,
    /// The value that was found and the values that are expected.
    pub description: String,
}

/// All violations of one request: the first in full, the others as a number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Violations {
    first: Vec<Violation>,
    more: usize,
}

impl Violations {
    /// Maximum number of violations that are kept in full. Further ones mostly repeat the same
    /// mistake.
    const MAX_KEPT: usize = 20;

    /// Adds an invalid field.
    pub fn add(&mut self, field: impl Into<String>, description: impl fmt::Display) {
        if self.first.len() == Self::MAX_KEPT {
            self.more += 1;
            return;
        }
        let description = description.to_string();
        self.first.push(Violation { field: field.into(), description });
    }

    /// Whether no field is invalid.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.first.is_empty()
    }

    /// The violations that are kept in full.
    #[must_use]
    pub fn first(&self) -> &[Violation] {
        &self.first
    }

    /// The same violations, of which at most `count` are kept in full.
    #[must_use]
    pub fn keep(&self, count: usize) -> Self {
        let count = count.min(self.first.len());
        let more = self.more + self.first.len() - count;
        Self { first: self.first[..count].to_vec(), more }
    }
}

/// For example `region: ...; page_size: ...; and 17 more`.
impl fmt::Display for Violations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, violation) in self.first.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}{}: {}", violation.field, violation.description)?;
        }
        if self.more > 0 {
            write!(f, "; and {} more", self.more)?;
        }
        Ok(())
    }
}
