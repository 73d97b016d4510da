//! A call to EC2 whose answer the snapshot can merge.

use super::pages::PageStart;
use crate::domain::{DescribeTarget, ImageId, ListingFilter};

/// A call to EC2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fetch {
    /// A page of a listing.
    Page {
        /// Which tasks the listing holds.
        filter: ListingFilter,
        /// Where the page begins.
        start: PageStart,
    },
    /// The latest task of each image.
    Images(Vec<ImageId>),
}

impl Fetch {
    /// The first page of a listing.
    pub(super) fn first_page(filter: ListingFilter) -> Self {
        Self::Page { filter, start: PageStart::FIRST }
    }

    /// Whether this is the first page of all tasks, which tells of all that is new.
    pub(super) fn is_first_of_all(&self) -> bool {
        matches!(self, Self::Page { filter, start } if filter.is_empty() && start.token.is_none())
    }

    /// Whether this is a page of all tasks below the first one.
    pub(super) fn is_deep_page(&self) -> bool {
        matches!(self, Self::Page { filter, start } if filter.is_empty() && start.token.is_some())
    }

    /// The question to EC2.
    pub(super) fn target(&self) -> DescribeTarget {
        match self {
            Self::Page { filter, start } => {
                DescribeTarget::Listing { filter: filter.clone(), next: start.token.clone() }
            }
            Self::Images(images) => DescribeTarget::Images(images.clone()),
        }
    }
}
