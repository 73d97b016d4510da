//! One watch: finds its task, then follows it to its end.
//!
//! A watch first looks for its task in each new state of its topic. What it may say depends on the age of
//! the data: a state in progress may be as old as a List's, but nothing final rests on data that are
//! older than the question. From the first message with a task on, it follows that task alone.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep_until};

use super::{
    poller::Poller,
    target::{Candidate, Means, Target},
    topic::{Published, Subscriber, Wanted},
    trouble::{Degraded, SHOWN_AFTER},
    view::{Ended, Kind, Message, NoTask, TaskView, Waiting},
    watches::WatchQuery,
};
use crate::{
    cache::{MissingImage, ScopeCache, Snapshot},
    domain::{FairPermit, StoreImageTask},
};

/// 30 s: the most that calls on which `NoTask` rests may have started before the wait was over.
const FRESH_AT_THE_END: Duration = Duration::from_secs(30);

/// 10 s: the least time between two messages for new codes of the same trouble.
const BETWEEN_CODES: Duration = Duration::from_secs(10);

/// An open watch. Dropping it closes the watch and frees its permit.
pub struct Watch {
    cache: Arc<ScopeCache>,
    poller: Arc<Poller>,
    target: Target,
    /// None if the watch ends with its first message.
    subscriber: Option<Subscriber>,
    /// The task as the cache has it, for the first message.
    cached: Option<TaskView>,
    /// The time of the question.
    asked: Instant,
    /// The end of the wait for a task.
    wait_ends: Instant,
    /// An answer is wanted that is new enough for the end of the wait.
    wants_last_answer: bool,
    heartbeat: Duration,
    sent: Sent,
    ended: bool,
    permit: FairPermit,
}

/// What the subscriber was told.
#[derive(Default)]
struct Sent {
    /// The time of the last message. None before the first one.
    at: Option<Instant>,
    /// The task as last told. From then on the watch is pinned to it.
    task: Option<TaskView>,
    degraded: Option<Degraded>,
    /// The time at which `degraded` was last told to have changed.
    degraded_at: Option<Instant>,
}

/// The result of looking for the task.
enum Search {
    Found(TaskView),
    NoTask(Box<NoTask>),
    Pending,
}

impl Watch {
    pub(super) fn new(
        cache: Arc<ScopeCache>,
        poller: Arc<Poller>,
        query: WatchQuery,
        asked: Instant,
        permit: FairPermit,
    ) -> Self {
        let WatchQuery { target, wait_for_task, heartbeat, .. } = query;
        let wait_ends = asked.checked_add(wait_for_task).unwrap_or(asked);
        let cached = told_from_the_cache(&cache, &target, asked);
        let target = cached.as_ref().map_or(target, TaskView::target);
        let mut subscriber = None;
        if !cached.as_ref().is_some_and(TaskView::is_terminal) {
            let wanted = wanted(&cache, &target, asked, wait_ends);
            subscriber = Some(poller.subscribe(&target, permit.caller(), Some(wanted)));
        }
        Self {
            cache,
            poller,
            target,
            subscriber,
            cached,
            asked,
            wait_ends,
            wants_last_answer: false,
            heartbeat,
            sent: Sent::default(),
            ended: false,
            permit,
        }
    }

    /// Waits for the next message, or for the error that ends the watch. Returns None after a terminal
    /// state and after an error. Cancel safe.
    pub async fn next(&mut self) -> Option<Result<Message, Ended>> {
        while !self.ended {
            let published = self.published();
            let now = Instant::now();
            if let Some(view) = self.cached.take() {
                return Some(Ok(self.message(Kind::Update, Some(view), &published, now)));
            }
            if let Some(next) = self.step(&published, now) {
                return Some(next);
            }
            let wake = self.next_timer(&published, now);
            let Some(subscriber) = &mut self.subscriber else { return self.end(Ended::Lost) };
            tokio::select! {
                is_alive = subscriber.changed() => if !is_alive {
                    return self.end(Ended::Lost);
                },
                () = self.permit.preempted() => return self.end(Ended::Preempted),
                () = sleep_until(wake) => {}
            }
        }
        None
    }

