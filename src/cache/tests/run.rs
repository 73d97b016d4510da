//! Plays a story on a paused clock: the cache, EC2 behind it, and all callers, who keep a record.

use std::{
    fmt::Write as _,
    future::pending,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use super::{
    adapter::Subject,
    ask::{Ask, Heard, ListingAsk, Told},
    ec2::{self, Attempt, Ec2, Moment, Shared, Tokens, World, ec2_time},
    oracle::{Oracle, Verdict, judge_walk},
    story::{Event, Plan, Store},
    support::image_id,
};
use crate::{
    cache::{CacheError, Outcome, Settings, StaleReason},
    domain::{CallTime, DescribeTarget, ListingFilter, TaskKey, wall_offset},
};

/// Longer than any caller has to wait for whatever EC2 and the budget do in a story.
const FOREVER: Duration = Duration::from_hours(12);

/// Pages of a walk beyond one for each task: a walk with more is endless.
const PAGES_BEYOND_TASKS: usize = 10;

/// A story and what it shows.
pub(super) struct Run {
    pub(super) ec2: Shared,
    subject: Arc<Subject>,
    settings: Settings,
    record: Arc<Mutex<Record>>,
    callers: JoinSet<()>,
    newest_start: Moment,
    /// The questions of the story so far.
    asked: Vec<Ask>,
}

/// What callers were told, and which tasks they have seen.
#[derive(Default)]
struct Record {
    heard: Vec<Heard>,
    walks: Vec<(ListingAsk, Vec<Heard>)>,
    seen: Vec<TaskKey>,
    /// What is asked and not yet answered.
    waiting: Vec<Ask>,
    endless: bool,
}

impl Run {
    pub(super) fn new(world: World, settings: Settings) -> Self {
        wall_offset::set(0);
        let behind = ec2_time(Duration::ZERO).duration_since(CallTime::now().wall);
        let offset = behind.map_or_else(
            |ahead| -i64::try_from(ahead.duration().as_millis()).expect("a few years"),
            |behind| i64::try_from(behind.as_millis()).expect("a few years"),
        );
        wall_offset::set(offset);
        let ec2 = Ec2::new(world);
        let subject = Arc::new(Subject::new(&ec2, &settings));
        let (record, callers) = (Arc::default(), JoinSet::new());
        let newest_start = Duration::ZERO;
        Self { ec2, subject, settings, record, callers, newest_start, asked: Vec::new() }
    }

    pub(super) async fn live(&mut self, event: &Event) {
        match event {
            Event::Pause(milliseconds) => sleep(Duration::from_millis(*milliseconds)).await,
            Event::Store(stores) => self.store(stores),
            Event::Ask { plan, staleness, gaps, patience } => {
                let Some(ask) = plan.ask(&record(&self.record).seen) else { return };
                self.asked.push(ask.clone());
                self.crowd(&ask, *staleness, gaps, *patience);
            }
            Event::AskAgain { nth, staleness, gaps, patience } => {
                if self.asked.is_empty() {
                    return;
                }
                let ask = self.asked[self.asked.len() - 1 - nth % self.asked.len()].clone();
                self.crowd(&ask, *staleness, gaps, *patience);
            }
            Event::SpendBudget => ec2::lock(&self.ec2).spend_budget(),
            Event::Walk { listing, staleness, pause } => {
                let ask = listing.ask(&record(&self.record).seen);
                self.walk(ask, staleness.map(Duration::from_millis), *pause);
            }
            Event::Fail(faults) => ec2::lock(&self.ec2).faults.extend(faults),
            Event::Slow(latencies) => ec2::lock(&self.ec2).slow.extend(latencies),
            Event::Refuse { image, code } => {
                ec2::lock(&self.ec2).refuse(image_id((*image).into()), code);
            }
            Event::Accept(image) => ec2::lock(&self.ec2).accept(image_id((*image).into())),
            Event::ExpireTokens => ec2::lock(&self.ec2).expire_tokens(),
            Event::Omit(places) => ec2::lock(&self.ec2).omissions.extend(places),
            Event::Vanish(number) => self.vanish(*number),
            Event::Leap(seconds) => self.leap(*seconds),
        }
    }

    /// Callers ask the same, one after the other.
    fn crowd(&mut self, ask: &Ask, staleness: Option<u64>, gaps: &[u64], patience: Option<u64>) {
        let staleness = staleness.map(Duration::from_millis);
        let patience = patience.map(Duration::from_millis);
        let mut after = Duration::ZERO;
        for gap in gaps {
            after += Duration::from_millis(*gap);
            self.ask_after(after, ask.clone(), staleness, patience);
        }
    }

    /// Tasks start now, a millisecond apart unless they are said to start together.
    pub(super) fn store(&mut self, stores: &[Store]) {
        let mut ec2 = ec2::lock(&self.ec2);
        let now = ec2.now();
        for store in stores {
            // A task that appears later than five minutes after its start is not of this EC2.
            let is_recent = self.newest_start + Duration::from_secs(20) > now;
            if !(store.tie && is_recent) || self.newest_start == Duration::ZERO {
                self.newest_start = now.max(self.newest_start + Duration::from_millis(1));
            }
            let shows = now + Duration::from_millis(store.shows_after);
            ec2.store(shows, store.states(self.newest_start));
        }
    }

    fn vanish(&self, number: usize) {
        let mut ec2 = ec2::lock(&self.ec2);
        let now = ec2.now();
        // A page that begins at a number of tasks would leave one out without a sign of it.
        if ec2.tasks.is_empty() || ec2.world.tokens == Tokens::Offsets {
            return;
        }
        let number = number % ec2.tasks.len();
        let task = &mut ec2.tasks[number];
        task.vanishes = task.vanishes.or(Some(now));
    }

    /// The wall clock takes a step. EC2 answers no call whose signature is five minutes off, so the clock
    /// was right when EC2 first answered.
    fn leap(&self, seconds: i64) {
        if ec2::lock(&self.ec2).attempts.iter().any(|attempt| attempt.answer().is_some()) {
            wall_offset::leap(1000 * seconds);
        }
    }

    /// A caller asks after a while, and gives up when its patience is over.
    pub(super) fn ask_after(
        &mut self,
        after: Duration,
        ask: Ask,
        max_staleness: Option<Duration>,
        patience: Option<Duration>,
    ) {
        let (subject, shared) = (self.subject.clone(), self.record.clone());
        self.callers.spawn(async move {
            sleep(after).await;
            let arrived = Instant::now();
            record(&shared).waiting.push(ask.clone());
            let answer = subject.get(&ask, max_staleness);
            let result = tokio::select! {
                biased;
                result = answer => Some(result),
                () = give_up(patience) => None,
            };
            let ended = Instant::now();
            let heard = Heard { ask, max_staleness, arrived, ended, result };
            record(&shared).add(heard);
        });
    }

    /// A caller asks, and is waited for.
    pub(super) async fn ask(&self, ask: Ask, max_staleness: Option<Duration>) -> Heard {
        let told = ask_and_record(&self.subject, &self.record, ask, max_staleness);
        let Ok(heard) = timeout(FOREVER, told).await else { panic!("{}", self.waits_forever()) };
        heard
    }

    fn walk(&mut self, first: ListingAsk, max_staleness: Option<Duration>, pause: u64) {
        let (subject, shared, ec2) = (self.subject.clone(), self.record.clone(), self.ec2.clone());
        self.callers.spawn(async move {
            let mut pages = Vec::new();
            let mut ask = first.clone();
            loop {
                let page = Ask::Listing(ask.clone());
                let heard = ask_and_record(&subject, &shared, page, max_staleness).await;
                pages.push(heard.clone());
                let Some(Ok(Told { tasks, more, .. })) = heard.result else { return };
                let Some(last) = tasks.last().filter(|_| more) else { break };
                ask.after = Some(last.key.clone());
                if pages.len() > ec2::lock(&ec2).tasks.len() + PAGES_BEYOND_TASKS {
                    record(&shared).endless = true;
                    return;
                }
                sleep(Duration::from_millis(pause)).await;
            }
            record(&shared).walks.push((first, pages));
        });
    }

    /// Waits until all callers have ended, and until the refreshes have that no caller waits for.
    pub(super) async fn quiet(&mut self) -> Verdict {
        self.all_told().await?;
        sleep(Duration::from_mins(10)).await;
        Ok(())
    }

    /// Waits until all callers have ended.
    pub(super) async fn all_told(&mut self) -> Verdict {
        loop {
            match timeout(FOREVER, self.callers.join_next()).await {
                Ok(None) => return Ok(()),
                Ok(Some(ended)) => ended.expect("no caller panics"),
                Err(_) => return Err(self.waits_forever()),
            }
        }
    }

    /// How all callers fared that have ended.
    pub(super) fn heard(&self) -> Vec<Heard> {
        record(&self.record).heard.clone()
    }

    fn waits_forever(&self) -> String {
        let ec2 = ec2::lock(&self.ec2);
        let calls = ec2.attempts.len();
        let waiting = &record(&self.record).waiting;
        let last = journal(&ec2.attempts[calls.saturating_sub(8)..]);
        format!("a caller waits forever: {waiting:?}; the last of {calls} calls: {last}")
    }

    /// EC2 is well again; all that it lists must be found, and what it does not list must not.
    pub(super) async fn heal_and_ask_all(&mut self) -> Verdict {
        {
            let mut ec2 = ec2::lock(&self.ec2);
            ec2.faults.clear();
            ec2.slow.clear();
            ec2.omissions.clear();
        }
        self.quiet().await?;
        let all = Ask::Listing(ListingAsk::everything(1000));
        self.ask_after(Duration::ZERO, all, Some(Duration::ZERO), None);
        for image in 0..16 {
            let (buckets, states) = (Vec::new(), Vec::new());
            let plan = Plan::Images { images: vec![image], buckets, states, started_after: None };
            let ask = plan.ask(&[]).expect("it names no task");
            self.ask_after(Duration::from_secs(30), ask, Some(Duration::ZERO), None);
        }
        let seen = record(&self.record).seen.clone();
        for key in seen {
            // Often enough for a task that EC2 no longer lists to be gone.
            for minutes in [1, 7, 13, 19, 25] {
                let after = Duration::from_mins(minutes);
                self.ask_after(after, Ask::Task(key.clone()), Some(Duration::ZERO), None);
            }
        }
        self.quiet().await
    }

    /// Judges all that callers were told.
    pub(super) fn judge(&self) -> Verdict {
        self.judge_calls()?;
        let record = record(&self.record);
        let ec2 = ec2::lock(&self.ec2);
        let oracle = Oracle::new(&ec2, &self.settings, &record.heard);
        let judged = oracle.judge();
        judged.map_err(|fault| format!("{fault}\nthe calls: {}", journal(&ec2.attempts)))?;
        if record.endless {
            return Err("a walk is endless".into());
        }
        for (first, pages) in &record.walks {
            judge_walk(&oracle, first, pages)?;
        }
        Ok(())
    }

    /// When nothing is pending, the cache keeps at most as many tasks as it may, but for those of the first
    /// page and any that started together with the last of these, those that are not finished and those that hide one.
    pub(super) fn judge_bounds(&self) -> Verdict {
        let (kept, unfinished) = self.subject.tasks_kept();
        let ec2 = ec2::lock(&self.ec2);
        let first_page = ec2.world.most_on_a_page() + ec2.most_at_once();
        let most = self.settings.max_tasks.max(first_page + 2 * unfinished);
        if kept > most {
            return Err(format!("{kept} tasks are kept, {most} may be"));
        }
        Ok(())
    }

    /// How many calls there were.
    pub(super) fn calls(&self) -> usize {
        ec2::lock(&self.ec2).attempts.len()
    }

    /// The calls of a whole story are bounded by its questions: each may read the three listings that can
    /// tell of it from the top, look up its images, and repeat what failed. That is loose, since what
    /// the fewest calls are depends on all that was asked before; `calls` compares them exactly.
    fn judge_calls(&self) -> Verdict {
        let ec2 = ec2::lock(&self.ec2);
        let failed = ec2.attempts.iter().filter(|attempt| attempt.error().is_some()).count();
        let pages = 1 + ec2.tasks.len().div_ceil(ec2.world.fewest_on_a_page());
        let questions = record(&self.record).heard.len();
        let (calls, most) = (ec2.attempts.len(), questions * (3 * pages + 5) + failed);
        if calls > most {
            return Err(format!("{calls} calls for {questions} questions, at most {most}"));
        }
        Ok(())
    }
}

/// What a story can come to.
pub(super) const PATHS: &[&str] = &[
    "hit",
    "stale while revalidate",
    "stale since EC2 is slow",
    "stale since the budget is spent",
    "stale since a call failed",
    "fetched",
    "joined a running call",
    "zero staleness in mid-call",
    "gave up",
    "transient error",
    "denied",
    "image refused",
    "remembered refusal",
    "refused with the ID named",
    "refused without the ID named",
    "token refused",
    "call that was made again",
    "call of more than two seconds",
    "deep page",
    "filtered page",
    "look-up",
    "sweep",
    "walk of several pages",
    "task that changes between two calls of an answer",
    "older task below a newer one of its image",
    "late task",
];

impl Run {
    /// The paths that the story came to.
    pub(super) fn paths(&self) -> std::collections::BTreeSet<&'static str> {
        let record = record(&self.record);
        let ec2 = ec2::lock(&self.ec2);
        let mut paths = std::collections::BTreeSet::new();
        for heard in &record.heard {
            paths.insert(path_of(heard));
            let arrived = ec2.moment(heard.arrived);
            let running = ec2
                .attempts
                .iter()
                .any(|attempt| attempt.started < arrived && attempt.ended > Some(arrived));
            if running && heard.max_staleness == Some(Duration::ZERO) {
                paths.insert("zero staleness in mid-call");
            }
            if let Some(Ok(Told { outcome: Outcome::Fetched { collapsed: true, .. }, .. })) =
                heard.result
            {
                paths.insert("joined a running call");
            }
            if has_refused_image(heard) {
                paths.insert("image refused");
            }
            paths.extend(changes_meanwhile(&ec2, heard));
        }
        if record.walks.iter().any(|(_, pages)| pages.len() > 2) {
            paths.insert("walk of several pages");
        }
        for attempt in &ec2.attempts {
            paths.extend(paths_of_call(attempt));
        }
        for task in &ec2.tasks {
            let start = task.key.start_time.0;
            if ec2_time(task.shows) > start + Duration::from_secs(1) {
                paths.insert("late task");
            }
            let newer = |other: &ec2::Stored| {
                other.key.image_id == task.key.image_id && other.key.start_time.0 > start
            };
            if ec2.tasks.iter().any(newer) {
                paths.insert("older task below a newer one of its image");
            }
        }
        paths
    }
}

