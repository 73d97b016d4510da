//! The oracle: whether an answer is one that EC2 could have given to some attempt in the allowed
//! window. An answer may rest on several calls, so each task, each absence and each missing image is
//! judged on its own: there must be a moment of the window at which a replica could say it.

use std::{collections::BTreeMap, time::Duration};

use super::{
    ask::{Ask, Heard, ImagesAsk, ListingAsk, Missing, Told, names_bucket},
    ec2::{Attempt, Ec2, Moment, Omission, Stored, Tokens},
};
use crate::{
    cache::{CacheError, Outcome, Settings, StaleReason, coverage::Position},
    domain::{
        Answer, DescribeTarget, ErrorKind, ImageId, ListingFilter, NextToken, StoreImageTask,
        TaskKey, TaskState, UpstreamError,
    },
};

/// The words of the cache when EC2 refuses the tokens of a walk again.
const TOKENS_REFUSED: &str = "EC2 refuses the NextTokens that it gives";

/// How long EC2 must not have listed a task before it is gone.
const MISSING_FOR: Duration = Duration::from_mins(5);

/// How long a call runs before a caller is given an old answer.
const SLOW: Duration = Duration::from_secs(2);

/// What a story proves wrong, in words.
pub(super) type Verdict = Result<(), String>;

macro_rules! demand {
    ($holds:expr, $($message:tt)+) => {
        if !$holds {
            return Err(format!($($message)+));
        }
    };
}

/// Judges what callers were told, by EC2's history and the journal of its calls.
pub(super) struct Oracle<'a> {
    ec2: &'a Ec2,
    settings: &'a Settings,
    heard: &'a [Heard],
    /// When an answer with each task arrived, and the state that it had: from the first to the last.
    listed: BTreeMap<&'a TaskKey, Vec<Listed>>,
}

#[derive(Clone, Copy, Debug)]
struct Listed {
    started: Moment,
    ended: Moment,
    version: usize,
}

/// The calls that an answer may rest on: from the oldest that is new enough to the caller's end.
#[derive(Clone, Copy, Debug)]
struct Window {
    /// When the oldest call started.
    since: Moment,
    /// When the caller asked.
    arrived: Moment,
    /// When the caller was told.
    until: Moment,
}

impl<'a> Oracle<'a> {
    pub(super) fn new(ec2: &'a Ec2, settings: &'a Settings, heard: &'a [Heard]) -> Self {
        let mut listed: BTreeMap<&TaskKey, Vec<Listed>> = BTreeMap::new();
        for attempt in &ec2.attempts {
            let (Some(answer), Some(ended)) = (attempt.answer(), attempt.ended) else { continue };
            if !is_read(attempt) {
                continue;
            }
            for task in &answer.tasks {
                let stored = ec2.stored(&task.key).expect("EC2 lists what it stores");
                let same = |(_, version): &(Moment, StoreImageTask)| version == task;
                let version = stored.versions.iter().position(same).expect("one of its states");
                let one = Listed { started: attempt.started, ended, version };
                listed.entry(&stored.key).or_default().push(one);
            }
        }
        Self { ec2, settings, heard, listed }
    }

    /// Judges all callers' ends and all calls.
    pub(super) fn judge(&self) -> Verdict {
        for heard in self.heard {
            self.judge_one(heard).map_err(|fault| format!("{fault}\n  {heard:?}"))?;
        }
        self.judge_reach_of_denials()?;
        self.judge_demand_for_calls()
    }

    fn judge_one(&self, heard: &Heard) -> Verdict {
        match &heard.result {
            None => Ok(()),
            Some(Ok(told)) => self.judge_answer(heard, told),
            Some(Err(error)) => self.judge_error(heard, error),
        }
    }

    fn judge_answer(&self, heard: &Heard, told: &Told) -> Verdict {
        self.judge_age(heard, told)?;
        self.judge_outcome(heard, told)?;
        let (arrived, until) = (self.ec2.moment(heard.arrived), self.ec2.moment(heard.ended));
        let since = told.as_of.map_or(until, |as_of| self.ec2.moment(as_of));
        let window = Window { since, arrived, until };
        for task in &told.tasks {
            self.judge_content(&heard.ask, task, window)?;
        }
        match &heard.ask {
            Ask::Listing(ask) => self.judge_listing(ask, told, window),
            Ask::Images(ask) => self.judge_images(ask, told, window),
            Ask::Task(key) => self.judge_task(heard, key, told, window),
        }
    }

    // === The age of an answer and how it came about ===

    /// How old an answer of this kind may be.
    fn allowed_age(&self, heard: &Heard, outcome: &Outcome) -> Result<Duration, String> {
        let Settings { ttl, stale_while_revalidate, stale_if_error, .. } = self.settings;
        match (outcome, heard.max_staleness) {
            (Outcome::Hit | Outcome::Fetched { .. }, limit) => Ok(limit.unwrap_or(*ttl)),
            (Outcome::StaleWhileRevalidate, None) => Ok(*ttl + *stale_while_revalidate),
            (Outcome::StaleIfError(_), None) => Ok(*ttl + *stale_if_error),
            (_, Some(_)) => Err("a stale answer to a caller that takes none".into()),
        }
    }

