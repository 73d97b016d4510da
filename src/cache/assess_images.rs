//! Assesses queries about the latest candidates of images.
//!
//! A look-up tells the latest task of an image, into whatever bucket. The listing of all tasks tells
//! the same if it is known down to the latest candidate, or down to where the look-up takes over. If
//! EC2 refuses the look-up, or the latest task went into another bucket than those asked for, the
//! image is answered from what is in progress and from as much of the listing as may be read.

use std::{sync::Arc, time::SystemTime};

use super::{
    coverage::Position,
    fetch::Fetch,
    freshness::Freshness,
    reading::{Assessment, Gap, MissingImage, Reading},
    snapshot::{Lookup, Told},
    view::View,
};
use crate::domain::{ImageId, ListingFilter, StoreImageTask, TaskFilter, TaskKey};

/// The answer about one image.
pub(super) struct OfImage<'a> {
    pub(super) candidate: Option<&'a Arc<StoreImageTask>>,
    /// How new it is that this is the latest candidate, or that there is none.
    pub(super) freshness: Freshness,
    /// The listing is known down to here only, so that there may be another candidate.
    pub(super) known_since: Option<SystemTime>,
    /// The page that would tell more.
    pub(super) further: Option<Fetch>,
}

/// The one thing that an image lacks.
pub(super) enum Lack {
    FirstPage,
    LookUp,
    Page(Fetch),
    State(TaskKey),
}

impl<'a> View<'a> {
    /// The latest candidates of images, as far as they are in one of the states that are kept.
    pub(super) fn images(
        self,
        images: &[ImageId],
        candidates: &TaskFilter,
        kept: &TaskFilter,
    ) -> Assessment {
        let mut reading = Reading { images: images.len(), ..Reading::default() };
        let mut gap = Gap::default();
        for (index, image) in images.iter().enumerate() {
            let known = match self.image(*image, candidates) {
                Ok(known) => known,
                Err(lack) => {
                    if gap.is_empty() {
                        gap.resolved = index;
                    }
                    let look_up_tells =
                        candidates.buckets.is_empty() && self.look_up_tells(image, candidates);
                    gap.add(*image, lack, look_up_tells);
                    continue;
                }
            };
            self.add(&mut reading, *image, known, kept);
        }
        if gap.is_empty() { Assessment::Fresh(reading) } else { Assessment::Missing(gap) }
    }

    /// The answer about one image.
    pub(super) fn reading_of(self, image: ImageId, known: OfImage<'_>) -> Reading {
        let mut reading = Reading { images: 1, ..Reading::default() };
        self.add(&mut reading, image, known, &TaskFilter::default());
        reading
    }

    fn add(self, reading: &mut Reading, image: ImageId, known: OfImage<'_>, kept: &TaskFilter) {
        reading.freshness = reading.freshness.and(known.freshness);
        if reading.further.is_none() {
            reading.further = known.further;
        }
        match known.candidate {
            Some(task) if kept.matches(task) => reading.tasks.push(task.clone()),
            Some(_) => {}
            None => reading.missing.push(MissingImage {
                image_id: image,
                ec2_code: self.snapshot.refusal_of(&image),
                known_since: known.known_since,
            }),
        }
    }

    /// Whether a look-up of an image tells its latest candidate and the state of that.
    fn look_up_tells(self, image: &ImageId, candidates: &TaskFilter) -> bool {
        match self.snapshot.candidate(*image, candidates) {
            Some(task) if !task.state.is_terminal() => !self.snapshot.is_hidden(&task.key),
            _ => !self.snapshot.is_refused(image),
        }
    }