/// Whether a caller is told that EC2 refuses an image that has no task.
fn has_refused_image(heard: &Heard) -> bool {
    let Some(Ok(told)) = &heard.result else { return false };
    told.missing.iter().any(|missing| missing.ec2_code.is_some())
}

fn path_of(heard: &Heard) -> &'static str {
    match &heard.result {
        None => "gave up",
        Some(Ok(told)) => match &told.outcome {
            Outcome::Hit => "hit",
            Outcome::StaleWhileRevalidate => "stale while revalidate",
            Outcome::StaleIfError(StaleReason::Slow) => "stale since EC2 is slow",
            Outcome::StaleIfError(StaleReason::BudgetSpent) => "stale since the budget is spent",
            Outcome::StaleIfError(StaleReason::Failed(_)) => "stale since a call failed",
            Outcome::Fetched { .. } => "fetched",
        },
        Some(Err(CacheError::Upstream(error))) if error.kind.is_transient() => "transient error",
        Some(Err(CacheError::Upstream(_))) => "denied",
        Some(Err(CacheError::Remembered { .. })) => "remembered refusal",
        Some(Err(_)) => "full",
    }
}

fn changes_meanwhile(ec2: &Ec2, heard: &Heard) -> Option<&'static str> {
    let Some(Ok(Told { tasks, as_of: Some(as_of), .. })) = &heard.result else { return None };
    let window = ec2.moment(*as_of)..ec2.moment(heard.ended);
    let calls = ec2.attempts.iter().filter(|attempt| window.contains(&attempt.started)).count();
    for task in tasks {
        let changes = ec2.stored(&task.key)?.versions.iter().any(|(at, _)| window.contains(at));
        if changes && calls > 1 {
            return Some("task that changes between two calls of an answer");
        }
    }
    None
}

