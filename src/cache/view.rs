//! A snapshot as far as it is new enough for a request.

use tokio::time::Instant;

use super::{
    coverage::{Position, Stretch},
    fetch::Fetch,
    freshness::Freshness,
    pages::{PageStart, Pages},
    snapshot::Snapshot,
};
use crate::domain::{ListingFilter, TaskKey};

/// A snapshot, as far as it is new enough.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    pub(super) snapshot: &'a Snapshot,
    /// Facts must be from calls that started at this time or later. None takes facts of any age.
    pub(super) not_before: Option<Instant>,
}

impl<'a> View<'a> {
    /// Whether something is known and new enough.
    pub(super) fn is_fresh(self, freshness: Freshness) -> bool {
        match self.not_before {
            Some(not_before) => freshness.satisfies(not_before),
            None => freshness != Freshness::Missing,
        }
    }

    /// The listing of all tasks, from a task or from the top down.
    pub(super) fn all(
        self,
        after: Option<&TaskKey>,
    ) -> Descent<'a, impl Iterator<Item = Stretch> + use<'a>> {
        Descent::new(self, self.snapshot.coverage.stretches(after))
    }

    /// How far down a new first page of all tasks would tell; the end, if none was read yet. None if the
    /// newest one is new enough.
    pub(super) fn promised(self) -> Option<Position> {
        let coverage = &self.snapshot.coverage;
        match coverage.first_page_at() {
            None => Some(Position::End),
            Some(at) if self.is_fresh(Freshness::AsOf(at)) => None,
            Some(_) => {
                let pages = self.snapshot.pages(&ListingFilter::default());
                let first_bottom = pages.and_then(Pages::first_bottom).unwrap_or(Position::End);
                Some(coverage.promised(first_bottom))
            }
        }
    }

    /// The listing of all tasks as if it were known down to a position.
    pub(super) fn as_if(
        self,
        bottom: Position,
    ) -> Descent<'a, impl Iterator<Item = Stretch> + use<'a>> {
        Descent::new(self, std::iter::once(Stretch { bottom, freshness: Freshness::Immutable }))
    }

    /// The pages of a listing, from a task or from the top down.
    pub(super) fn pages(
        self,
        filter: &ListingFilter,
        after: Option<&TaskKey>,
    ) -> Descent<'a, impl Iterator<Item = Stretch> + use<'a>> {
        let pages = self.snapshot.pages(filter);
        self.descend(pages.map(|pages| pages.stretches(after)))
    }

    /// A listing by its stretches, if any of it was read.
    fn descend<I: Iterator<Item = Stretch>>(
        self,
        stretches: Option<I>,
    ) -> Descent<'a, std::iter::Flatten<std::option::IntoIter<I>>> {
        Descent::new(self, stretches.into_iter().flatten())
    }

    /// How new the state of an unfinished task is. Of one that look-ups do not tell of, the pages
    /// around it tell as well: they have it, or lack it.
    pub(super) fn state_of(self, key: &TaskKey) -> Freshness {
        let observed = self.snapshot.observed_at(key).map_or(Freshness::Missing, Freshness::AsOf);
        if self.is_fresh(observed) || !self.snapshot.is_hidden(key) {
            return observed;
        }
        let mut around = self.around(key);
        if around.covers(key) { around.freshness } else { observed }
    }

    /// The page to read for a task that look-ups do not tell of.
    pub(super) fn page_around(self, key: &TaskKey) -> Fetch {
        let mut around = self.around(key);
        around.covers(key);
        self.page(ListingFilter::default(), around.bottom, |pages| pages.start_around(key))
    }

    /// The pages of all tasks that would show a task of which nothing is known.
    pub(super) fn reads(
        self,
        key: &TaskKey,
    ) -> Descent<'a, impl Iterator<Item = Stretch> + use<'a>> {
        let pages = self.snapshot.pages(&ListingFilter::default());
        self.descend(pages.map(|pages| pages.reads(key)))
    }

    /// The pages of all tasks that show an unfinished task, or lack it.
    pub(super) fn around(
        self,
        key: &TaskKey,
    ) -> Descent<'a, impl Iterator<Item = Stretch> + use<'a>> {
        let pages = self.snapshot.pages(&ListingFilter::default());
        self.descend(pages.map(|pages| pages.around(key)))
    }

    /// The page to read below a position that is known and new enough; without one, the page that
    /// follows a task, or the first page.
    pub(super) fn page_below(
        self,
        filter: ListingFilter,
        after: Option<&TaskKey>,
        bottom: Option<Position>,
    ) -> Fetch {
        self.page(filter, bottom, |pages| pages.after(after))
    }

    /// The page to read below a position; without one, the page that the pages so far say.
    fn page(
        self,
        filter: ListingFilter,
        bottom: Option<Position>,
        otherwise: impl FnOnce(&Pages) -> PageStart,
    ) -> Fetch {
        let start = match (self.snapshot.pages(&filter), bottom) {
            (None, _) => PageStart::FIRST,
            (Some(pages), Some(bottom)) => pages.below(bottom),
            (Some(pages), None) => otherwise(pages),
        };
        Fetch::Page { filter, start }
    }
}

/// A listing that is read from the top down, as far as it is known and new enough.
pub(super) struct Descent<'a, S> {
    view: View<'a>,
    stretches: S,
    /// How far down it was read.
    pub(super) bottom: Option<Position>,
    /// How new it is down to there.
    pub(super) freshness: Freshness,
}

impl<'a, S: Iterator<Item = Stretch>> Descent<'a, S> {
    fn new(view: View<'a>, stretches: S) -> Self {
        Self { view, stretches, bottom: None, freshness: Freshness::Immutable }
    }

    /// Reads on until a task is covered. False if the listing is not known that far.
    pub(super) fn covers(&mut self, key: &TaskKey) -> bool {
        while !self.bottom.is_some_and(|bottom| bottom.covers(key)) {
            if !self.descend() {
                return false;
            }
        }
        true
    }

    /// Reads on to a position. False if the listing is not known that far.
    pub(super) fn reaches(&mut self, position: Position) -> bool {
        while self.bottom.is_none_or(|bottom| bottom < position) {
            if !self.descend() {
                return false;
            }
        }
        true
    }

    fn descend(&mut self) -> bool {
        let Some(stretch) = self.stretches.next() else { return false };
        if !self.view.is_fresh(stretch.freshness) {
            return false;
        }
        self.bottom = Some(stretch.bottom);
        self.freshness = self.freshness.and(stretch.freshness);
        true
    }
}