    fn judge_age(&self, heard: &Heard, told: &Told) -> Verdict {
        let allowed = self.allowed_age(heard, &told.outcome)?;
        let Some(as_of) = told.as_of else {
            let terminal = told.tasks.iter().all(|task| task.state.is_terminal());
            demand!(terminal, "an answer that can change is said to be immutable");
            demand!(!matches!(heard.ask, Ask::Images(_)), "an image can be stored again");
            return Ok(());
        };
        demand!(as_of + allowed >= heard.arrived, "older than {allowed:?}");
        let as_of = self.ec2.moment(as_of);
        let until = self.ec2.moment(heard.ended);
        let from_a_call = self.ec2.attempts.iter().any(|attempt| {
            attempt.started == as_of && attempt.ended.is_some_and(|ended| ended <= until)
        });
        demand!(from_a_call, "no call that has ended started at {as_of:?}");
        Ok(())
    }

    fn judge_outcome(&self, heard: &Heard, told: &Told) -> Verdict {
        match &told.outcome {
            Outcome::Hit | Outcome::StaleWhileRevalidate => {
                demand!(heard.ended == heard.arrived, "a hit took time");
            }
            Outcome::StaleIfError(reason) => self.judge_stale_reason(heard, reason)?,
            Outcome::Fetched { collapsed, .. } => {
                self.judge_collapsed(heard, told, *collapsed)?;
            }
        }
        Ok(())
    }

    /// An answer of the trouble that the caller is told of must be there at that moment.
    fn judge_stale_reason(&self, heard: &Heard, reason: &StaleReason) -> Verdict {
        let told_at = self.ec2.moment(heard.ended);
        let holds = match reason {
            StaleReason::Slow => self
                .ec2
                .attempts
                .iter()
                .any(|attempt| attempt.runs_at(told_at) && attempt.called + SLOW <= told_at),
            StaleReason::BudgetSpent => self.ec2.starved.iter().any(|(from, until)| {
                *from <= told_at && until.is_none_or(|until| until >= told_at)
            }),
            StaleReason::Failed(error) => {
                demand!(error.kind.is_transient(), "stale for an error that lasts");
                return self.judge_failure(heard, error, true);
            }
        };
        demand!(holds, "at {told_at:?} EC2 could be asked");
        Ok(())
    }

    /// `collapsed` is true exactly if the call was started for another caller, or served one, too
    /// (RFC 9211).
    fn judge_collapsed(&self, heard: &Heard, told: &Told, collapsed: bool) -> Verdict {
        let Some(as_of) = told.as_of else { return Ok(()) };
        let (arrived, until) = (self.ec2.moment(heard.arrived), self.ec2.moment(heard.ended));
        if !collapsed {
            let as_of = self.ec2.moment(as_of);
            let joined = self.ec2.attempts.iter().any(|attempt| {
                attempt.started == as_of && as_of < arrived && attempt.ended > Some(arrived)
            });
            demand!(!joined, "a call that ran already is not said to be collapsed");
            return Ok(());
        }
        let since = self.not_before(heard);
        let shared = self.ec2.attempts.iter().any(|attempt| {
            let useful = attempt.started >= since
                && attempt.runs_at(attempt.started.max(arrived))
                && attempt.started <= until
                && self.could_help(&attempt.target, &heard.ask);
            useful && (attempt.called < arrived || self.serves_another(attempt, heard))
        });
        demand!(shared, "collapsed is said of a call made for this caller alone");
        Ok(())
    }

    fn serves_another(&self, attempt: &Attempt, heard: &Heard) -> bool {
        self.heard.iter().any(|other| {
            !std::ptr::eq(other, heard)
                && self.ec2.moment(other.arrived) <= attempt.ended.unwrap_or(Duration::MAX)
                && (self.ec2.moment(other.ended) >= attempt.called || takes_a_refresh(other))
                && self.could_serve(&attempt.target, &other.ask)
        })
    }

    // === What a task is said to be ===

    fn judge_content(&self, ask: &Ask, task: &StoreImageTask, window: Window) -> Verdict {
        let Some(stored) = self.ec2.stored(&task.key) else {
            return Err(format!("EC2 never had {task:?}"));
        };
        let states = self.possible_states(stored, window);
        let known = states.iter().any(|version| said(&stored.versions, *version, task));
        demand!(known, "EC2 could not say {task:?} in {window:?}, but {states:?} of {stored:#?}");
        let heard_of = self.listed.get(&task.key).is_some_and(|listed| {
            listed
                .iter()
                .any(|one| one.ended <= window.until && said(&stored.versions, one.version, task))
        });
        demand!(heard_of, "EC2 had not said {task:?} to any call by {:?}", window.until);
        let forgotten = stored.is_forgotten_at(window.since.saturating_sub(self.lag()));
        demand!(!forgotten || matches!(ask, Ask::Task(_)), "older than 31 days: {task:?}");
        Ok(())
    }