fn paths_of_call(attempt: &Attempt) -> Vec<&'static str> {
    let mut paths = Vec::new();
    match &attempt.target {
        DescribeTarget::Images(_) => paths.push("look-up"),
        DescribeTarget::Listing { filter, next } => {
            if next.is_some() {
                paths.push("deep page");
            }
            if !filter.is_empty() {
                paths.push("filtered page");
            }
            if *filter == ListingFilter::in_progress() {
                paths.push("sweep");
            }
        }
    }
    if attempt.started > attempt.called {
        paths.push("call that was made again");
    }
    if attempt.ended > Some(attempt.called + Duration::from_secs(2)) {
        paths.push("call of more than two seconds");
    }
    if let Some(error) = attempt.error() {
        if error.code.starts_with("InvalidAMIID.") && error.message.contains("ami-") {
            paths.push("refused with the ID named");
        } else if error.code.starts_with("InvalidAMIID.") {
            paths.push("refused without the ID named");
        } else if error.message.contains("token") {
            paths.push("token refused");
        }
    }
    paths
}

impl Drop for Run {
    fn drop(&mut self) {
        wall_offset::set(0);
    }
}

impl Record {
    fn add(&mut self, heard: Heard) {
        let waited = self.waiting.iter().position(|ask| *ask == heard.ask);
        self.waiting.swap_remove(waited.expect("it was asked"));
        if let Some(Ok(told)) = &heard.result {
            for task in &told.tasks {
                if !self.seen.contains(&task.key) {
                    self.seen.push(task.key.clone());
                }
            }
        }
        self.heard.push(heard);
    }
}

