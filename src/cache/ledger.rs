//! The ledger: all that EC2 has told of one scope, and as of when.
//!
//! An immutable value. [`Ledger::merge`] makes the next one out of an answer; both share what did
//! not change, so that readers hold a whole and consistent state for as long as they like, and a
//! merge costs what the answer costs and not what the ledger holds.

use std::{
    cmp::Reverse,
    ops::Bound,
    sync::Arc,
    time::{Duration, SystemTime},
};

use equivalent::{Comparable, Equivalent};
use imbl::{OrdMap, OrdSet};

use super::ground::{Depth, Ground};
use crate::domain::{Answer, CallTime, ImageId, NextToken, Question, StoreImageTask, TaskKey};

/// How long EC2 lists a task (API reference: "tasks of the last 31 days").
pub(super) const LISTED_FOR: Duration = Duration::from_hours(744);

/// How long an unfinished task may be missing from answers that should have it, before it counts
/// as gone. EC2 is eventually consistent, so that one answer without it means nothing; and when
/// its image was deregistered, it will never be told of again.
const MISSING_FOR: Duration = Duration::from_mins(5);

/// How long a look-up is remembered: longer than any answer may be served stale by default.
const LOOKUPS_FOR: Duration = Duration::from_mins(10);

/// A call that the ledger knows how to merge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Call {
    /// The head page.
    Head,
    /// The page that follows a task.
    Next {
        /// How far the token's walk had come.
        from: Depth,
        /// Leads on from there.
        token: NextToken,
    },
    /// The latest task of each image.
    Images(Vec<ImageId>),
}

impl Call {
    /// What is put to EC2.
    pub(super) fn question(&self) -> Question {
        match self {
            Self::Head => Question::Head,
            Self::Next { token, .. } => Question::Next(token.clone()),
            Self::Images(images) => Question::Images(images.clone()),
        }
    }
}

/// The newest head page.
#[derive(Clone, Debug)]
pub(super) struct Head {
    /// When its call started.
    pub(super) at: CallTime,
    /// The first task on it. A newer one that a look-up told of stands above what was read without
    /// a gap, however new it is.
    newest: Option<TaskKey>,
    /// How far down it reached.
    pub(super) bottom: Depth,
    /// Leads on from there.
    pub(super) next: Option<NextToken>,
}

/// What is known of an unfinished task beside its state.
#[derive(Clone, Debug)]
struct Progress {
    /// The newest call whose answer tells of it, if only by leaving it out.
    told: CallTime,
    /// The newest call whose answer has it.
    listed: CallTime,
    /// When it was first seen, and how far it was then: the basis of the estimate.
    first: (SystemTime, u8),
}

/// How a task moves along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Between the first and the newest call that told of it.
    pub watched_for: Duration,
    /// Percent gained in that time.
    pub gained: u8,
    /// Percent left.
    pub left: u8,
}

impl Pace {
    /// How long one percent takes. None when nothing was gained yet.
    #[must_use]
    pub fn per_percent(&self) -> Option<Duration> {
        self.watched_for.checked_div(u32::from(self.gained))
    }

    /// How long the rest takes at this pace.
    #[must_use]
    pub fn remaining(&self) -> Option<Duration> {
        self.per_percent()?.checked_mul(u32::from(self.left))
    }
}

/// All that is known of one scope. See the module.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    version: u64,
    newest_call: Option<CallTime>,
    tasks: OrdSet<ByTime>,
    by_image: OrdSet<ByImage>,
    unfinished: OrdMap<TaskKey, Progress>,
    lookups: OrdMap<ImageId, CallTime>,
    ground: Ground,
    head: Option<Head>,
    /// Where a walk over known ground has come to, see [`super::plan`].
    cursor: Option<(Depth, NextToken)>,
}

impl Ledger {
    /// Grows with every merge.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// A task by its key.
    #[must_use]
    pub fn task(&self, key: &TaskKey) -> Option<&Arc<StoreImageTask>> {
        self.tasks_from(Bound::Included(key)).next().filter(|task| task.key == *key)
    }

    /// All known tasks after a place, in sort order.
    pub fn tasks_after(
        &self,
        after: Option<&TaskKey>,
    ) -> impl Iterator<Item = &Arc<StoreImageTask>> {
        self.tasks_from(after.map_or(Bound::Unbounded, Bound::Excluded))
    }