    /// The states that a replica can show to a call in the window. A task never goes back, so those
    /// before one that the cache was told of count no longer.
    fn possible_states(&self, stored: &Stored, window: Window) -> Vec<usize> {
        let Some(newest) = stored.version_at(window.until) else { return Vec::new() };
        let vanished = stored.vanishes.is_some_and(|vanishes| vanishes <= window.until)
            || stored.is_forgotten_at(window.until);
        let omitted = self.is_omitted(stored, window);
        // Of a task that EC2 does not list, the state stands that it was listed with at last; and a page
        // that begins at a number of tasks may leave out any, without a sign of it.
        let stands = vanished || omitted || self.is_shifting();
        let since = if stands { Duration::ZERO } else { window.since };
        let oldest = stored.version_at(since.saturating_sub(self.lag())).unwrap_or(0);
        let known = self.known_state(stored, window.arrived).unwrap_or(0);
        (oldest.max(known)..=newest).collect()
    }

    /// The newest state that the cache had been told of before a moment. What comes before or after a
    /// state that EC2 invented, and that has no percentage, cannot be known.
    fn known_state(&self, stored: &Stored, moment: Moment) -> Option<usize> {
        if self.is_narrow() {
            // The task may have been evicted, and told of by a replica that lags.
            return None;
        }
        let mut newest = None;
        for one in self.listed.get(&stored.key)? {
            let is_invented = matches!(stored.versions[one.version].1.state, TaskState::Other(_));
            if one.ended < moment && !is_invented {
                newest = newest.max(Some(one.version));
            }
        }
        newest
    }

    /// Whether each answer to the calls of the window has the task, or the cache knows it from before.
    fn must_be_listed(&self, stored: &Stored, window: Window) -> bool {
        let Window { since, arrived, until } = window;
        let vanished = stored.vanishes.is_some_and(|vanishes| vanishes <= until);
        if vanished || stored.is_forgotten_at(until) {
            return false;
        }
        if self.is_given_up(stored, window) {
            return false;
        }
        if self.known_state(stored, arrived).is_some() {
            return true;
        }
        // An answer that left out a task that was not known told the cache that there was none.
        let whole_past = Window { since: Duration::ZERO, ..window };
        !self.is_omitted(stored, whole_past) && stored.shows + self.lag() <= since
    }

    /// Whether an answer of the window leaves out a task that it should have, or continues one that did:
    /// the task is then on neither page.
    fn is_omitted(&self, stored: &Stored, window: Window) -> bool {
        let Window { since, until, .. } = window;
        for omission in &self.ec2.omitted {
            let in_window = (since..=until).contains(&omission.at);
            if omission.key == stored.key && (in_window || self.is_continued(omission, window)) {
                return true;
            }
        }
        false
    }

    /// Whether a call of the window reads the page that follows an answer.
    fn is_continued(&self, omission: &Omission, window: Window) -> bool {
        let answer = self.ec2.attempts[omission.call].answer();
        let Some(token) = answer.and_then(|answer| answer.next.as_ref()) else { return false };
        self.ec2.attempts.iter().any(|attempt| {
            let DescribeTarget::Listing { next, .. } = &attempt.target else { return false };
            next.as_ref() == Some(token) && (window.since..=window.until).contains(&attempt.started)
        })
    }

    /// Whether so many answers in a row have left out a task by the end of the window that it counts as
    /// gone.
    fn is_given_up(&self, stored: &Stored, window: Window) -> bool {
        let listed = self.listed.get(&stored.key).into_iter().flatten();
        let by_now = listed.filter(|one| one.ended <= window.until);
        let last = by_now.map(|one| one.started).max();
        let mut missed = Vec::new();
        for omission in &self.ec2.omitted {
            if omission.key == stored.key && Some(omission.at) > last {
                missed.push(omission.at);
            }
        }
        // A replica that is late may not show the task yet.
        for attempt in &self.ec2.attempts {
            let late = stored.shows..=stored.shows + self.lag();
            let lacks = |answer: &Answer| answer.tasks.iter().all(|task| task.key != stored.key);
            if late.contains(&attempt.started) && attempt.answer().is_some_and(lacks) {
                missed.push(attempt.started);
            }
        }
        missed.retain(|at| *at <= window.until);
        missed.sort_unstable();
        match missed.as_slice() {
            [first, .., last] => missed.len() >= 3 && *first + MISSING_FOR <= *last,
            _ => false,
        }
    }

    fn lag(&self) -> Duration {
        self.ec2.world.max_lag()
    }

    /// Whether tasks that come or go shift the pages of a walk. Then only the listing of all tasks must
    /// be whole, since tasks only ever come on top of it.
    fn is_shifting(&self) -> bool {
        self.ec2.world.tokens == Tokens::Offsets
    }

    /// Whether the bounds are so narrow that the story may meet them.
    fn is_narrow(&self) -> bool {
        self.settings.max_tasks < Settings::default().max_tasks
    }

    // === Which tasks a page has ===

    fn judge_listing(&self, ask: &ListingAsk, told: &Told, window: Window) -> Verdict {
        let tasks = &told.tasks;
        let sorted = tasks.windows(2).all(|pair| pair[0].key < pair[1].key);
        demand!(sorted, "the tasks are not in order");
        demand!(tasks.iter().all(|task| ask.wants(task)), "a task that was not asked for");
        demand!(tasks.len() <= ask.count, "more tasks than asked for");
        demand!(!told.more || tasks.len() == ask.count, "a short page, and more follow");
        if self.is_shifting() && !(ask.states.is_empty() && ask.buckets.is_empty()) {
            return Ok(());
        }
        let ends_at = tasks.last().filter(|_| told.more).map(|last| &last.key);
        for stored in &self.ec2.tasks {
            let on_page = ends_at.is_none_or(|ends_at| stored.key <= *ends_at);
            if !on_page || !self.must_be_listed(stored, window) {
                continue;
            }
            let states = self.possible_states(stored, window);
            let wanted = states.iter().all(|version| ask.wants(&stored.versions[*version].1));
            let told = tasks.iter().any(|task| task.key == stored.key);
            demand!(!wanted || told, "not told of {stored:#?} in {window:?}");
        }
        Ok(())
    }

