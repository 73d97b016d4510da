//! A topic: the newest state of one target, the refreshes that it needs, and the subscribers that share
//! it.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    interval::Bounds,
    target::{Means, Target},
    trouble::{Degraded, Overdue},
    view::{Ended, TaskView},
};
use crate::{
    cache::{CacheError, Freshness, KeptTask, ProgressRate, Query, Snapshot},
    domain::{AttemptState, Caller, StoreImageTask},
};

/// 60 s: how long EC2 must refuse without an answer between until a watch that has begun ends. IAM is
/// eventually consistent.
const REFUSED_FOR: Duration = Duration::from_mins(1);

/// 5 min: how long EC2 must not list a task that was never seen until it counts as gone. The cache keeps
/// a task that it has seen as long.
const UNLISTED_FOR: Duration = Duration::from_mins(5);

/// 30 s: how often it is asked whether EC2 still refuses an image.
const REFUSAL_CHECKED: Duration = Duration::from_secs(30);

/// One target.
pub(super) struct Topic {
    target: Target,
    /// The newest subscriber's caller. EC2 is asked in its turn.
    caller: Caller,
    published: watch::Sender<Published>,
    /// Keeps the watched task in the cache when the bound of tasks evicts others.
    _kept: Option<KeptTask>,
    created: Instant,
    /// The newest answer that a subscriber wants.
    wanted: Option<Wanted>,
    /// The start of the newest refresh.
    tried: Option<Instant>,
    /// The time at which, or later, the calls of the newest refresh must start.
    tried_not_before: Option<Instant>,
    /// Set while a refresh runs. Dropping it cancels the refresh.
    refreshing: Option<DropGuard>,
    /// The start of the newest refresh that was answered.
    answered: Option<Instant>,
    overdue: Option<Overdue>,
    /// The time from which on EC2 has refused all refreshes.
    refused_since: Option<Instant>,
    /// The task was in the snapshot.
    was_listed: bool,
    /// The time from which on EC2 has not listed the task. It was never seen.
    unlisted_since: Option<Instant>,
}

/// A refresh that begins.
pub(super) struct Refresh {
    pub(super) target: Target,
    pub(super) query: Query,
    /// Its calls must start at this time or later.
    pub(super) not_before: Instant,
    /// The caller that it counts for.
    pub(super) caller: Caller,
    /// Cancelled when the topic is dropped.
    pub(super) cancelled: CancellationToken,
}

/// An answer that a subscriber wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    /// It rests on calls that start at this time or later.
    pub(super) not_before: Instant,
    /// It is that of a whole refresh: something final is said by it.
    pub(super) is_whole: bool,
}

/// The newest state.
#[derive(Clone, Debug, Default)]
pub(super) struct Published {
    /// The task as last known, however old that is.
    pub(super) task: Option<TaskView>,
    /// The listing may still be read for the candidate.
    pub(super) reads_further: bool,
    pub(super) degraded: Option<Degraded>,
    /// The newest refresh was refused.
    pub(super) refusal: Option<Refusal>,
    /// Set with the last state.
    pub(super) ended: Option<Ended>,
}

/// EC2's refusal of a refresh.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    pub(super) error: CacheError,
    /// The refused call started at this time or later.
    pub(super) not_before: Instant,
}

impl Topic {
    pub(super) fn new(target: Target, caller: Caller, kept: Option<KeptTask>) -> Self {
        let reads_further = matches!(target, Target::Candidate(_));
        let published = Published { reads_further, ..Published::default() };
        Self {
            target,
            caller,
            published: watch::Sender::new(published),
            _kept: kept,
            created: Instant::now(),
            wanted: None,
            tried: None,
            tried_not_before: None,
            refreshing: None,
            answered: None,
            overdue: None,
            refused_since: None,
            was_listed: false,
            unlisted_since: None,
        }
    }

    /// Subscribes to the topic. `closed` is notified when the subscriber is dropped.
    pub(super) fn subscribe(&mut self, caller: &Caller, closed: Arc<Notify>) -> Subscriber {
        self.caller.clone_from(caller);
        Subscriber { published: self.published.subscribe(), _closed: NotifyOnDrop(closed) }
    }

