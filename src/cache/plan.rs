//! The plan: from the ledger and all open needs, the next EC2 call.
//!
//! A pure function. It takes the head page first, since that mostly meets everything, then
//! look-ups, and walks further down only for what nothing else can tell.

use std::collections::BTreeSet;

use tokio::time::Instant;

use super::{
    ground::Depth,
    ledger::{Call, Ledger},
    need::{Known, Need, latest_known, listing_depth, unfinished_that_matter},
};
use crate::domain::{BucketName, ImageId, MAX_IMAGES_PER_CALL, TaskFilter, TaskKey};

/// After this many calls in a row for what is urgent, a walk that waits gets one.
const URGENT_IN_A_ROW: u32 = 3;

/// A need and the call that it must at least be known from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Demand {
    pub(super) need: Need,
    pub(super) since: Instant,
}

/// What the ledger lacks for a demand: what kind of call brings it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Lack {
    /// The head page.
    Head,
    /// The latest tasks of these images.
    Images(Vec<ImageId>),
    /// The listing below what is known, or once more at a task that no look-up reaches.
    Deeper(Option<TaskKey>),
}

/// Sets of images of which EC2 refuses at least one, it is not known which: asked for apart from
/// all others, half a set at a time, until the bad one stands alone.
#[derive(Debug, Default)]
pub(super) struct Suspects(Vec<BTreeSet<ImageId>>);

impl Suspects {
    /// A call for these images failed: one of them is bad, and of the set that they were half of,
    /// nothing is known any more.
    pub(super) fn failed(&mut self, images: &[ImageId]) {
        self.refused(images);
        self.0.push(images.iter().cloned().collect());
    }

    /// A call for these images succeeded: the bad one is among the others of their set.
    pub(super) fn answered(&mut self, images: &[ImageId]) {
        for set in &mut self.0 {
            set.retain(|image| !images.contains(image));
        }
        self.0.retain(|set| !set.is_empty());
    }

    /// These images are bad: their sets need no longer be asked for apart.
    pub(super) fn refused(&mut self, images: &[ImageId]) {
        self.0.retain(|set| !images.iter().any(|image| set.contains(image)));
    }

    fn set_of(&self, image: &ImageId) -> Option<usize> {
        self.0.iter().position(|set| set.contains(image))
    }
}

/// What a demand lacks; None when it is met.
pub(super) fn lack(ledger: &Ledger, demand: &Demand) -> Option<Lack> {
    let Demand { need, since } = demand;
    if need.known(ledger).meets(*since) {
        return None;
    }
    Some(match need {
        Need::Listing { filter, after, count } => {
            listing_lack(ledger, *since, filter, after.as_ref(), *count)
        }
        Need::Latest { images, bucket } => latest_lack(ledger, *since, images, bucket.as_ref()),
        Need::Task(key) => task_lack(ledger, *since, key),
    })
}

/// The next call: the one that meets the most of the demands, or none when all are met.
pub(super) fn next_call<'a>(
    ledger: &Ledger,
    demands: impl Iterator<Item = &'a Demand>,
    suspects: &Suspects,
    urgent_in_a_row: u32,
) -> Option<Call> {
    let mut head = false;
    let mut images = Vec::new();
    let mut deeper = None;
    for lack in demands.filter_map(|demand| lack(ledger, demand)) {
        match lack {
            Lack::Head => head = true,
            Lack::Images(more) => images.extend(more),
            Lack::Deeper(target) => deeper = deeper.or(Some(target)),
        }
    }
    if let Some(target) = &deeper
        && (urgent_in_a_row >= URGENT_IN_A_ROW || (!head && images.is_empty()))
    {
        return Some(walk(ledger, target.as_ref()));
    }
    if head {
        return Some(Call::Head);
    }
    batch(images, suspects).map(Call::Images)
}

/// As many images as one call takes, beginning with the one that waits longest; of a set with a
/// bad one in it, half.
fn batch(images: Vec<ImageId>, suspects: &Suspects) -> Option<Vec<ImageId>> {
    let set = suspects.set_of(images.first()?);
    let mut seen = BTreeSet::new();
    let mut batch: Vec<_> = images
        .into_iter()
        .filter(|image| suspects.set_of(image) == set && seen.insert(image.clone()))
        .take(MAX_IMAGES_PER_CALL)
        .collect();
    if set.is_some() {
        batch.truncate(batch.len().div_ceil(2));
    }
    Some(batch)
}