    fn judge_task(&self, heard: &Heard, key: &TaskKey, told: &Told, window: Window) -> Verdict {
        let Some(stored) = self.ec2.stored(key) else { return Ok(()) };
        if let [task] = told.tasks.as_slice() {
            demand!(task.key == *key, "another task than asked for");
            let lost = !task.state.is_terminal() && self.has_been_missing(heard, stored);
            demand!(!lost, "still there, and EC2 has not listed it for long: {stored:#?}");
            return Ok(());
        }
        demand!(told.tasks.is_empty(), "more than one task");
        if stored.is_forgotten_at(window.until) {
            return Ok(());
        }
        let last_listed = self.listed.get(key).and_then(|listed| {
            listed.iter().map(|one| one.started).filter(|at| *at <= window.until).max()
        });
        // Of a task that had to make room, nothing is known but what EC2 says now.
        let has_vanished = stored.vanishes.is_some_and(|vanishes| vanishes <= window.until)
            && (self.is_narrow()
                || last_listed.is_none_or(|listed| listed + MISSING_FOR <= window.until));
        let gone = has_vanished || self.is_given_up(stored, window);
        demand!(gone, "a task is said to be gone: {stored:#?}, last listed at {last_listed:?}");
        Ok(())
    }

    /// Whether a task has vanished, and four answers to this question have missed it since, the first of
    /// them long ago. Three are enough, but one may not tell whether the task is between two pages.
    fn has_been_missing(&self, heard: &Heard, stored: &Stored) -> bool {
        let Some(vanishes) = stored.vanishes else { return false };
        let arrived = self.ec2.moment(heard.arrived);
        let mut missed = Vec::new();
        for before in self.heard {
            let at = self.ec2.moment(before.arrived);
            let answered = matches!(before.result, Some(Ok(_))) && before.ended < heard.arrived;
            let fresh = before.max_staleness == Some(Duration::ZERO);
            if before.ask == heard.ask && answered && fresh && at > vanishes + self.lag() {
                missed.push(at);
            }
        }
        let first = missed.iter().min();
        missed.len() >= 4 && first.is_some_and(|first| *first + 2 * MISSING_FOR < arrived)
    }

    // === What is said of images ===

    fn judge_images(&self, ask: &ImagesAsk, told: &Told, window: Window) -> Verdict {
        let told_of: Vec<_> = told.tasks.iter().map(|task| task.key.image_id).collect();
        let missing: Vec<_> = told.missing.iter().map(|missing| missing.image).collect();
        demand!(follows(&told_of, &ask.images), "not in the order of the request: {told_of:?}");
        demand!(follows(&missing, &ask.images), "not in the order of the request: {missing:?}");
        for image in &ask.images {
            let task = told.tasks.iter().find(|task| task.key.image_id == *image);
            let missing = told.missing.iter().find(|missing| missing.image == *image);
            let verdict = match (task, missing) {
                (Some(task), None) => self.judge_latest(ask, task, window),
                (None, Some(missing)) => self.judge_missing(ask, missing, window),
                (None, None) => self.judge_removed(ask, image, window),
                (Some(_), Some(_)) => Err("both told of and missing".into()),
            };
            verdict.map_err(|fault| format!("{image}: {fault}"))?;
        }
        Ok(())
    }

