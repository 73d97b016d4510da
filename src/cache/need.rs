//! What a caller must have known, and the one rule of freshness.

use std::{collections::BTreeSet, time::Duration};

use tokio::time::Instant;

use super::{
    ground::Depth,
    ledger::{Ledger, Lookup},
};
use crate::domain::{
    BucketName, CallTime, ImageId, ListingFilter, StoreImageTask, TaskFilter, TaskKey,
};

/// What a caller must have known. What it is told is then read from the ledger that knows it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Need {
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
pub enum Known {
    /// Not enough for an answer.
    Not,
    /// The answer is what EC2 said to calls that started at this time or later.
    AsOf(CallTime),
    /// The answer cannot change any more.
    ForEver,
}

impl Known {
    /// **The one rule.** A request that arrives at *t* and tolerates staleness *s* is met by what
    /// EC2 said to calls that started at or after *t − s*, which is `since` here. Hit, join and
    /// miss are this comparison and nothing else.
    #[must_use]
    pub fn meets(self, since: Instant) -> bool {
        match self {
            Self::Not => false,
            Self::AsOf(call) => call.instant >= since,
            Self::ForEver => true,
        }
    }

    /// The oldest call that the answer rests on. None where it can't change any more.
    #[must_use]
    pub(super) fn as_of(self) -> Option<CallTime> {
        match self {
            Self::AsOf(call) => Some(call),
            Self::Not | Self::ForEver => None,
        }
    }

    /// How old the answer is.
    pub(super) fn age(self, now: Instant) -> Duration {
        self.as_of().map_or(Duration::ZERO, |call| now.saturating_duration_since(call.instant))
    }

    /// Of two things that an answer rests on, the one that is known worse.
    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Not, _) | (_, Self::Not) => Self::Not,
            (Self::ForEver, known) | (known, Self::ForEver) => known,
            (Self::AsOf(one), Self::AsOf(two)) => Self::AsOf(one.min(two)),
        }
    }

    /// Of two ways to know the same, the better.
    fn or(self, other: Self) -> Self {
        match (self, other) {
            (Self::ForEver, _) | (_, Self::ForEver) => Self::ForEver,
            (Self::Not, known) | (known, Self::Not) => known,
            (Self::AsOf(one), Self::AsOf(two)) => Self::AsOf(one.max(two)),
        }
    }
}

impl From<Option<CallTime>> for Known {
    fn from(call: Option<CallTime>) -> Self {
        call.map_or(Self::Not, Self::AsOf)
    }
}

impl Need {
    /// What the ledger knows of it: the oldest call that the answer would rest on.
    #[must_use]
    pub fn known(&self, ledger: &Ledger) -> Known {
        match self {
            Self::Listing { filter, after, count } => {
                best_listing(ledger, filter, after.as_ref(), *count).1
            }
            Self::Latest { images, bucket } => images
                .iter()
                .map(|image| latest_known(ledger, image, bucket.as_ref()))
                .fold(Known::ForEver, Known::and),
            Self::Task(key) => match ledger.task(key) {
                Some(task) if !task.state.is_terminal() => ledger.told(key).into(),
                _ => Known::ForEver,
            },
        }
    }
}

/// Which of EC2's listings tells best of the first `count` tasks that pass, that of all tasks or the
/// one that EC2 filters; and what it tells.
pub(super) fn best_listing(
    ledger: &Ledger,
    filter: &TaskFilter,
    after: Option<&TaskKey>,
    count: usize,
) -> (ListingFilter, Known) {
    let of = |listing: &ListingFilter| listing_known(ledger, listing, filter, after, count);
    let (all, own) = (ListingFilter::default(), filter.listing());
    let by_all = of(&all);
    let by_own = if own.is_empty() { by_all } else { of(&own) };
    if by_all.or(by_own) == by_all { (all, by_all) } else { (own, by_own) }
}

