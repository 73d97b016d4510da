//! A pending query, as far as it decides which call is next.

use tokio::time::Instant;

use super::{fetch::Fetch, reading::Gap};
use crate::domain::{Caller, ListingFilter};

/// Names a pending query.
pub(super) type QueryId = u64;

/// A pending query and its gap.
#[derive(Clone, Debug)]
pub(super) struct PendingGap {
    pub(super) id: QueryId,
    /// The caller in whose share the query counts. None if no caller waits.
    pub(super) caller: Option<Caller>,
    /// The answer must be from calls that started at this time or later.
    pub(super) not_before: Instant,
    pub(super) gap: Gap,
    /// The caller has an answer even if EC2 does not fill this gap.
    pub(super) is_optional: bool,
}

impl PendingGap {
    /// Whether pages of a listing may be read for it.
    pub(super) fn may_read(&self, filter: &ListingFilter) -> bool {
        let wants_page =
            matches!(&self.gap.page, Some(Fetch::Page { filter: wanted, .. }) if wanted == filter);
        let may_sweep = *filter == ListingFilter::in_progress() && self.gap.unfinished.count() > 0;
        wants_page || may_sweep || filter.is_empty() && self.gap.page.is_none()
    }

    /// Whether look-ups may tell what a page did not.
    pub(super) fn has_other_ways(&self) -> bool {
        self.gap.page.is_none() && self.gap.unfinished.count() == 0
    }
}