    /// The candidates of an image that every answer of the window has.
    fn certain(&self, ask: &ImagesAsk, image: &ImageId, window: Window) -> Vec<&'a Stored> {
        let mut certain = Vec::new();
        if self.is_shifting() {
            return certain;
        }
        for stored in &self.ec2.tasks {
            let of_image = stored.key.image_id == *image && ask.is_candidate(&stored.key);
            if of_image && self.must_be_listed(stored, window) {
                certain.push(stored);
            }
        }
        certain
    }

    fn judge_latest(&self, ask: &ImagesAsk, task: &StoreImageTask, window: Window) -> Verdict {
        demand!(ask.is_candidate(&task.key), "no candidate: {task:?}");
        demand!(ask.keeps(task), "in another state than asked for: {task:?}");
        let image = &task.key.image_id;
        for newer in self.certain(ask, image, window) {
            let is_newer = newer.key.start_time.0 > task.key.start_time.0;
            let is_unread = self.is_unread(ask, newer, window);
            demand!(!is_newer || is_unread, "{task:?} is not the latest in {window:?}: {newer:#?}");
        }
        Ok(())
    }

    /// Whether an image has a task by a moment that is no candidate, since it went into another bucket.
    fn has_task_elsewhere(&self, ask: &ImagesAsk, image: &ImageId, moment: Moment) -> bool {
        !ask.buckets.is_empty()
            && self.ec2.tasks.iter().any(|stored| {
                let key = &stored.key;
                key.image_id == *image && !ask.is_candidate(key) && stored.shows <= moment
            })
    }

    /// Whether the cache may not know of a task: what no look-up tells is told from what is in progress, and
    /// from the listing as far as it was read.
    fn is_unread(&self, ask: &ImagesAsk, stored: &Stored, window: Window) -> bool {
        let (key, until) = (&stored.key, window.until);
        let is_looked_up = !self.is_refused(&key.image_id, until)
            && !self.has_task_elsewhere(ask, &key.image_id, until);
        let is_known = !self.is_narrow() && self.has_been_told(key, until);
        !is_looked_up && !is_known
    }

    /// Whether EC2 has refused to look an image up by a moment.
    fn is_refused(&self, image: &ImageId, moment: Moment) -> bool {
        let mut refused = self.ec2.refused.iter();
        refused.any(|refused| refused.image == *image && refused.from <= moment)
    }

    /// Whether an answer with a task has arrived by a moment.
    fn has_been_told(&self, key: &TaskKey, moment: Moment) -> bool {
        let listed = self.listed.get(key);
        listed.is_some_and(|listed| listed.iter().any(|one| one.ended <= moment))
    }

    fn judge_missing(&self, ask: &ImagesAsk, missing: &Missing, window: Window) -> Verdict {
        let Missing { image, ec2_code, known_since } = missing;
        let certain = self.certain(ask, image, window);
        let refused = self
            .ec2
            .refused
            .iter()
            .filter(|refused| refused.image == *image && refused.from <= window.until);
        let codes: Vec<_> = refused.map(|refused| refused.code).collect();
        if let Some(code) = ec2_code {
            demand!(codes.contains(&&**code), "EC2 did not refuse it with {code}");
        }
        let Some(known_since) = known_since else {
            demand!(certain.is_empty(), "said to be missing for certain: {certain:#?}");
            return Ok(());
        };
        let elsewhere = self.has_task_elsewhere(ask, image, window.until);
        demand!(!codes.is_empty() || elsewhere, "a look-up would tell for certain");
        for stored in certain {
            let known = stored.key.start_time.0 > *known_since;
            demand!(!known, "missing since {known_since:?}, but {stored:#?}");
        }
        Ok(())
    }

    /// An image of which nothing is said: its latest candidate must be able to be in another state.
    fn judge_removed(&self, ask: &ImagesAsk, image: &ImageId, window: Window) -> Verdict {
        let certain = self.certain(ask, image, window);
        for stored in &self.ec2.tasks {
            if stored.key.image_id != *image || !ask.is_candidate(&stored.key) {
                continue;
            }
            let start = stored.key.start_time.0;
            let has_newer = certain
                .iter()
                .any(|newer| newer.key.start_time.0 > start && !self.is_unread(ask, newer, window));
            let states = self.possible_states(stored, window);
            let removed = states.iter().any(|version| !ask.keeps(&stored.versions[*version].1));
            if removed && !has_newer {
                return Ok(());
            }
        }
        Err("neither told of nor missing".into())
    }

    // === Errors: which, whom they reach, until when ===

    fn judge_error(&self, heard: &Heard, error: &CacheError) -> Verdict {
        match error {
            CacheError::Upstream(error) => {
                self.judge_failure(heard, error, true)?;
                self.judge_token_refusal(heard, error)?;
                self.judge_stale_was_not_due(heard, error)
            }
            CacheError::Remembered { error, left } => self.judge_remembered(heard, error, *left),
            CacheError::TooManyWaiting => self.judge_crowded(heard),
            CacheError::TooManyTasks => self.judge_full(heard),
            CacheError::Preempted => Err("there is no other caller".into()),
            CacheError::RefresherLost => Err("an internal error".into()),
        }
    }

    /// The moment of the oldest call that would do for a caller.
    fn not_before(&self, heard: &Heard) -> Moment {
        let tolerated = heard.max_staleness.unwrap_or(self.settings.ttl);
        self.ec2.moment(heard.arrived).saturating_sub(tolerated)
    }

    /// An error is the answer to one call: it counts for callers whom an answer to that call would
    /// have satisfied, whom the call concerned, and at once.
    fn judge_failure(&self, heard: &Heard, error: &UpstreamError, at_once: bool) -> Verdict {
        let unreadable = matches!(self.ec2.world.tokens, Tokens::Repeated | Tokens::RefusedFrom(_));
        if unreadable && error.kind == ErrorKind::MalformedAnswer {
            // The cache itself finds that the listing cannot be read on.
            return Ok(());
        }
        if error.message.contains(TOKENS_REFUSED) {
            return self.judge_refused_walk(heard);
        }
        let attempt = self.attempt_of(error)?;
        let (started, ended) = (attempt.started, attempt.ended.expect("it failed"));
        demand!(started >= self.not_before(heard), "the error of a call at {started:?}, too old");
        let told_at = self.ec2.moment(heard.ended);
        demand!(!at_once || told_at == ended, "told of at {told_at:?}, and it was at {ended:?}");
        demand!(self.concerns(attempt, error, &heard.ask), "the error of another question");
        Ok(())
    }

    /// A token that EC2 no longer takes restarts the walk. Only if that happens again is it EC2's answer.
    fn judge_token_refusal(&self, heard: &Heard, error: &UpstreamError) -> Verdict {
        let unreadable = matches!(self.ec2.world.tokens, Tokens::RefusedFrom(_));
        if unreadable || !error.message.contains("token") {
            return Ok(());
        }
        let refusals = self.token_refusals(heard);
        demand!(refusals >= 2, "the first refusal of a token is told");
        Ok(())
    }

    /// The cache gives a walk up only after two refusals of tokens.
    fn judge_refused_walk(&self, heard: &Heard) -> Verdict {
        let refusals = self.token_refusals(heard);
        demand!(refusals >= 2, "a walk is given up after {refusals} refusals of tokens");
        Ok(())
    }

    /// How many calls for the listing whose token was refused at a caller's end refused a token since a
    /// walk last read a page below that. Callers share walks, so it does not matter who waited.
    fn token_refusals(&self, heard: &Heard) -> usize {
        let told_at = self.ec2.moment(heard.ended);
        let last = self
            .ec2
            .attempts
            .iter()
            .find(|attempt| attempt.ended == Some(told_at) && refused_token(attempt).is_some());
        let Some(last) = last else { return 0 };
        let (mut refusals, mut depth) = (0, Position::Top);
        for attempt in &self.ec2.attempts {
            let DescribeTarget::Listing { next: Some(token), .. } = &attempt.target else {
                continue;
            };
            if !same_listing(&attempt.target, &last.target) || attempt.ended > Some(told_at) {
                continue;
            }
            if refused_token(attempt).is_some() {
                (refusals, depth) = (refusals + 1, self.start_of(token));
            } else if is_read(attempt) && self.start_of(token) > depth {
                refusals = 0;
            }
        }
        refusals
    }

    /// Where the page of a token begins: below all tasks of the pages above it.
    fn start_of(&self, token: &NextToken) -> Position {
        let mut start = Position::Top;
        let mut token = Some(token);
        while let Some(leads_here) = token {
            let giver = self.ec2.attempts.iter().find(|attempt| {
                attempt.answer().is_some_and(|answer| answer.next.as_ref() == Some(leads_here))
            });
            let Some(giver) = giver else { return start };
            let answer = giver.answer().expect("it gave a token");
            for task in &answer.tasks {
                start = start.max(Position::above(&task.key));
            }
            let DescribeTarget::Listing { next, .. } = &giver.target else { return start };
            // A token may be given for the page that it leads to.
            token = next.as_ref().filter(|next| *next != leads_here);
        }
        start
    }

    /// The call that failed like this. Each failure names its call.
    fn attempt_of(&self, error: &UpstreamError) -> Result<&'a Attempt, String> {
        let attempts = &self.ec2.attempts;
        let attempt = attempts.iter().find(|attempt| attempt.error() == Some(error));
        attempt.ok_or_else(|| format!("no call failed with {error:?}"))
    }

    fn concerns(&self, attempt: &Attempt, error: &UpstreamError, ask: &Ask) -> bool {
        let code: &str = &error.code;
        let is_of_an_image = code.starts_with("InvalidAMIID.") || code == "AuthFailure";
        if is_of_an_image && matches!(attempt.target, DescribeTarget::Images(_)) {
            return false;
        }
        let everything = DescribeTarget::Listing { filter: ListingFilter::default(), next: None };
        error.kind.concerns_the_scope()
            || (!error.kind.is_transient() && same_listing(&attempt.target, &everything))
            || self.could_serve(&attempt.target, ask)
    }

    /// Whether a call can be one of those that answer a question.
    fn could_serve(&self, target: &DescribeTarget, ask: &Ask) -> bool {
        match (target, ask) {
            (DescribeTarget::Listing { filter, .. }, ask) => {
                let sweeps = *filter == ListingFilter::in_progress();
                filter.is_empty() || sweeps || could_list(filter, ask)
            }
            (DescribeTarget::Images(images), Ask::Images(ask)) => {
                ask.images.iter().any(|image| images.contains(image))
            }
            (DescribeTarget::Images(images), ask) => self
                .ec2
                .tasks
                .iter()
                .any(|stored| images.contains(&stored.key.image_id) && ask.selects(&stored.key)),
        }
    }

    /// Whether a call can tell a part of the answer to a question, such as the state of one task.
    fn could_help(&self, target: &DescribeTarget, ask: &Ask) -> bool {
        match target {
            DescribeTarget::Listing { filter, .. } => {
                let mut tasks = self.ec2.tasks.iter().map(|stored| &stored.key);
                tasks.any(|key| ask.selects(key) && in_buckets(filter, key))
                    || self.could_serve(target, ask)
            }
            DescribeTarget::Images(_) => self.could_serve(target, ask),
        }
    }

    /// A transient error does not replace an answer that the caller takes.
    fn judge_stale_was_not_due(&self, heard: &Heard, error: &UpstreamError) -> Verdict {
        if heard.max_staleness.is_some() || !error.kind.is_transient() || self.is_narrow() {
            return Ok(());
        }
        let stays_known = match &heard.ask {
            Ask::Listing(ask) => {
                let plain = ListingAsk::everything(ask.count);
                *ask == plain && ask.count <= self.ec2.world.fewest_on_a_page()
            }
            Ask::Images(ask) => ask.buckets.is_empty() && self.were_looked_up(ask, heard),
            Ask::Task(key) => {
                let stored = self.ec2.stored(key);
                !stored.is_some_and(|stored| stored.is_forgotten_at(self.ec2.moment(heard.ended)))
            }
        };
        let allowed = self.settings.ttl + self.settings.stale_if_error;
        let had_answer = self.heard.iter().any(|before| {
            let Some(Ok(told)) = &before.result else { return false };
            before.ask == heard.ask
                && before.ended < heard.arrived
                && told.as_of.is_some_and(|as_of| as_of + allowed >= heard.arrived)
        });
        demand!(!(stays_known && had_answer), "an error instead of the answer from before");
        Ok(())
    }

    /// Whether the images were looked up a short while before a caller came. What a look-up told stays
    /// known, unless EC2 refuses the image since; what the listing told is known no longer once a page is
    /// full of new tasks.
    fn were_looked_up(&self, ask: &ImagesAsk, heard: &Heard) -> bool {
        let arrived = self.ec2.moment(heard.arrived);
        let since = arrived.saturating_sub(self.settings.ttl + self.settings.stale_if_error);
        ask.images.iter().all(|image| {
            !self.is_refused(image, arrived)
                && self.ec2.attempts.iter().any(|attempt| {
                    let DescribeTarget::Images(images) = &attempt.target else { return false };
                    let answered = attempt.answer().is_some() && attempt.ended < Some(arrived);
                    images.contains(image) && answered && attempt.started >= since
                })
        })
    }

    fn judge_remembered(&self, heard: &Heard, error: &UpstreamError, left: Duration) -> Verdict {
        demand!(heard.ended == heard.arrived, "what is remembered took time");
        demand!(!error.kind.is_transient(), "a transient error is remembered");
        self.judge_failure(heard, error, false)?;
        let attempt = self.attempt_of(error)?;
        let ended = attempt.ended.expect("it failed");
        let arrived = self.ec2.moment(heard.arrived);
        let until = ended + self.settings.refusal_ttl;
        demand!(arrived < until, "remembered until {until:?}, told at {arrived:?}");
        demand!(arrived + left == until, "remembered for {left:?} yet, not until {until:?}");
        let newer = self.ec2.attempts.iter().find(|newer| {
            newer.started > attempt.started
                && newer.answer().is_some()
                && newer.ended.is_some_and(|ended| ended < arrived)
                && (error.kind.concerns_the_scope() || newer.target == attempt.target)
        });
        demand!(newer.is_none(), "EC2 has answered since: {newer:?}");
        Ok(())
    }

    fn judge_crowded(&self, heard: &Heard) -> Verdict {
        let mut waiting = 0;
        let mut asks = std::collections::BTreeSet::new();
        for other in self.heard {
            let there = other.arrived <= heard.arrived && other.ended >= heard.arrived;
            if there && !std::ptr::eq(other, heard) {
                waiting += 1;
                asks.insert(&other.ask);
            } else if takes_a_refresh(other) && other.arrived <= heard.arrived {
                asks.insert(&other.ask);
            }
        }
        let Settings { max_waiting, max_queries, .. } = self.settings;
        let crowded = waiting >= *max_waiting || asks.len() >= *max_queries;
        demand!(crowded, "{waiting} callers with {} questions are no crowd", asks.len());
        Ok(())
    }

    fn judge_full(&self, heard: &Heard) -> Verdict {
        let told_at = self.ec2.moment(heard.ended);
        let known = self.listed.values().filter(|listed| listed[0].ended <= told_at).count();
        demand!(known >= self.settings.max_tasks, "{known} tasks are not too many");
        match &heard.ask {
            Ask::Listing(ask) => {
                let first = *ask == ListingAsk::everything(ask.count)
                    && ask.count < self.ec2.world.fewest_on_a_page()
                    && self.ec2.omitted.is_empty()
                    && !self.has_ties();
                demand!(!first, "the first page is never too much");
            }
            Ask::Images(_) => return Err("an image is never too much".into()),
            Ask::Task(key) => {
                let Some(stored) = self.ec2.stored(key) else { return Ok(()) };
                let window = Window { since: told_at, arrived: told_at, until: told_at };
                let is_unknown = stored.state_at(told_at).state.is_terminal()
                    || stored.vanishes.is_some_and(|vanishes| vanishes <= told_at)
                    || stored.is_forgotten_at(told_at)
                    || self.is_given_up(stored, window);
                demand!(is_unknown, "an unfinished task is never too much: {stored:#?}");
            }
        }
        Ok(())
    }

    /// Whether tasks start together, so that the tasks at the end of a page are told by two pages.
    fn has_ties(&self) -> bool {
        let mut starts: Vec<_> =
            self.ec2.tasks.iter().map(|stored| stored.key.start_time).collect();
        starts.sort_unstable();
        starts.windows(2).any(|pair| pair[0] == pair[1])
    }

    /// A denial is the answer to everything that was asked before its call started.
    fn judge_reach_of_denials(&self) -> Verdict {
        for attempt in &self.ec2.attempts {
            let (Some(error), Some(ended)) = (attempt.error(), attempt.ended) else { continue };
            if &*error.code != "UnauthorizedOperation" {
                continue;
            }
            for heard in self.heard {
                let waits = self.ec2.moment(heard.arrived) < attempt.started
                    && self.ec2.moment(heard.ended) > ended
                    && heard.result.is_some();
                demand!(!waits, "waits on after a denial at {ended:?}:\n  {heard:?}");
            }
        }
        Ok(())
    }

    /// Invariant 1 (docs/invariants.md): no call without a demand.
    fn judge_demand_for_calls(&self) -> Verdict {
        for attempt in &self.ec2.attempts {
            let at = attempt.called;
            let demanded = self.heard.iter().any(|heard| {
                let arrived = self.ec2.moment(heard.arrived) <= at;
                arrived && (self.ec2.moment(heard.ended) >= at || takes_a_refresh(heard))
            });
            demand!(demanded, "a call at {at:?} that no caller asked for: {:?}", attempt.target);
        }
        Ok(())
    }
}