/// What one of EC2's listings tells of the first `count` tasks that pass: as of its head page, which
/// tells of all that is new, and of the calls that tell of what is unfinished below it.
fn listing_known(
    ledger: &Ledger,
    listing: &ListingFilter,
    filter: &TaskFilter,
    after: Option<&TaskKey>,
    count: usize,
) -> Known {
    let Some(read) = ledger.filtered(listing) else { return Known::Not };
    let Some(depth) = listing_depth(ledger, read.bottom(), filter, after, count) else {
        return Known::Not;
    };
    unfinished_that_matter(ledger, &depth, listing, filter)
        .map(|(_, told)| Known::AsOf(told))
        .fold(read.as_of(), Known::and)
}

/// How far down a listing must be known for the first `count` tasks that pass; None when it is not
/// known that far.
pub(super) fn listing_depth(
    ledger: &Ledger,
    bottom: &Depth,
    filter: &TaskFilter,
    after: Option<&TaskKey>,
    count: usize,
) -> Option<Depth> {
    let last = ledger
        .candidates(filter, after)
        .take_while(|task| bottom.reaches(&task.key))
        .filter(|task| filter.matches(task))
        .nth(count.saturating_sub(1));
    match last {
        Some(task) => Some(Depth::At(task.key.clone())),
        None => (*bottom == Depth::End).then_some(Depth::End),
    }
}

/// The unfinished tasks down to a depth that a new head page would leave in doubt. Of a listing that
/// lasts these are all that may pass after a change of state; of one by state, those that pass as
/// far as is known: what came to pass is listed.
pub(super) fn unfinished_that_matter<'a>(
    ledger: &'a Ledger,
    depth: &'a Depth,
    listing: &'a ListingFilter,
    filter: &'a TaskFilter,
) -> impl Iterator<Item = (&'a StoreImageTask, CallTime)> {
    let matters = |task: &StoreImageTask| {
        if listing.is_lasting() { filter.could_match(task) } else { filter.matches(task) }
    };
    ledger.unfinished_above(depth).filter(move |(task, _)| matters(task))
}

/// The latest task of an image is known by a look-up or by the listing, of one bucket's if need be.
pub(super) fn latest_known(ledger: &Ledger, image: &ImageId, bucket: Option<&BucketName>) -> Known {
    let looked_up = lookup_that_tells(ledger, image, bucket).map(|lookup| lookup.at);
    let known = Known::from(looked_up).or(latest_by_listing(ledger, image, bucket));
    let Some(bucket) = bucket else { return known };
    let filter = TaskFilter {
        images: [*image].into(),
        buckets: [bucket.clone()].into(),
        ..TaskFilter::default()
    };
    known.or(listing_known(ledger, &filter.listing(), &filter, None, 1))
}

/// A look-up answers the latest task into any bucket, so for one bucket it tells only when it is
/// that one, or when there is none at all.
fn lookup_that_tells<'a>(
    ledger: &'a Ledger,
    image: &ImageId,
    bucket: Option<&BucketName>,
) -> Option<&'a Lookup> {
    let lookup = ledger.looked_up(image)?;
    let tells = bucket.is_none_or(|bucket| {
        ledger.latest(image, None).is_none_or(|task| *task.key.bucket == *bucket.as_str())
    });
    tells.then_some(lookup)
}

fn latest_by_listing(ledger: &Ledger, image: &ImageId, bucket: Option<&BucketName>) -> Known {
    if !listing_would_show(ledger, image, bucket) {
        return Known::Not;
    }
    let told = ledger
        .latest(image, bucket.map(BucketName::as_str))
        .and_then(|latest| ledger.told(&latest.key))
        .map_or(Known::ForEver, Known::AsOf);
    ledger.listing().as_of().and(told)
}

/// Whether the listing, as far down as it is known, would show a newer task of an image than the
/// one that is known: when it reaches down to that one, or to the end when there is none, or to
/// where it began when the image was looked up.
pub(super) fn listing_would_show(
    ledger: &Ledger,
    image: &ImageId,
    bucket: Option<&BucketName>,
) -> bool {
    let bottom = ledger.listing().bottom();
    let latest = || ledger.latest(image, bucket.map(BucketName::as_str));
    let mark = || lookup_that_tells(ledger, image, bucket)?.mark.as_ref();
    *bottom == Depth::End
        || latest().is_some_and(|task| bottom.reaches(&task.key))
        || mark().is_some_and(|mark| bottom.reaches(mark))
}