    /// The newest state of the topic.
    fn published(&mut self) -> Published {
        match &mut self.subscriber {
            Some(subscriber) => subscriber.read(),
            None => Published::default(),
        }
    }

    fn step(&mut self, published: &Published, now: Instant) -> Option<Result<Message, Ended>> {
        if self.sent.task.is_none() {
            self.search(published, now)
        } else {
            self.follow(published, now)
        }
    }

    /// Looks for the task, and says meanwhile that the caller is being served.
    fn search(&mut self, published: &Published, now: Instant) -> Option<Result<Message, Ended>> {
        let snapshot = self.cache.snapshot();
        match self.find(&snapshot, published, now) {
            Search::Found(view) => return Some(Ok(self.pin(view, published, now))),
            Search::NoTask(no_task) => return self.end(Ended::NoTask(no_task)),
            Search::Pending => {}
        }
        if let Some(ended) = &published.ended {
            return self.end(ended.clone());
        }
        if self.sent.at.is_none()
            && let Some(refusal) = &published.refusal
            && refusal.not_before >= self.asked
        {
            return self.end(Ended::Refused(refusal.error.clone()));
        }
        if !self.is_message_due(published, now) {
            return None;
        }
        if self.sent.at.is_none() {
            // The poller may not have had its turn since the time came at which trouble is shown.
            self.poller.refresh_state(&self.target);
            let published = self.published();
            if let Search::Found(view) = self.find(&snapshot, &published, now) {
                return Some(Ok(self.pin(view, &published, now)));
            }
            return Some(Ok(self.message(Kind::Heartbeat, None, &published, now)));
        }
        Some(Ok(self.message(Kind::Heartbeat, None, published, now)))
    }

    /// Follows the task to its end.
    fn follow(&mut self, published: &Published, now: Instant) -> Option<Result<Message, Ended>> {
        let sent = self.sent.task.clone()?;
        let view = published.task.clone().unwrap_or_else(|| sent.clone());
        if view.task != sent.task {
            return Some(Ok(self.message(Kind::Update, Some(view), published, now)));
        }
        if let Some(ended) = &published.ended {
            return self.end(ended.clone());
        }
        if self.is_message_due(published, now) {
            return Some(Ok(self.message(Kind::Heartbeat, Some(view), published, now)));
        }
        None
    }

    fn find(&mut self, snapshot: &Snapshot, published: &Published, now: Instant) -> Search {
        let target = self.target.clone();
        match &target {
            Target::Task(key) => {
                let Some(task) = snapshot.task(key) else { return Search::Pending };
                if snapshot.is_too_old(key, now) {
                    // The topic ends with that.
                    return Search::Pending;
                }
                if task.state.is_terminal() || self.may_tell(snapshot, published, now) {
                    return found(snapshot, task);
                }
                Search::Pending
            }
            Target::Candidate(candidate) => {
                self.find_candidate(candidate, snapshot, published, now)
            }
        }
    }

    /// Whether a state in progress is new enough, or the newest that there is while EC2 cannot be asked.
    fn may_tell(&self, snapshot: &Snapshot, published: &Published, now: Instant) -> bool {
        if published.degraded.is_some() {
            return true;
        }
        let query = self.target.query(published.means());
        let recent = now.checked_sub(self.cache.tolerance()).unwrap_or(now).min(self.asked);
        let reading = snapshot.read(&query, Some(recent));
        reading.is_some_and(|reading| !reading.reads_further())
    }