/// Whether a task is told as one of its states is. A state without a percentage keeps the one before.
fn said(versions: &[(Moment, StoreImageTask)], version: usize, task: &StoreImageTask) -> bool {
    let said = &versions[version].1;
    if let TaskState::Other(_) = said.state {
        let keeps = versions[..=version].iter().any(|(_, known)| known.progress == task.progress);
        return keeps && *task == StoreImageTask { progress: task.progress, ..said.clone() };
    }
    *said == *task
}

/// Whether an old answer was given, and a refresh follows.
fn takes_a_refresh(heard: &Heard) -> bool {
    let Some(Ok(told)) = &heard.result else { return false };
    matches!(told.outcome, Outcome::StaleWhileRevalidate | Outcome::StaleIfError(_))
}

/// Whether images stand in the order of a request, each at most once.
fn follows(images: &[ImageId], request: &[ImageId]) -> bool {
    let mut rest = request.iter();
    images.iter().all(|image| rest.any(|wanted| wanted == image))
}

/// Whether there is an answer that can be read: one that leads back to itself is refused, and tells the
/// cache nothing.
fn is_read(attempt: &Attempt) -> bool {
    let Some(answer) = attempt.answer() else { return false };
    match &attempt.target {
        DescribeTarget::Listing { next: Some(asked), .. } => answer.next.as_ref() != Some(asked),
        DescribeTarget::Listing { .. } | DescribeTarget::Images(_) => true,
    }
}

