//! The material of an answer, and the gap that keeps a snapshot from giving one.

use std::{sync::Arc, time::SystemTime};

use super::{fetch::Fetch, freshness::Freshness};
use crate::domain::{ImageId, StoreImageTask, TaskKey};

/// The material of an answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// The tasks: newest first for a listing, in the order of the query for images.
    pub tasks: Vec<Arc<StoreImageTask>>,
    /// Other tasks follow, or may follow. Of images: how many of the query are left is `images`.
    pub more: bool,
    /// The images of which no candidate is known, in the order of the query.
    pub missing: Vec<MissingImage>,
    /// How many images of the query, from the first on, the reading is about.
    pub images: usize,
    /// How new all of it is.
    pub freshness: Freshness,
    /// The page that is read next for the images that are missing with `known_since`, if a page may
    /// be spent on them.
    pub(super) further: Option<Fetch>,
}

impl Reading {
    /// Whether a page may still be read for it.
    #[must_use]
    pub fn reads_further(&self) -> bool {
        self.further.is_some()
    }

    /// Nothing is known.
    pub(super) fn missing() -> Self {
        Self { freshness: Freshness::Missing, ..Self::default() }
    }
}

impl Default for Reading {
    fn default() -> Self {
        Self {
            tasks: Vec::new(),
            more: false,
            missing: Vec::new(),
            images: 0,
            freshness: Freshness::Immutable,
            further: None,
        }
    }
}

/// An image without a candidate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingImage {
    /// The image.
    pub image_id: ImageId,
    /// EC2's code if it refuses to look the image up.
    pub ec2_code: Option<Arc<str>>,
    /// The time down to which the listing is known. None if it is certain that there is no candidate.
    pub known_since: Option<SystemTime>,
}

/// Most images and tasks that a gap names. One call asks for 20, and the count of all decides whether
/// a page is better.
const LOOK_AHEAD: usize = 64;

/// Everything that an answer lacks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Gap {
    /// This page.
    pub(super) page: Option<Fetch>,
    /// The latest tasks of images, which the first page of all tasks tells, and a look-up as well.
    pub(super) by_first_page: Lacking<ImageId>,
    /// The latest tasks of images, which a look-up tells.
    pub(super) look_up: Lacking<ImageId>,
    /// The states of unfinished tasks that the first page does not show.
    pub(super) unfinished: Lacking<TaskKey>,
    /// How many images of the query, from the first on, can be answered.
    pub(super) resolved: usize,
}

/// The first of many things that are lacking, and how many there are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lacking<T> {
    first: Vec<T>,
    count: usize,
}

impl<T> Default for Lacking<T> {
    fn default() -> Self {
        Self { first: Vec::new(), count: 0 }
    }
}

impl<T> Lacking<T> {
    pub(super) fn push(&mut self, lacking: T) {
        self.count += 1;
        if self.first.len() < LOOK_AHEAD {
            self.first.push(lacking);
        }
    }

    /// The first of them.
    pub(super) fn first(&self) -> &[T] {
        &self.first
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.count
    }
}

impl Gap {
    /// A page is lacking.
    pub(super) fn page(page: Fetch) -> Self {
        Self { page: Some(page), ..Self::default() }
    }

    /// Whether nothing is lacking.
    pub(super) fn is_empty(&self) -> bool {
        self.page.is_none()
            && self.by_first_page.count == 0
            && self.look_up.count == 0
            && self.unfinished.count == 0
    }
}

/// A snapshot's answer to a query.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Assessment {
    /// It is known, and new enough.
    Fresh(Reading),
    /// It is not.
    Missing(Gap),
}