    fn find_candidate(
        &mut self,
        candidate: &Candidate,
        snapshot: &Snapshot,
        published: &Published,
        now: Instant,
    ) -> Search {
        let query = self.target.query(published.means());
        if let Some(reading) = snapshot.read(&query, Some(self.asked))
            && !reading.reads_further()
        {
            if let Some(task) = reading.tasks.first()
                && !snapshot.is_too_old(&task.key, now)
            {
                return found(snapshot, task);
            }
            let missing = reading.missing.into_iter().next();
            let missing = missing.unwrap_or_else(|| no_candidate(candidate, snapshot));
            return self.missing(candidate, missing, snapshot, published, now);
        }
        let Some(view) = &published.task else { return Search::Pending };
        if snapshot.is_too_old(&view.task.key, now) {
            return Search::Pending;
        }
        let is_told = if view.is_terminal() {
            is_surely_first(candidate, snapshot, &view.task)
        } else {
            self.may_tell(snapshot, published, now)
        };
        if is_told { found(snapshot, &view.task) } else { Search::Pending }
    }

    /// There is no task. That is said once the wait is over, from calls near its end.
    fn missing(
        &mut self,
        candidate: &Candidate,
        missing: MissingImage,
        snapshot: &Snapshot,
        published: &Published,
        now: Instant,
    ) -> Search {
        if now < self.wait_ends {
            return Search::Pending;
        }
        let near_the_end = self.wait_ends.checked_sub(FRESH_AT_THE_END).unwrap_or(self.asked);
        let query = self.target.query(Means { looks_up: true, ..published.means() });
        if snapshot.read(&query, Some(near_the_end.max(self.asked))).is_some() {
            let latest_start = Waiting::of(snapshot, &self.target).latest_start;
            let candidate = candidate.clone();
            return Search::NoTask(Box::new(NoTask { candidate, missing, latest_start }));
        }
        if !self.wants_last_answer {
            self.wants_last_answer = true;
            self.poller.want(&self.target, Wanted { not_before: now, is_whole: true });
        }
        Search::Pending
    }

    /// Tells the task for the first time, and follows it alone from now on.
    fn pin(&mut self, view: TaskView, published: &Published, now: Instant) -> Message {
        let target = view.target();
        if !view.is_terminal() && self.target != target {
            let caller = self.permit.caller();
            self.subscriber = Some(self.poller.subscribe(&target, caller, None));
            self.target = target;
        }
        self.message(Kind::Update, Some(view), published, now)
    }

    /// Makes a message, and notes what it tells.
    fn message(
        &mut self,
        kind: Kind,
        task: Option<TaskView>,
        published: &Published,
        now: Instant,
    ) -> Message {
        let mut degraded = published.degraded.clone();
        let mut waiting = None;
        match &task {
            Some(view) if view.is_terminal() => {
                degraded = None;
                self.ended = true;
            }
            Some(_) => {}
            None => waiting = Some(Waiting::of(&self.cache.snapshot(), &self.target)),
        }
        if self.has_new_trouble(degraded.as_ref()) {
            self.sent.degraded_at = Some(now);
        }
        self.sent.at = Some(now);
        self.sent.task.clone_from(&task);
        self.sent.degraded.clone_from(&degraded);
        Message { kind, task, waiting, degraded }
    }

    fn end<T>(&mut self, ended: Ended) -> Option<Result<T, Ended>> {
        self.ended = true;
        Some(Err(ended))
    }

    /// Whether a message is due although the task has not changed.
    fn is_message_due(&self, published: &Published, now: Instant) -> bool {
        let is_heartbeat_due = now >= self.heartbeat_due();
        let is_begun = self.sent.at.is_some();
        is_heartbeat_due || is_begun && self.trouble_due(published).is_some_and(|due| due <= now)
    }

    /// The time of the next heartbeat. The first message comes after 3 s at the latest.
    fn heartbeat_due(&self) -> Instant {
        match self.sent.at {
            Some(at) => at + self.heartbeat,
            None => self.asked + SHOWN_AFTER,
        }
    }

    /// The time at which a change of `degraded` is told: at once, a new code alone at most every 10 s.
    fn trouble_due(&self, published: &Published) -> Option<Instant> {
        if !self.has_new_trouble(published.degraded.as_ref()) {
            return None;
        }
        let at_once = self.asked;
        match (&self.sent.degraded, &published.degraded, self.sent.degraded_at) {
            (Some(before), Some(new), Some(at)) if before.since == new.since => {
                Some(at + BETWEEN_CODES)
            }
            _ => Some(at_once),
        }
    }

