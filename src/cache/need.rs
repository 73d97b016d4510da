//! What a caller must have known, and the one rule of freshness.

use std::collections::BTreeSet;

use tokio::time::Instant;

use super::{ground::Depth, ledger::Ledger};
use crate::domain::{BucketName, CallTime, ImageId, StoreImageTask, TaskFilter, TaskKey};

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
                listing_depth(ledger, filter, after.as_ref(), *count)
                    .map_or(Known::Not, |depth| known_down_to(ledger, &depth, filter))
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

/// How far down the listing must be known for the first `count` tasks that pass; None when it is
/// not known that far.
pub(super) fn listing_depth(
    ledger: &Ledger,
    filter: &TaskFilter,
    after: Option<&TaskKey>,
    count: usize,
) -> Option<Depth> {
    let bottom = ledger.ground().bottom();
    let last = ledger
        .tasks_after(after)
        .take_while(|task| Depth::At(task.key.clone()) <= *bottom)
        .filter(|task| filter.matches(task))
        .nth(count.saturating_sub(1));
    match last {
        Some(task) => Some(Depth::At(task.key.clone())),
        None => (*bottom == Depth::End).then_some(Depth::End),
    }
}

/// The listing down to a depth: as of the head page, which tells of all that is new, and of the
/// calls that tell of what is unfinished below it.
fn known_down_to(ledger: &Ledger, depth: &Depth, filter: &TaskFilter) -> Known {
    unfinished_that_matter(ledger, depth, filter)
        .map(|(_, told)| Known::AsOf(told))
        .fold(ledger.head().map(|head| head.at).into(), Known::and)
}

/// The unfinished tasks down to a depth that may pass the filter now or after a change.
pub(super) fn unfinished_that_matter<'a>(
    ledger: &'a Ledger,
    depth: &'a Depth,
    filter: &'a TaskFilter,
) -> impl Iterator<Item = (&'a StoreImageTask, CallTime)> {
    ledger
        .unfinished_above(depth)
        .filter_map(|(key, told)| Some((&**ledger.task(key)?, told)))
        .filter(|(task, _)| filter.could_match(task))
}

/// The latest task of an image is known by a look-up, or by the listing when that is known down to
/// where the task is, or to the end when there is none.
pub(super) fn latest_known(ledger: &Ledger, image: &ImageId, bucket: Option<&BucketName>) -> Known {
    latest_by_lookup(ledger, image, bucket).or(latest_by_listing(ledger, image, bucket))
}

/// A look-up answers the latest task into any bucket, so for one bucket it tells only when it is
/// that one, or when there is none at all.
fn latest_by_lookup(ledger: &Ledger, image: &ImageId, bucket: Option<&BucketName>) -> Known {
    let tells = match (bucket, ledger.latest(image, None)) {
        (None, _) | (_, None) => true,
        (Some(bucket), Some(task)) => *task.key.bucket == *bucket.as_str(),
    };
    ledger.looked_up(image).filter(|_| tells).into()
}

fn latest_by_listing(ledger: &Ledger, image: &ImageId, bucket: Option<&BucketName>) -> Known {
    let depth = match ledger.latest(image, bucket.map(BucketName::as_str)) {
        Some(task) => Depth::At(task.key.clone()),
        None => Depth::End,
    };
    if depth > *ledger.ground().bottom() {
        return Known::Not;
    }
    let listed: Known = ledger.head().map(|head| head.at).into();
    match depth {
        Depth::At(key) => match ledger.told(&key) {
            Some(told) => listed.and(Known::AsOf(told)),
            None => listed,
        },
        _ => listed,
    }
}