    fn tasks_from(&self, from: Bound<&TaskKey>) -> impl Iterator<Item = &Arc<StoreImageTask>> {
        self.tasks.range::<_, TaskKey>((from, Bound::Unbounded)).map(|ByTime(task)| task)
    }

    /// All known tasks of an image, newest first.
    pub fn tasks_of(&self, image: &ImageId) -> impl Iterator<Item = &Arc<StoreImageTask>> {
        self.by_image
            .range((Bound::Included(ImageProbe(image)), Bound::Unbounded))
            .map(|ByImage(task)| task)
            .take_while(|task| task.key.image_id == *image)
    }

    /// The latest known task of an image, into one bucket or into any.
    #[must_use]
    pub fn latest(&self, image: &ImageId, bucket: Option<&str>) -> Option<&Arc<StoreImageTask>> {
        self.tasks_of(image).find(|task| bucket.is_none_or(|bucket| *task.key.bucket == *bucket))
    }

    /// The newest call whose answer tells of an unfinished task.
    #[must_use]
    pub fn told(&self, key: &TaskKey) -> Option<CallTime> {
        self.unfinished.get(key).map(|progress| progress.told)
    }

    /// How an unfinished task moves along, going by what was seen so far.
    #[must_use]
    pub fn pace(&self, task: &StoreImageTask) -> Option<Pace> {
        let Progress { told, first, .. } = self.unfinished.get(&task.key)?;
        Some(Pace {
            watched_for: told.wall.duration_since(first.0).unwrap_or_default(),
            gained: task.progress.saturating_sub(first.1),
            left: 100_u8.saturating_sub(task.progress),
        })
    }

    /// When an unfinished task will be completed at its present pace. None until it has one.
    #[must_use]
    pub fn estimated_completion(&self, task: &StoreImageTask) -> Option<SystemTime> {
        let remaining = self.pace(task)?.remaining()?;
        self.told(&task.key)?.wall.checked_add(remaining)
    }

    /// The newest call that was merged.
    #[must_use]
    pub fn newest_call(&self) -> Option<CallTime> {
        self.newest_call
    }

    pub(super) fn head(&self) -> Option<&Head> {
        self.head.as_ref()
    }

    pub(super) fn ground(&self) -> &Ground {
        &self.ground
    }

    pub(super) fn cursor(&self) -> Option<&(Depth, NextToken)> {
        self.cursor.as_ref()
    }

    /// When this image was last looked up by its ID.
    pub(super) fn looked_up(&self, image: &ImageId) -> Option<CallTime> {
        self.lookups.get(image).copied()
    }

