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

/// All violations of one request.
#[derive(Debug, Default)]
pub(super) struct Violations(Vec<Violation>);

impl Violations {
    /// Maximum number of violations that are reported. Further ones mostly repeat the same mistake.
    const MOST: usize = 20;

    pub(super) fn add(&mut self, field: impl Into<String>, description: impl fmt::Display) {
        if self.0.len() < Self::MOST {
            let description = description.to_string();
            self.0.push(Violation { field: field.into(), description });
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn into_vec(self) -> Vec<Violation> {
        self.0
    }
}