    fn image(self, image: ImageId, filter: &TaskFilter) -> Result<OfImage<'a>, Lack> {
        let candidate = self.snapshot.candidate(image, filter);
        let lookup = self.snapshot.lookups.get(&image);
        let telling = lookup.filter(|lookup| lookup.tells(filter));
        let by_listing = self.by_listing(candidate, telling, filter);
        let by_look_up = telling.map_or(Freshness::Missing, |lookup| Freshness::AsOf(lookup.at));
        let newer = if by_look_up.is_newer_than(by_listing) { by_look_up } else { by_listing };
        if self.is_fresh(newer) {
            return self.with_state(OfImage::certain(candidate, newer));
        }
        if self.first_page_tells(candidate, telling, filter) {
            return Err(Lack::FirstPage);
        }
        let is_looked_up = lookup.is_some_and(|lookup| self.is_fresh(Freshness::AsOf(lookup.at)));
        if !is_looked_up {
            return Err(Lack::LookUp);
        }
        self.without_look_up(candidate, filter)
    }

    /// How new the listing of all tasks is, as far as it would show a newer candidate.
    fn by_listing(
        self,
        candidate: Option<&Arc<StoreImageTask>>,
        lookup: Option<&Lookup>,
        filter: &TaskFilter,
    ) -> Freshness {
        let mut by_candidate = self.all(None);
        if let Some(task) = candidate
            && by_candidate.covers(&task.key)
        {
            return by_candidate.freshness;
        }
        let mut to_goal = self.all(None);
        if to_goal.reaches(goal(lookup, filter)) { to_goal.freshness } else { Freshness::Missing }
    }

    /// Whether a new first page would tell the latest candidate: if what lies below it is known, and
    /// the candidate's state does not need a look-up.
    fn first_page_tells(
        self,
        candidate: Option<&Arc<StoreImageTask>>,
        lookup: Option<&Lookup>,
        filter: &TaskFilter,
    ) -> bool {
        let Some(promised) = self.promised() else { return false };
        let tells_which = candidate.is_some_and(|task| promised.covers(&task.key))
            || promised >= goal(lookup, filter);
        match candidate {
            _ if !tells_which => false,
            Some(task) if !task.state.is_terminal() => {
                self.first_page_would_show(&task.key) || self.snapshot.is_hidden(&task.key)
            }
            _ => true,
        }
    }

    /// The state of an unfinished candidate has to be new enough, too.
    pub(super) fn with_state(self, known: OfImage<'a>) -> Result<OfImage<'a>, Lack> {
        let Some(task) = known.candidate else { return Ok(known) };
        if task.state.is_terminal() {
            return Ok(known);
        }
        let state = self.state_of(&task.key);
        if self.is_fresh(state) {
            return Ok(OfImage { freshness: known.freshness.and(state), ..known });
        }
        if self.first_page_would_show(&task.key) {
            return Err(Lack::FirstPage);
        }
        Err(Lack::State(task.key.clone()))
    }

    /// The latest candidate as far as what is in progress and the listing show it.
    fn without_look_up(
        self,
        candidate: Option<&'a Arc<StoreImageTask>>,
        filter: &TaskFilter,
    ) -> Result<OfImage<'a>, Lack> {
        let end = end_of(filter);
        let mut all = self.all(None);
        if !all.reaches(Position::Top) {
            return Err(Lack::FirstPage);
        }
        let mut running = self.pages(&ListingFilter::in_progress(), None);
        if !running.reaches(end) {
            let page = self.page_below(ListingFilter::in_progress(), None, running.bottom);
            return Err(Lack::Page(page));
        }
        all.reaches(Position::End);
        let mut freshness = running.freshness.and(all.freshness);
        let mut bottom = all.bottom;
        let listing = ListingFilter { buckets: filter.buckets.clone(), ..ListingFilter::default() };
        if !listing.is_empty() {
            let mut own = self.pages(&listing, None);
            let is_certain = match candidate {
                Some(task) => own.covers(&task.key),
                None => own.reaches(end),
            };
            freshness = freshness.and(own.freshness);
            if is_certain {
                return self.with_state(OfImage::certain(candidate, freshness));
            }
            bottom = own.bottom;
        }
        let further = Some(self.page_below(listing, None, bottom));
        let known_since = bottom.max(all.bottom).map(|bottom| self.time_of(bottom));
        // A finished one may have a newer one above it that was never read.
        let candidate = candidate.filter(|task| !task.state.is_terminal());
        self.with_state(OfImage { candidate, freshness, known_since, further })
    }

    /// The time down to which a listing is known that is known down to a position. An empty first page
    /// that has a token tells nothing about the past.
    pub(super) fn time_of(self, bottom: Position) -> SystemTime {
        let newest = self.snapshot.newest_call();
        let now = newest.map(|call| self.snapshot.clock.time(call.instant));
        bottom.time().or(now).unwrap_or(SystemTime::UNIX_EPOCH)
    }
}

impl<'a> OfImage<'a> {
    pub(super) fn certain(
        candidate: Option<&'a Arc<StoreImageTask>>,
        freshness: Freshness,
    ) -> Self {
        Self { candidate, freshness, known_since: None, further: None }
    }
}

impl Lookup {
    /// Whether the latest task of the image tells that there is no candidate.
    pub(super) fn tells_of_none(&self, filter: &TaskFilter) -> bool {
        match &self.told {
            Told::Refused(_) => false,
            Told::Latest(None) => true,
            Told::Latest(Some(latest)) => {
                filter.started_after.is_some_and(|limit| latest.start_time.0 <= limit)
            }
        }
    }

    /// Whether the latest task of the image tells the latest candidate.
    fn tells(&self, filter: &TaskFilter) -> bool {
        match &self.told {
            Told::Latest(Some(latest)) if filter.could_match(latest) => true,
            Told::Latest(_) | Told::Refused(_) => self.tells_of_none(filter),
        }
    }
}

impl Gap {
    /// Adds what an image lacks. `look_up_tells` says that a look-up tells as much as the first page.
    pub(super) fn add(&mut self, image: ImageId, lack: Lack, look_up_tells: bool) {
        match lack {
            Lack::FirstPage if look_up_tells => self.by_first_page.push(image),
            Lack::FirstPage => self.page = Some(Fetch::first_page(ListingFilter::default())),
            Lack::LookUp => self.look_up.push(image),
            Lack::State(key) => self.unfinished.push(key),
            Lack::Page(page) => {
                self.page.get_or_insert(page);
            }
        }
    }
}

/// Down to where the listing has to be known if it shows no candidate.
fn goal(lookup: Option<&Lookup>, filter: &TaskFilter) -> Position {
    let end = end_of(filter);
    lookup.map_or(end, |lookup| end.min(Position::at(lookup.watermark)))
}

/// Where no candidates are left.
pub(super) fn end_of(filter: &TaskFilter) -> Position {
    filter.started_after.map_or(Position::End, Position::at)
}