    /// The unfinished tasks down to a depth, and the newest call that tells of each.
    pub(super) fn unfinished_above<'a>(
        &'a self,
        depth: &'a Depth,
    ) -> impl Iterator<Item = (&'a TaskKey, CallTime)> {
        self.unfinished
            .iter()
            .take_while(move |(key, _)| match depth {
                Depth::Top => false,
                Depth::At(bottom) => *key <= bottom,
                Depth::End => true,
            })
            .map(|(key, progress)| (key, progress.told))
    }

    /// The next ledger: this one and what EC2 answered to a call that started at `at`. A task that
    /// is known is never lost or turned back, whatever the order in which replicas answer.
    #[must_use]
    pub(super) fn merge(&self, call: &Call, answer: &Answer, at: CallTime) -> Self {
        let mut next = self.clone();
        next.version += 1;
        next.newest_call = Some(at);
        match call {
            Call::Head => next.merge_page(Depth::Top, answer, at),
            Call::Next { from, .. } => next.merge_page(from.clone(), answer, at),
            Call::Images(images) => next.merge_images(images, answer, at),
        }
        next.drop_old(at);
        next
    }

    /// The next ledger after EC2 refused to speak of an image: asking again would not tell more,
    /// so what is known of its tasks counts as told.
    #[must_use]
    pub(super) fn merge_refusal(&self, image: &ImageId, at: CallTime) -> Self {
        let mut next = self.clone();
        next.version += 1;
        next.tell_unfinished_of(image, None, at);
        next.drop_old(at);
        next
    }

    /// The next ledger after EC2 refused a pagination token: the walk has to begin anew.
    #[must_use]
    pub(super) fn forget_token(&self, token: &NextToken) -> Self {
        let mut next = self.clone();
        next.ground.forget(token);
        next.cursor.take_if(|(_, known)| known == token);
        if let Some(head) = &mut next.head {
            head.next.take_if(|known| known == token);
        }
        next
    }

    fn merge_page(&mut self, top: Depth, answer: &Answer, at: CallTime) {
        let bottom = match (&answer.next, answer.tasks.last()) {
            (None, _) => Depth::End,
            (Some(_), Some(last)) => Depth::At(last.key.clone()),
            (Some(_), None) => top.clone(),
        };
        if top == Depth::Top {
            let before = self.head.take().and_then(|head| head.newest);
            self.ground.lower_top(before.as_ref());
            let newest = answer.tasks.first().map(|task| task.key.clone());
            let next = answer.next.clone();
            self.head = Some(Head { at, newest, bottom: bottom.clone(), next });
        } else {
            self.cursor = answer.next.clone().map(|token| (bottom.clone(), token));
        }
        let told: Vec<_> = self
            .unfinished_above(&bottom)
            .filter(|(key, _)| top < Depth::At((*key).clone()))
            .map(|(key, _)| key.clone())
            .collect();
        for key in told {
            self.tell(&key, at);
        }
        for task in &answer.tasks {
            self.put(task, at);
        }
        self.ground.add(top, bottom, answer.next.clone());
    }

    fn merge_images(&mut self, images: &[ImageId], answer: &Answer, at: CallTime) {
        let remembered = self.lookups.iter().filter(|(_, known)| age(**known, at) < LOOKUPS_FOR);
        self.lookups = remembered.map(|(image, known)| (image.clone(), *known)).collect();
        for image in images {
            self.lookups.insert(image.clone(), at);
            let latest = answer.tasks.iter().find(|task| task.key.image_id == *image);
            self.tell_unfinished_of(image, latest.map(|task| &task.key), at);
        }
        for task in &answer.tasks {
            self.put(task, at);
        }
    }

    /// EC2 named this task as the latest of its image, or none: what is known to be newer was left
    /// out, and what is older was not spoken of.
    fn tell_unfinished_of(&mut self, image: &ImageId, latest: Option<&TaskKey>, at: CallTime) {
        let newer: Vec<_> = self
            .tasks_of(image)
            .map(|task| task.key.clone())
            .take_while(|key| latest.is_none_or(|latest| key < latest))
            .collect();
        for key in newer {
            self.tell(&key, at);
        }
    }

    fn tell(&mut self, key: &TaskKey, at: CallTime) {
        if let Some(progress) = self.unfinished.get_mut(key) {
            progress.told = progress.told.max(at);
        }
    }

    fn put(&mut self, news: &StoreImageTask, at: CallTime) {
        let known = self.task(&news.key).cloned();
        let task = match &known {
            Some(known) => match known.advance(news.clone()) {
                Some(news) => Arc::new(news),
                None => known.clone(),
            },
            None => Arc::new(news.clone()),
        };
        if task.state.is_terminal() {
            self.unfinished.remove(&task.key);
        } else {
            let first = (at.wall, task.progress);
            let progress = self.unfinished.entry(task.key.clone()).or_insert(Progress {
                told: at,
                listed: at,
                first,
            });
            progress.told = progress.told.max(at);
            progress.listed = progress.listed.max(at);
        }
        if known.is_none_or(|known| !Arc::ptr_eq(&known, &task)) {
            self.tasks.insert(ByTime(task.clone()));
            self.by_image.insert(ByImage(task));
        }
    }

    /// Drops what EC2 does not list any more: by age, or missing for too long.
    fn drop_old(&mut self, now: CallTime) {
        while let Some(ByTime(oldest)) = self.tasks.get_max().cloned()
            && now.wall.duration_since(oldest.key.start_time.0).is_ok_and(|age| age > LISTED_FOR)
        {
            self.remove(&oldest.key);
        }
        let missing: Vec<_> = self
            .unfinished
            .iter()
            .filter(|(_, progress)| age(progress.listed, progress.told) > MISSING_FOR)
            .map(|(key, _)| key.clone())
            .collect();
        for key in missing {
            self.remove(&key);
        }
    }

    fn remove(&mut self, key: &TaskKey) {
        if let Some(task) = self.task(key).cloned() {
            self.unfinished.remove(key);
            self.by_image.remove(&ByImage(task.clone()));
            self.tasks.remove(&ByTime(task));
        }
    }
}

/// How much older one call is than another.
fn age(older: CallTime, newer: CallTime) -> Duration {
    newer.instant.saturating_duration_since(older.instant)
}