    pub(super) fn has_subscribers(&self) -> bool {
        self.published.receiver_count() > 0
    }

    /// Returns whether the last state of the topic was published.
    pub(super) fn is_final(&self) -> bool {
        let published = self.published.borrow();
        let is_terminal = published.task.as_ref().is_some_and(TaskView::is_terminal);
        published.ended.is_some() || (is_terminal && matches!(self.target, Target::Task(_)))
    }

    /// A subscriber wants an answer.
    pub(super) fn want(&mut self, wanted: Wanted) {
        let before = self.wanted.unwrap_or(wanted);
        self.wanted = Some(Wanted {
            not_before: wanted.not_before.max(before.not_before),
            is_whole: wanted.is_whole || before.is_whole,
        });
    }

    /// Publishes the state of the target in a snapshot, and whether EC2 can be asked.
    pub(super) fn update(
        &mut self,
        snapshot: &Snapshot,
        attempts: &AttemptState,
        bounds: &Bounds,
        now: Instant,
    ) {
        let known = self.known_at(snapshot, now);
        if self.overdue.as_ref().is_some_and(|overdue| overdue.is_answered_by(known)) {
            self.overdue = None;
            self.refused_since = None;
        }
        self.mark_overdue(snapshot, bounds, now);
        let satisfied = self.wanted.is_some() && self.unsatisfied(known).is_none();
        if satisfied {
            self.wanted = None;
        }
        let task = self.find(snapshot, now);
        self.was_listed |= task.is_some();
        let ended = if task.is_some() { None } else { self.absence(snapshot, known, now) };
        let degraded = self.degraded(attempts, now);
        self.publish(satisfied, |published| {
            if let Some(mut task) = task {
                if let Some(before) = &published.task
                    && before.task.key == task.task.key
                {
                    task.as_of = task.as_of.max(before.as_of);
                }
                published.task = Some(task);
            }
            published.degraded = degraded;
            published.ended = ended;
        });
    }

    /// The task in a snapshot. One that is older than 31 days no longer counts, even if EC2 still lists it
    /// or the snapshot is from before; but a watch that has followed it hears its end.
    fn find(&self, snapshot: &Snapshot, now: Instant) -> Option<TaskView> {
        match &self.target {
            Target::Task(key) => {
                let task = snapshot.task(key)?;
                let has_ended = self.was_listed && task.state.is_terminal();
                if snapshot.is_too_old(key, now) && !has_ended {
                    return None;
                }
                TaskView::of(snapshot, task, None)
            }
            Target::Candidate(_) => {
                let reading = snapshot.read(&self.target.query(Means::default()), None)?;
                let task = reading.tasks.first()?;
                if snapshot.is_too_old(&task.key, now) {
                    return None;
                }
                TaskView::of(snapshot, task, reading.freshness.as_of())
            }
        }
    }

    /// The end of a topic whose task EC2 lists no longer. The snapshot keeps a watched task until it is
    /// too old, or EC2 has not listed it for five minutes.
    fn absence(
        &mut self,
        snapshot: &Snapshot,
        known: Option<Instant>,
        now: Instant,
    ) -> Option<Ended> {
        let Target::Task(key) = &self.target else { return None };
        let gone = Some(Ended::Gone(key.clone()));
        if self.was_listed || snapshot.is_too_old(key, now) {
            return gone;
        }
        // Older data may be from a time at which there was no such task.
        let known = known.filter(|known| *known >= self.created)?;
        let since = *self.unlisted_since.get_or_insert(known);
        if known >= since + UNLISTED_FOR { gone } else { None }
    }

    fn mark_overdue(&mut self, snapshot: &Snapshot, bounds: &Bounds, now: Instant) {
        if self.overdue.is_some() || self.is_refreshing() {
            return;
        }
        let due = self.due(snapshot, bounds, now);
        if due <= now {
            self.overdue = Some(Overdue::new(due, self.known_at(snapshot, now)));
        }
    }

