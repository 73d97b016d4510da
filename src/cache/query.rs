//! What a caller must have known, and the one rule of freshness.

use std::{collections::BTreeSet, time::Duration};

use tokio::time::Instant;

use super::{
    coverage::Position,
    snapshot::{Lookup, Snapshot},
};
use crate::domain::{
    BucketName, CallTime, ImageId, ListingFilter, StoreImageTask, TaskFilter, TaskKey,
};

/// What a caller must have known. What it is told is then read from the ledger that knows it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Query {
    /// The first tasks that pass a filter, after a place in the listing.
    Listing {
        /// Which tasks.
        filter: TaskFilter,
        /// Where to begin; None is the top.
        after: Option<TaskKey>,
        /// How many; fewer do when the listing has no more.
        count: usize,
    },
    /// The latest task of each of these images, or that there is none.
    Latest {
        /// The images.
        images: BTreeSet<ImageId>,
        /// Into this bucket only; goes with one image.
        bucket: Option<BucketName>,
    },
    /// One task.
    Task(TaskKey),
}

/// What a ledger knows of a need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// Not enough for an answer.
    Missing,
    /// The answer is what EC2 said to calls that started at this time or later.
    AsOf(CallTime),
    /// The answer cannot change any more.
    Immutable,
}

impl Freshness {
    /// **The one rule.** A request that arrives at *t* and tolerates staleness *s* is met by what
    /// EC2 said to calls that started at or after *t − s*, which is `since` here. Hit, join and
    /// miss are this comparison and nothing else.
    #[must_use]
    pub fn satisfies(self, not_before: Instant) -> bool {
        match self {
            Self::Missing => false,
            Self::AsOf(call) => call.instant >= not_before,
            Self::Immutable => true,
        }
    }

    /// The oldest call that the answer rests on. None where it can't change any more.
    #[must_use]
    pub(super) fn as_of(self) -> Option<CallTime> {
        match self {
            Self::AsOf(call) => Some(call),
            Self::Missing | Self::Immutable => None,
        }
    }

    /// How old the answer is.
    pub(super) fn age(self, now: Instant) -> Duration {
        self.as_of().map_or(Duration::ZERO, |call| now.saturating_duration_since(call.instant))
    }

    /// Of two things that an answer rests on, the one that is known worse.
    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Missing, _) | (_, Self::Missing) => Self::Missing,
            (Self::Immutable, known) | (known, Self::Immutable) => known,
            (Self::AsOf(one), Self::AsOf(two)) => Self::AsOf(one.min(two)),
        }
    }

    /// Of two ways to know the same, the better.
    fn or(self, other: Self) -> Self {
        match (self, other) {
            (Self::Immutable, _) | (_, Self::Immutable) => Self::Immutable,
            (Self::Missing, known) | (known, Self::Missing) => known,
            (Self::AsOf(one), Self::AsOf(two)) => Self::AsOf(one.max(two)),
        }
    }
}

impl From<Option<CallTime>> for Freshness {
    fn from(call: Option<CallTime>) -> Self {
        call.map_or(Self::Missing, Self::AsOf)
    }
}

impl Query {
    /// What the ledger knows of it: the oldest call that the answer would rest on.
    #[must_use]
    pub fn freshness(&self, snapshot: &Snapshot) -> Freshness {
        match self {
            Self::Listing { filter, after, count } => {
                best_listing(snapshot, filter, after.as_ref(), *count).1
            }
            Self::Latest { images, bucket } => images
                .iter()
                .map(|image| latest_freshness(snapshot, image, bucket.as_ref()))
                .fold(Freshness::Immutable, Freshness::and),
            Self::Task(key) => match snapshot.task(key) {
                Some(task) if !task.state.is_terminal() => snapshot.observed_at(key).into(),
                _ => Freshness::Immutable,
            },
        }
    }
}

/// Which of EC2's listings tells best of the first `count` tasks that pass, that of all tasks or the
/// one that EC2 filters; and what it tells.
pub(super) fn best_listing(
    snapshot: &Snapshot,
    filter: &TaskFilter,
    after: Option<&TaskKey>,
    count: usize,
) -> (ListingFilter, Freshness) {
    let of = |listing: &ListingFilter| listing_freshness(snapshot, listing, filter, after, count);
    let (all, own) = (ListingFilter::default(), filter.listing());
    let by_all = of(&all);
    let by_own = if own.is_empty() { by_all } else { of(&own) };
    if by_all.or(by_own) == by_all { (all, by_all) } else { (own, by_own) }
}