fn record(shared: &Arc<Mutex<Record>>) -> MutexGuard<'_, Record> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn ask_and_record(
    subject: &Subject,
    shared: &Arc<Mutex<Record>>,
    ask: Ask,
    max_staleness: Option<Duration>,
) -> Heard {
    let arrived = Instant::now();
    record(shared).waiting.push(ask.clone());
    let result: Result<Told, CacheError> = subject.get(&ask, max_staleness).await;
    let ended = Instant::now();
    let heard = Heard { ask, max_staleness, arrived, ended, result: Some(result) };
    record(shared).add(heard.clone());
    heard
}

async fn give_up(patience: Option<Duration>) {
    match patience {
        Some(patience) => sleep(patience).await,
        None => pending().await,
    }
}

/// The calls, one a line.
fn journal(attempts: &[Attempt]) -> String {
    let mut lines = String::new();
    for attempt in attempts {
        let outcome = match &attempt.outcome {
            Some(Ok(answer)) => format!("{} tasks, {:?}", answer.tasks.len(), answer.next),
            Some(Err(error)) => format!("{} {}", error.code, error.message),
            None => "runs".into(),
        };
        let (started, ended) = (attempt.started, attempt.ended);
        let target = &attempt.target;
        let _ = write!(lines, "\n  {started:?} to {ended:?}: {target:?}: {outcome}");
    }
    lines
}

/// Runs a story on a clock that leaps to the next timer.
pub(super) fn on_paused_clock<T>(story: impl Future<Output = T>) -> T {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_time().start_paused(true).build().expect("a runtime").block_on(story)
}
