//! EC2's refusals of a moment ago, remembered so that a storm of the same question costs one call.

use std::collections::HashMap;

use tokio::time::Instant;

use super::{fetch::Fetch, freshness::Freshness, reading::Gap};
use crate::domain::{CallTime, ImageId, ListingFilter, UpstreamError};

/// One refusal.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    /// When the call started.
    pub(super) at: CallTime,
    /// How long it is remembered.
    pub(super) until: Instant,
    /// EC2's words.
    pub(super) error: UpstreamError,
}

/// EC2's refusals of a moment ago.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    /// EC2 refused every call of the scope.
    scope: Option<Refusal>,
    /// EC2 refused the pages of a listing.
    listings: HashMap<ListingFilter, Refusal>,
    /// EC2 refused to look an image up, for a reason that is not the image.
    images: HashMap<ImageId, Refusal>,
}

impl Refusals {
    /// The refusal of what is lacking, by the same rule of freshness as an answer.
    pub(super) fn of(&self, gap: &Gap, not_before: Instant, now: Instant) -> Option<&Refusal> {
        if let Some(scope) = &self.scope
            && scope.counts(not_before, now)
        {
            return Some(scope);
        }
        if let Some(Fetch::Page { filter, .. }) = &gap.page
            && let Some(listing) = self.listings.get(filter)
            && listing.counts(not_before, now)
        {
            return Some(listing);
        }
        for image in gap.look_up.first() {
            if let Some(refusal) = self.images.get(image)
                && refusal.counts(not_before, now)
            {
                return Some(refusal);
            }
        }
        None
    }

    /// Remembers that EC2 refused everything.
    pub(super) fn add_scope(&mut self, refusal: Refusal) {
        self.scope = Some(refusal);
    }

    /// Remembers that EC2 refused a call.
    pub(super) fn add(&mut self, fetch: &Fetch, refusal: &Refusal) {
        self.expire(Instant::now());
        match fetch {
            Fetch::Page { filter, .. } => {
                self.listings.insert(filter.clone(), refusal.clone());
            }
            Fetch::Images(images) => {
                for image in images {
                    self.images.insert(*image, refusal.clone());
                }
            }
        }
    }

    /// EC2 answered a call. That is newer than what it refused before.
    pub(super) fn answered(&mut self, fetch: &Fetch, at: CallTime) {
        self.scope.take_if(|refusal| refusal.at <= at);
        match fetch {
            Fetch::Page { filter, .. } => {
                self.listings.remove(filter);
            }
            Fetch::Images(images) => {
                for image in images {
                    self.images.remove(image);
                }
            }
        }
    }

    fn expire(&mut self, now: Instant) {
        self.listings.retain(|_, refusal| refusal.until > now);
        self.images.retain(|_, refusal| refusal.until > now);
    }
}

impl Refusal {
    fn counts(&self, not_before: Instant, now: Instant) -> bool {
        self.until > now && Freshness::AsOf(self.at).satisfies(not_before)
    }
}