    /// The trouble of the overdue refresh. It stays until an answer comes.
    fn degraded(&self, attempts: &AttemptState, now: Instant) -> Option<Degraded> {
        let overdue = self.overdue.as_ref()?;
        let before = self.published.borrow().degraded.clone();
        overdue.degraded(attempts, now).or(before)
    }

    /// The time of the next refresh: one interval after the newest data, and at least one interval after
    /// the last refresh, since that may have failed.
    pub(super) fn due(&self, snapshot: &Snapshot, bounds: &Bounds, now: Instant) -> Instant {
        let known = self.known_at(snapshot, now);
        if let Some(not_before) = self.unsatisfied(known)
            && self.tried_not_before < Some(not_before)
        {
            return not_before.max(self.created);
        }
        match known.max(self.tried) {
            Some(known) => known + self.interval(snapshot, bounds, now),
            None => self.created,
        }
    }

    /// Whether a round of refreshes takes the topic along: its data are older than half of the interval.
    pub(super) fn joins_round(&self, snapshot: &Snapshot, bounds: &Bounds, now: Instant) -> bool {
        if self.is_refreshing() {
            return false;
        }
        let half = self.interval(snapshot, bounds, now) / 2;
        let is_old = self.known_at(snapshot, now).is_none_or(|known| known + half <= now);
        is_old || self.due(snapshot, bounds, now) <= now
    }

    pub(super) fn is_refreshing(&self) -> bool {
        self.refreshing.is_some()
    }

    /// The next time at which trouble may have to be shown.
    pub(super) fn next_check(&self, attempts: &AttemptState, now: Instant) -> Option<Instant> {
        self.overdue.as_ref()?.next_check(attempts, now)
    }

    /// Begins a refresh.
    pub(super) fn begin_refresh(
        &mut self,
        snapshot: &Snapshot,
        bounds: &Bounds,
        now: Instant,
    ) -> Refresh {
        let not_before = self.refresh_not_before(snapshot, bounds, now);
        if self.overdue.is_none() {
            self.overdue = Some(Overdue::new(now, self.known_at(snapshot, now)));
        }
        self.tried = Some(now);
        self.tried_not_before = Some(not_before);
        let cancelled = CancellationToken::new();
        self.refreshing = Some(cancelled.clone().drop_guard());
        let reads_further = self.published.borrow().reads_further;
        let looks_up = self.looks_up(snapshot, now);
        let query = self.target.query(Means { reads_further, looks_up });
        let (target, caller) = (self.target.clone(), self.caller.clone());
        Refresh { target, query, not_before, caller, cancelled }
    }

    /// The time at which the calls of a refresh must start, or later: what a subscriber wants, or half of
    /// the interval ago, so that a call which another caller has just caused does.
    fn refresh_not_before(&self, snapshot: &Snapshot, bounds: &Bounds, now: Instant) -> Instant {
        if let Some(wanted) = self.unsatisfied(self.known_at(snapshot, now)) {
            return wanted;
        }
        now.checked_sub(self.interval(snapshot, bounds, now) / 2).unwrap_or(now)
    }

    /// Whether EC2's refusal of the image is to be found out, or whether it still holds: for a new image,
    /// for one that is refused, and for a subscriber that wants an answer. Others cost no look-up.
    fn looks_up(&self, snapshot: &Snapshot, now: Instant) -> bool {
        if self.published.borrow().task.is_some() {
            return false;
        }
        let image = self.target.image();
        match snapshot.looked_up_at(&image) {
            None => true,
            Some(_) if self.wanted.is_some_and(|wanted| wanted.is_whole) => true,
            Some(at) => at + REFUSAL_CHECKED <= now && snapshot.refusal_of(&image).is_some(),
        }
    }

    /// Takes the result of a refresh.
    pub(super) fn settle(
        &mut self,
        not_before: Instant,
        result: Result<(), CacheError>,
        attempts: &AttemptState,
    ) {
        self.refreshing = None;
        match result {
            Ok(()) => {
                self.answered = self.answered.max(Some(not_before));
                self.publish(false, |published| {
                    published.reads_further = false;
                    published.refusal = None;
                });
            }
            Err(error) => {
                if let Some(overdue) = &mut self.overdue {
                    overdue.failed = Some(error.clone());
                }
                if error.upstream().is_some_and(|error| !error.kind.is_transient()) {
                    self.refused(not_before, error, attempts);
                }
            }
        }
    }