    fn has_new_trouble(&self, degraded: Option<&Degraded>) -> bool {
        match (&self.sent.degraded, degraded) {
            (None, None) => false,
            (Some(before), Some(new)) => before.since != new.since || !before.has_code_of(new),
            _ => true,
        }
    }

    fn next_timer(&self, published: &Published, now: Instant) -> Instant {
        let mut next = self.heartbeat_due();
        if self.sent.task.is_none() && self.wait_ends > now {
            next = next.min(self.wait_ends);
        }
        if let Some(due) = self.trouble_due(published)
            && self.sent.at.is_some()
        {
            next = next.min(due);
        }
        next
    }
}

/// The state of a target that the cache has and that may be told at once: in progress and as new as a
/// List without `max_staleness` may be, or terminal and certain.
fn told_from_the_cache(cache: &ScopeCache, target: &Target, asked: Instant) -> Option<TaskView> {
    let snapshot = cache.snapshot();
    let query = target.query(Means { reads_further: true, looks_up: false });
    let newest = snapshot.read(&query, None)?;
    let task = newest.tasks.first()?;
    if snapshot.is_too_old(&task.key, asked) {
        return None;
    }
    let is_told = match target {
        _ if !task.state.is_terminal() => {
            let recent = asked.checked_sub(cache.tolerance()).unwrap_or(asked);
            let reading = snapshot.read(&query, Some(recent))?;
            !reading.reads_further() && reading.tasks.first().is_some_and(|one| one.key == task.key)
        }
        Target::Task(_) => true,
        Target::Candidate(candidate) => is_surely_first(candidate, &snapshot, task),
    };
    if is_told { TaskView::of(&snapshot, task, newest.freshness.as_of()) } else { None }
}

/// The answer that a new watch wants. As for a List, its calls may have started the TTL ago if the task is told from the cache, or if there is none yet and the watch waits; otherwise a final
/// answer may follow, which must be newer than the question.
fn wanted(cache: &ScopeCache, target: &Target, asked: Instant, wait_ends: Instant) -> Wanted {
    let recent = asked.checked_sub(cache.tolerance()).unwrap_or(asked);
    let query = target.query(Means { reads_further: true, looks_up: false });
    let whole = Wanted { not_before: asked, is_whole: true };
    let snapshot = cache.snapshot();
    let Some(reading) = snapshot.read(&query, Some(recent)) else { return whole };
    let is_as_for_a_list = match reading.tasks.first() {
        _ if reading.reads_further() => false,
        Some(task) if snapshot.is_too_old(&task.key, asked) => false,
        Some(task) => !task.state.is_terminal(),
        None => wait_ends > asked,
    };
    let by_ttl = asked.checked_sub(cache.ttl()).unwrap_or(asked);
    if is_as_for_a_list { Wanted { not_before: by_ttl, is_whole: false } } else { whole }
}

/// The only candidate is older than 31 days, so that there is none.
fn no_candidate(candidate: &Candidate, snapshot: &Snapshot) -> MissingImage {
    let image_id = candidate.image;
    MissingImage { image_id, ec2_code: snapshot.refusal_of(&image_id), known_since: None }
}

/// Whether no other task can be the first candidate: the listing is known from this one down to
/// `started_after`. A terminal task does not change, so it may be told however old the data are.
fn is_surely_first(candidate: &Candidate, snapshot: &Snapshot, task: &StoreImageTask) -> bool {
    let Some(started_after) = candidate.started_after else { return false };
    snapshot.is_covered(&task.key, started_after)
}

fn found(snapshot: &Snapshot, task: &Arc<StoreImageTask>) -> Search {
    match TaskView::of(snapshot, task, None) {
        Some(view) => Search::Found(view),
        None => Search::Pending,
    }
}