/// The token that EC2 refused.
fn refused_token(attempt: &Attempt) -> Option<&NextToken> {
    let DescribeTarget::Listing { next, .. } = &attempt.target else { return None };
    let refused = attempt.error().is_some_and(UpstreamError::may_blame_the_token);
    next.as_ref().filter(|_| refused)
}

fn same_listing(one: &DescribeTarget, two: &DescribeTarget) -> bool {
    match (one, two) {
        (
            DescribeTarget::Listing { filter: one, .. },
            DescribeTarget::Listing { filter: two, .. },
        ) => one == two,
        _ => false,
    }
}

fn in_buckets(filter: &ListingFilter, key: &TaskKey) -> bool {
    names_bucket(&filter.buckets, key)
}

/// Whether EC2's listing by a filter has all tasks that a question may select.
fn could_list(filter: &ListingFilter, ask: &Ask) -> bool {
    let (states, buckets) = match ask {
        Ask::Listing(ask) => (&ask.states, &ask.buckets),
        Ask::Images(ask) => (&ask.states, &ask.buckets),
        Ask::Task(key) => {
            return in_buckets(filter, key);
        }
    };
    let by_state =
        filter.states.is_empty() || (!states.is_empty() && states.is_subset(&filter.states));
    let by_bucket =
        filter.buckets.is_empty() || (!buckets.is_empty() && buckets.is_subset(&filter.buckets));
    by_state && by_bucket
}

