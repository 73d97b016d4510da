//! Assesses which task of an image a watch follows: the latest candidate, or the first one that started
//! after a given time.

use std::sync::Arc;

use super::{
    assess_images::{OfImage, end_of},
    fetch::Fetch,
    freshness::Freshness,
    reading::{Assessment, Gap},
    snapshot::{Lookup, Snapshot},
    view::View,
};
use crate::domain::{ImageId, ListingFilter, StoreImageTask, TaskFilter};

/// Which candidate is wanted.
#[derive(Clone, Copy)]
pub(super) enum Which {
    /// The first one that started after a time.
    First,
    /// The latest one.
    Latest,
}

/// The calls that may be made, or must have been made, for a candidate.
#[derive(Clone, Copy)]
pub(super) struct Means {
    /// The listing may be read for it.
    pub(super) reads_further: bool,
    /// If there is none, a look-up tells so, too.
    pub(super) looks_up: bool,
}

impl<'a> View<'a> {
    /// The candidate of an image.
    pub(super) fn candidate(
        self,
        image: ImageId,
        candidates: &TaskFilter,
        which: Which,
        by: Means,
    ) -> Assessment {
        let mut assessment = match which {
            Which::First => self.first(image, candidates),
            Which::Latest => self.images(&[image], candidates, &TaskFilter::default()),
        };
        if let Assessment::Fresh(reading) = &mut assessment {
            if by.looks_up && reading.tasks.is_empty() && self.look_up(image).is_none() {
                return missing_look_up(image);
            }
            if !by.reads_further {
                reading.further = None;
            }
        }
        assessment
    }

    /// The first candidate. It is certain if the listing is known from the top down to where there are none.
    /// Otherwise it is the first of those that the look-up, what is in progress and the listing show.
    fn first(self, image: ImageId, candidates: &TaskFilter) -> Assessment {
        let end = end_of(candidates);
        let first = self.snapshot.first_candidate(image, candidates);
        let mut all = self.all(None);
        if all.reaches(end) {
            return self.answer(image, OfImage::certain(first, all.freshness));
        }
        let listing =
            ListingFilter { buckets: candidates.buckets.clone(), ..ListingFilter::default() };
        let mut own = self.pages(&listing, None);
        if !listing.is_empty() && own.reaches(end) {
            return self.answer(image, OfImage::certain(first, own.freshness));
        }
        if all.bottom.is_none() {
            return missing_page(Fetch::first_page(ListingFilter::default()));
        }
        let Some(lookup) = self.look_up(image) else { return missing_look_up(image) };
        let freshness = all.freshness.and(Freshness::AsOf(lookup.at));
        if lookup.tells_of_none(candidates) {
            return self.answer(image, OfImage::certain(first, freshness));
        }
        let mut running = self.pages(&ListingFilter::in_progress(), None);
        if !running.reaches(end) {
            let page = self.page_below(ListingFilter::in_progress(), None, running.bottom);
            return missing_page(page);
        }
        let bottom = if listing.is_empty() { all.bottom } else { own.bottom };
        let uncertain = OfImage {
            candidate: first,
            freshness: freshness.and(running.freshness),
            known_since: bottom.max(all.bottom).map(|bottom| self.time_of(bottom)),
            further: Some(self.page_below(listing, None, bottom)),
        };
        self.answer(image, uncertain)
    }

    /// The look-up of an image, if it is new enough.
    fn look_up(self, image: ImageId) -> Option<&'a Lookup> {
        let lookup = self.snapshot.lookups.get(&image)?;
        if self.is_fresh(Freshness::AsOf(lookup.at)) { Some(lookup) } else { None }
    }

    /// The answer, unless the state of the candidate is too old.
    fn answer(self, image: ImageId, known: OfImage<'_>) -> Assessment {
        match self.with_state(known) {
            Ok(known) => Assessment::Fresh(self.reading_of(image, known)),
            Err(lack) => {
                let mut gap = Gap::default();
                gap.add(image, lack, false);
                Assessment::Missing(gap)
            }
        }
    }
}

impl Snapshot {
    /// The first known task of an image that a filter could select, whatever its state.
    fn first_candidate(&self, image: ImageId, filter: &TaskFilter) -> Option<&Arc<StoreImageTask>> {
        self.tasks_of(image).filter(|task| filter.could_match(&task.key)).last()
    }
}

fn missing_look_up(image: ImageId) -> Assessment {
    let mut gap = Gap::default();
    gap.look_up.push(image);
    Assessment::Missing(gap)
}

fn missing_page(page: Fetch) -> Assessment {
    Assessment::Missing(Gap::page(page))
}