/// Onwards from the bottom, or over known ground down to a task.
fn walk(ledger: &Ledger, target: Option<&TaskKey>) -> Call {
    let ground = ledger.ground();
    let wanted = target.map_or_else(|| ground.bottom().clone(), |key| Depth::At(key.clone()));
    let from_bottom =
        target.is_none().then(|| Some((ground.bottom().clone(), ground.next()?.clone()))).flatten();
    let from_cursor = || ledger.cursor().filter(|(depth, _)| *depth < wanted).cloned();
    let from_head = || {
        let head = ledger.head().filter(|head| head.bottom < wanted || target.is_none())?;
        Some((head.bottom.clone(), head.next.clone()?))
    };
    match from_bottom.or_else(from_cursor).or_else(from_head) {
        Some((from, token)) => Call::Next { from, token },
        None => Call::Head,
    }
}

fn head_is_fresh(ledger: &Ledger, since: Instant) -> bool {
    Known::from(ledger.head().map(|head| head.at)).meets(since)
}

fn listing_lack(
    ledger: &Ledger,
    since: Instant,
    filter: &TaskFilter,
    after: Option<&TaskKey>,
    count: usize,
) -> Lack {
    if !head_is_fresh(ledger, since) {
        return Lack::Head;
    }
    let Some(depth) = listing_depth(ledger, filter, after, count) else {
        return Lack::Deeper(None);
    };
    let stale = unfinished_that_matter(ledger, &depth, filter)
        .filter(|(_, told)| !Known::AsOf(*told).meets(since));
    let mut images = Vec::new();
    let mut deepest = None;
    for (task, _) in stale {
        match task_lack(ledger, since, &task.key) {
            Lack::Images(image) => images.extend(image),
            _ => deepest = Some(task.key.clone()),
        }
    }
    if images.is_empty() { Lack::Deeper(deepest) } else { Lack::Images(images) }
}

fn latest_lack(
    ledger: &Ledger,
    since: Instant,
    images: &BTreeSet<ImageId>,
    bucket: Option<&BucketName>,
) -> Lack {
    let unmet = || images.iter().filter(|image| !latest_known(ledger, image, bucket).meets(since));
    if !head_is_fresh(ledger, since) && unmet().any(|image| head_would_tell(ledger, image, bucket))
    {
        return Lack::Head;
    }
    // A look-up that named a task into another bucket has told what it can: only the listing has
    // the older ones.
    let (looked_up, ask): (Vec<_>, Vec<_>) = unmet()
        .cloned()
        .partition(|image| bucket.is_some() && Known::from(ledger.looked_up(image)).meets(since));
    if !ask.is_empty() {
        return Lack::Images(ask);
    }
    let filter = TaskFilter {
        images: looked_up.into_iter().collect(),
        buckets: bucket.into_iter().cloned().collect(),
        ..TaskFilter::default()
    };
    listing_lack(ledger, since, &filter, None, 1)
}

/// Whether a new head page would settle the latest task of an image: it does when the listing is
/// known down to that task, or to the end, and the task itself is on the page or finished.
fn head_would_tell(ledger: &Ledger, image: &ImageId, bucket: Option<&BucketName>) -> bool {
    let Some(head) = ledger.head() else { return true };
    let depth = match ledger.latest(image, bucket.map(BucketName::as_str)) {
        Some(task) if task.state.is_terminal() => Depth::At(task.key.clone()),
        Some(task) if Depth::At(task.key.clone()) <= head.bottom => return true,
        // Below the page and unfinished: a look-up tells, unless a newer task hides this one.
        Some(task) => {
            return ledger.latest(image, None).is_some_and(|latest| latest.key != task.key);
        }
        None => Depth::End,
    };
    depth <= *ledger.ground().bottom()
}

fn task_lack(ledger: &Ledger, since: Instant, key: &TaskKey) -> Lack {
    let on_head = ledger.head().is_none_or(|head| Depth::At(key.clone()) <= head.bottom);
    let is_latest = ledger.latest(&key.image_id, None).is_some_and(|task| task.key == *key);
    if on_head && !head_is_fresh(ledger, since) {
        Lack::Head
    } else if is_latest {
        Lack::Images(vec![key.image_id.clone()])
    } else {
        Lack::Deeper(Some(key.clone()))
    }
}