/// Whether a walk told each task that existed throughout exactly once.
pub(super) fn judge_walk(oracle: &Oracle<'_>, first: &ListingAsk, pages: &[Heard]) -> Verdict {
    let Some(heard) = pages.first() else { return Ok(()) };
    let arrived = oracle.ec2.moment(heard.arrived);
    let (mut since, mut until) = (arrived, arrived);
    let mut seen = Vec::new();
    for heard in pages {
        let Some(Ok(told)) = &heard.result else { continue };
        since = since.min(told.as_of.map_or(until, |as_of| oracle.ec2.moment(as_of)));
        until = oracle.ec2.moment(heard.ended);
        seen.extend(told.tasks.iter().map(|task| task.key.clone()));
    }
    let mut once = seen.clone();
    once.sort_unstable();
    once.dedup();
    demand!(once.len() == seen.len(), "a task stands on two pages: {seen:?}");
    if oracle.is_shifting() && !(first.states.is_empty() && first.buckets.is_empty()) {
        return Ok(());
    }
    let window = Window { since, arrived: Duration::ZERO, until };
    for stored in &oracle.ec2.tasks {
        if !oracle.must_be_listed(stored, window) {
            continue;
        }
        let states = oracle.possible_states(stored, window);
        let wanted = states.iter().all(|version| first.wants(&stored.versions[*version].1));
        demand!(!wanted || once.contains(&stored.key), "lost between two pages: {stored:#?}");
    }
    Ok(())
}