/// A task in the listing's order.
#[derive(Clone, Debug)]
struct ByTime(Arc<StoreImageTask>);

/// A task in the order of images, and of the listing among those of one image.
#[derive(Clone, Debug)]
struct ByImage(Arc<StoreImageTask>);

impl ByImage {
    fn key(&self) -> (&ImageId, Reverse<SystemTime>, &str) {
        let TaskKey { start_time, image_id, bucket } = &self.0.key;
        (image_id, *start_time, bucket)
    }
}

/// Stands before all tasks of its image.
struct ImageProbe<'a>(&'a ImageId);

impl PartialEq for ByTime {
    fn eq(&self, other: &Self) -> bool {
        self.0.key == other.0.key
    }
}

impl Eq for ByTime {}

impl PartialOrd for ByTime {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ByTime {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.key.cmp(&other.0.key)
    }
}

impl std::borrow::Borrow<TaskKey> for ByTime {
    fn borrow(&self) -> &TaskKey {
        &self.0.key
    }
}

impl PartialEq for ByImage {
    fn eq(&self, other: &Self) -> bool {
        self.0.key == other.0.key
    }
}

impl Eq for ByImage {}

impl PartialOrd for ByImage {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ByImage {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}

impl Equivalent<ByImage> for ImageProbe<'_> {
    fn equivalent(&self, _: &ByImage) -> bool {
        false
    }
}