    /// EC2 refused a refresh. A watch that begins is told so at once. Others end only if EC2 does so for
    /// a minute without an answer between.
    fn refused(&mut self, not_before: Instant, error: CacheError, attempts: &AttemptState) {
        let now = Instant::now();
        self.refused_since.take_if(|since| attempts.answered_at > Some(*since));
        let since = *self.refused_since.get_or_insert(now);
        let ended = (now >= since + REFUSED_FOR).then(|| Ended::Refused(error.clone()));
        self.publish(true, |published| {
            published.refusal = Some(Refusal { error, not_before });
            published.ended = ended;
        });
    }

    /// From when on the calls must start that a subscriber still waits for.
    fn unsatisfied(&self, known: Option<Instant>) -> Option<Instant> {
        let Wanted { not_before, is_whole } = self.wanted?;
        let told = if is_whole { self.answered } else { known };
        if told >= Some(not_before) { None } else { Some(not_before) }
    }

    /// Start of the newest call that tells of the target. What can no longer change is as of now.
    fn known_at(&self, snapshot: &Snapshot, now: Instant) -> Option<Instant> {
        let told = match snapshot.freshness(&self.target.query(Means::default())) {
            Freshness::AsOf(call) => Some(call.instant),
            Freshness::Immutable => Some(now),
            Freshness::Missing => None,
        };
        told.max(self.answered)
    }

    fn interval(&self, snapshot: &Snapshot, bounds: &Bounds, now: Instant) -> Duration {
        let published = self.published.borrow();
        let task: Option<&StoreImageTask> = published.task.as_ref().map(|view| &*view.task);
        let Some(task) = task else {
            // The longer a task does not appear, the longer the interval.
            let watched_for = now.saturating_duration_since(self.created);
            return bounds.interval(Some(ProgressRate { watched_for, gained: 0, left: 100 }));
        };
        bounds.interval(snapshot.progress_rate(task))
    }

    /// Changes the state unless it is final, and wakes the subscribers if they have to know.
    fn publish(&self, wake: bool, change: impl FnOnce(&mut Published)) {
        if self.is_final() {
            return;
        }
        self.published.send_if_modified(|published| {
            let before = published.clone();
            change(published);
            wake || published.is_worth_a_wake(&before)
        });
    }
}

impl Published {
    /// The calls on which an answer about a candidate rests.
    pub(super) fn means(&self) -> Means {
        Means { reads_further: self.reads_further, looks_up: false }
    }

    /// Whether subscribers must be woken. A newer `as_of` or estimate alone does not wake them: a
    /// heartbeat reads those.
    fn is_worth_a_wake(&self, before: &Self) -> bool {
        let task = |published: &Self| published.task.as_ref().map(|view| view.task.clone());
        let has_new_trouble = match (&before.degraded, &self.degraded) {
            (None, None) => false,
            (Some(before), Some(now)) => !before.has_code_of(now),
            _ => true,
        };
        has_new_trouble
            || task(before) != task(self)
            || before.reads_further != self.reads_further
            || before.ended.is_some() != self.ended.is_some()
    }
}

/// The receiving side of a topic.
pub(super) struct Subscriber {
    published: watch::Receiver<Published>,
    // Fields drop in order: the receiver must be gone when the poller counts the subscribers.
    _closed: NotifyOnDrop,
}

impl Subscriber {
    /// The newest state. [`Self::changed`] then waits for the next one.
    pub(super) fn read(&mut self) -> Published {
        self.published.borrow_and_update().clone()
    }

    /// Waits for a state that was not read yet. False if none comes any more: a topic that has
    /// subscribers is dropped only after its last state, or if the poller panics. Cancel safe.
    pub(super) async fn changed(&mut self) -> bool {
        self.published.changed().await.is_ok()
    }
}

/// Notifies the poller when a subscriber is gone.
struct NotifyOnDrop(Arc<Notify>);

impl Drop for NotifyOnDrop {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}