/// What one of EC2's listings tells of the first `count` tasks that pass: as of its head page, which
/// tells of all that is new, and of the calls that tell of what is unfinished below it.
fn listing_freshness(
    snapshot: &Snapshot,
    listing: &ListingFilter,
    filter: &TaskFilter,
    after: Option<&TaskKey>,
    count: usize,
) -> Freshness {
    let Some(read) = snapshot.filtered(listing) else { return Freshness::Missing };
    let Some(position) = listing_position(snapshot, read.bottom(), filter, after, count) else {
        return Freshness::Missing;
    };
    relevant_in_progress(snapshot, &position, listing, filter)
        .map(|(_, observed_at)| Freshness::AsOf(observed_at))
        .fold(read.as_of(), Freshness::and)
}

/// How far down a listing must be known for the first `count` tasks that pass; None when it is not
/// known that far.
pub(super) fn listing_position(
    snapshot: &Snapshot,
    bottom: &Position,
    filter: &TaskFilter,
    after: Option<&TaskKey>,
    count: usize,
) -> Option<Position> {
    let last = snapshot
        .candidates(filter, after)
        .take_while(|task| bottom.reaches(&task.key))
        .filter(|task| filter.matches(task))
        .nth(count.saturating_sub(1));
    match last {
        Some(task) => Some(Position::At(task.key.clone())),
        None => (*bottom == Position::End).then_some(Position::End),
    }
}

/// The unfinished tasks down to a depth that a new head page would leave in doubt. Of a listing that
/// lasts these are all that may pass after a change of state; of one by state, those that pass as
/// far as is known: what came to pass is listed.
pub(super) fn relevant_in_progress<'a>(
    snapshot: &'a Snapshot,
    position: &'a Position,
    listing: &'a ListingFilter,
    filter: &'a TaskFilter,
) -> impl Iterator<Item = (&'a StoreImageTask, CallTime)> {
    let matters = |task: &StoreImageTask| {
        if listing.is_lasting() { filter.could_match(task) } else { filter.matches(task) }
    };
    snapshot.unfinished_above(position).filter(move |(task, _)| matters(task))
}

/// The latest task of an image is known by a look-up or by the listing, of one bucket's if need be.
pub(super) fn latest_freshness(
    snapshot: &Snapshot,
    image: &ImageId,
    bucket: Option<&BucketName>,
) -> Freshness {
    let looked_up = lookup_that_tells(snapshot, image, bucket).map(|lookup| lookup.at);
    let known = Freshness::from(looked_up).or(latest_by_listing(snapshot, image, bucket));
    let Some(bucket) = bucket else { return known };
    let filter = TaskFilter {
        images: [*image].into(),
        buckets: [bucket.clone()].into(),
        ..TaskFilter::default()
    };
    known.or(listing_freshness(snapshot, &filter.listing(), &filter, None, 1))
}

/// A look-up answers the latest task into any bucket, so for one bucket it tells only when it is
/// that one, or when there is none at all.
fn lookup_that_tells<'a>(
    snapshot: &'a Snapshot,
    image: &ImageId,
    bucket: Option<&BucketName>,
) -> Option<&'a Lookup> {
    let lookup = snapshot.looked_up(image)?;
    let tells = bucket.is_none_or(|bucket| {
        snapshot.latest(image, None).is_none_or(|task| *task.key.bucket == *bucket.as_str())
    });
    tells.then_some(lookup)
}

fn latest_by_listing(
    snapshot: &Snapshot,
    image: &ImageId,
    bucket: Option<&BucketName>,
) -> Freshness {
    if !listing_would_show(snapshot, image, bucket) {
        return Freshness::Missing;
    }
    let observed_at = snapshot
        .latest(image, bucket.map(BucketName::as_str))
        .and_then(|latest| snapshot.observed_at(&latest.key))
        .map_or(Freshness::Immutable, Freshness::AsOf);
    snapshot.listing().as_of().and(observed_at)
}

/// Whether the listing, as far down as it is known, would show a newer task of an image than the
/// one that is known: when it reaches down to that one, or to the end when there is none, or to
/// where it began when the image was looked up.
pub(super) fn listing_would_show(
    snapshot: &Snapshot,
    image: &ImageId,
    bucket: Option<&BucketName>,
) -> bool {
    let bottom = snapshot.listing().bottom();
    let latest = || snapshot.latest(image, bucket.map(BucketName::as_str));
    let watermark = || lookup_that_tells(snapshot, image, bucket)?.watermark.as_ref();
    *bottom == Position::End
        || latest().is_some_and(|task| bottom.reaches(&task.key))
        || watermark().is_some_and(|watermark| bottom.reaches(watermark))
}