impl Comparable<ByImage> for ImageProbe<'_> {
    fn compare(&self, task: &ByImage) -> std::cmp::Ordering {
        self.0.cmp(&task.0.key.image_id).then(std::cmp::Ordering::Less)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cache::testing::{Clock, answer, image_id, images, next_page, token},
        domain::TaskState,
    };

    const RUNNING: TaskState = TaskState::InProgress;

    #[test]
    fn a_merge_keeps_what_an_older_ledger_shows() {
        let clock = Clock::new();
        let first =
            Ledger::default().merge(&Call::Head, &answer(clock.done(1..=3), None), clock.at(0));
        let second = first.merge(&Call::Head, &answer(clock.done(0..=3), None), clock.at(5));
        assert_eq!(images(&first).len(), 3);
        assert_eq!(images(&second), [0, 1, 2, 3].map(image_id));
        assert!(second.version() > first.version());
    }

    #[test]
    fn a_merge_takes_news_and_never_turns_back_or_loses() {
        let clock = Clock::new();
        let task = |state, progress| answer(vec![clock.task(1, 10, state, progress)], None);
        let mut ledger = Ledger::default().merge(&Call::Head, &task(RUNNING, 10), clock.at(0));
        for (second, news, expected) in [
            (1, task(RUNNING, 20), 20),
            (2, task(RUNNING, 15), 20),
            (3, answer(vec![], None), 20),
            (4, task(TaskState::Completed, 100), 100),
            (5, task(RUNNING, 30), 100),
        ] {
            ledger = ledger.merge(&Call::Head, &news, clock.at(second));
            let known = ledger.latest(&image_id(1), None).expect("not lost");
            assert_eq!(known.progress, expected, "after second {second}");
            let listed = ledger.tasks_after(None).next().expect("not lost");
            assert!(Arc::ptr_eq(known, listed), "both orders hold the same");
        }
        assert_eq!(
            ledger.told(&ledger.tasks_after(None).next().expect("it").key),
            None,
            "finished"
        );
    }

    #[test]
    fn a_page_tells_of_what_it_leaves_out_and_a_look_up_of_what_it_is_asked() {
        let clock = Clock::new();
        let running = [1, 2, 3].map(|image| clock.task(image, image, RUNNING, 0));
        let ledger = Ledger::default()
            .merge(&Call::Head, &answer(running[..2].to_vec(), Some("a")), clock.at(0))
            .merge(&next_page(&running[1], "a"), &answer(running[2..].to_vec(), None), clock.at(1));
        let told =
            |ledger: &Ledger| running.each_ref().map(|task| ledger.told(&task.key).expect("known"));
        assert_eq!(told(&ledger), [clock.at(0), clock.at(0), clock.at(1)]);
        let ledger =
            ledger.merge(&Call::Head, &answer(running[1..2].to_vec(), Some("b")), clock.at(2));
        assert_eq!(
            told(&ledger),
            [clock.at(2), clock.at(2), clock.at(1)],
            "also of the first, which was left out"
        );
        let lookup = Call::Images(vec![image_id(3)]);
        let ledger = ledger.merge(&lookup, &answer(vec![], None), clock.at(3));
        assert_eq!(told(&ledger), [clock.at(2), clock.at(2), clock.at(3)]);
    }

    #[test]
    fn a_look_up_does_not_tell_of_a_task_that_a_newer_one_hides() {
        let clock = Clock::new();
        let (older, newer) = (clock.task(1, 20, RUNNING, 0), clock.task(1, 10, RUNNING, 0));
        let both = answer(vec![newer.clone(), older.clone()], None);
        let ledger = Ledger::default().merge(&Call::Head, &both, clock.at(0)).merge(
            &Call::Images(vec![image_id(1)]),
            &answer(vec![newer.clone()], None),
            clock.at(9),
        );
        assert_eq!(ledger.told(&newer.key), Some(clock.at(9)));
        assert_eq!(ledger.told(&older.key), Some(clock.at(0)));
    }

    #[test]
    fn what_is_missing_for_five_minutes_is_gone() {
        let clock = Clock::new();
        let there = answer(vec![clock.task(1, 10, RUNNING, 5)], None);
        let ledger = Ledger::default().merge(&Call::Head, &there, clock.at(0));
        let empty = answer(vec![], None);
        let ledger = ledger.merge(&Call::Head, &empty, clock.at(300));
        assert_eq!(images(&ledger).len(), 1, "one answer without it means nothing");
        let ledger = ledger.merge(&Call::Head, &empty, clock.at(301));
        assert!(images(&ledger).is_empty() && ledger.latest(&image_id(1), None).is_none());
    }

    #[test]
    fn what_is_older_than_31_days_goes() {
        let clock = Clock::new();
        let days = 24 * 60;
        let tasks = answer(clock.done([1, 31 * days - 1, 31 * days + 1]), None);
        let ledger = Ledger::default().merge(&Call::Head, &tasks, clock.at(0));
        assert_eq!(images(&ledger), [1, 31 * days - 1].map(image_id));
        let ledger = ledger.merge(&Call::Head, &answer(clock.done([1]), None), clock.at(120));
        assert_eq!(images(&ledger), [image_id(1)]);
    }

    #[test]
    fn the_estimate_goes_by_what_was_seen() {
        let clock = Clock::new();
        let task = |progress| answer(vec![clock.task(1, 10, RUNNING, progress)], None);
        let estimate = |ledger: &Ledger| {
            ledger.estimated_completion(ledger.latest(&image_id(1), None).expect("known"))
        };
        let ledger = Ledger::default().merge(&Call::Head, &task(20), clock.at(0));
        assert_eq!(estimate(&ledger), None, "no basis");
        let ledger = ledger.merge(&Call::Head, &task(40), clock.at(100));
        assert_eq!(estimate(&ledger), Some(clock.at(400).wall), "5 s a percent, 60 left");
        let ledger = ledger.merge(&Call::Head, &task(40), clock.at(200));
        assert_eq!(estimate(&ledger), Some(clock.at(800).wall), "it stood still: 10 s a percent");
    }

    #[test]
    fn a_look_up_does_not_hide_the_gap_below_a_new_head_page() {
        let clock = Clock::new();
        let tasks = clock.done(1..=9);
        let lookup = Call::Images(vec![image_id(2)]);
        let ledger = Ledger::default()
            .merge(&Call::Head, &answer(tasks[6..].to_vec(), None), clock.at(0))
            .merge(&lookup, &answer(tasks[1..2].to_vec(), None), clock.at(1))
            .merge(&Call::Head, &answer(tasks[..2].to_vec(), Some("a")), clock.at(2));
        let bottom = Depth::At(tasks[1].key.clone());
        assert_eq!(ledger.ground().bottom(), &bottom, "what is between 2 and 7 was never read");
    }

    #[test]
    fn a_refused_token_is_forgotten_everywhere() {
        let clock = Clock::new();
        let page = answer(clock.done(1..=3), Some("a"));
        let ledger =
            Ledger::default().merge(&Call::Head, &page, clock.at(0)).forget_token(&token("a"));
        assert_eq!(ledger.ground().next(), None);
        assert_eq!(ledger.head().expect("a head").next, None);
        assert_eq!(images(&ledger).len(), 3);
    }
}
