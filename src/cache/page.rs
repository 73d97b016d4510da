//! Reading a page from a ledger that knows enough for it.

use std::{collections::BTreeSet, sync::Arc};

use super::{coverage::Position, listing::Listing, query::best_listing, snapshot::Snapshot};
use crate::domain::{ImageId, StoreImageTask, TaskFilter, TaskKey};

/// Tasks in sort order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The tasks.
    pub tasks: Vec<Arc<StoreImageTask>>,
    /// Others follow, or may follow where the listing is not known to its end.
    pub more: bool,
}

impl Snapshot {
    /// The first `count` tasks that pass, after a place: the answer to [`super::Query::Listing`].
    #[must_use]
    pub fn page(&self, filter: &TaskFilter, after: Option<&TaskKey>, count: usize) -> Page {
        // Another listing may have been read further down, but long ago.
        let (listing, _) = best_listing(self, filter, after, count);
        let bottom = self.filtered(&listing).map_or(&Position::Top, Listing::bottom);
        let mut passing = self
            .candidates(filter, after)
            .take_while(|task| bottom.reaches(&task.key))
            .filter(|task| filter.matches(task))
            .cloned();
        let tasks: Vec<_> = passing.by_ref().take(count).collect();
        let more = passing.next().is_some()
            || *bottom != Position::End
            || tasks.last().is_some_and(|last| self.may_pass_after(&last.key, filter))
                && tasks.len() == count;
        Page { tasks, more }
    }

    /// Whether a task further down may have come to pass since it was told of: what lies below a page
    /// need not be as new as the page.
    fn may_pass_after(&self, place: &TaskKey, filter: &TaskFilter) -> bool {
        let mut unfinished = self.unfinished_above(&Position::End);
        unfinished.any(|(task, _)| task.key > *place && filter.could_match(task))
    }

    /// The same of the latest task of each image: the answer to [`super::Query::Latest`].
    #[must_use]
    pub fn latest_page(
        &self,
        images: &BTreeSet<ImageId>,
        after: Option<&TaskKey>,
        count: usize,
    ) -> Page {
        let mut tasks: Vec<_> = images
            .iter()
            .filter_map(|image| self.latest(image, None))
            .filter(|task| after.is_none_or(|after| task.key > *after))
            .cloned()
            .collect();
        tasks.sort_unstable_by(|one, two| one.key.cmp(&two.key));
        let more = tasks.len() > count;
        tasks.truncate(count);
        Page { tasks, more }
    }
}
