//! EC2 with a history: all states that each task is ever in, replicas that lag, pages and tokens of
//! every shape, faults, latency and a budget. It shares no code with the cache.

use std::{
    cmp::Reverse,
    collections::VecDeque,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::{Duration, SystemTime},
};

use futures_util::{FutureExt as _, future::BoxFuture};
use tokio::time::{Instant, Sleep, sleep};
use tower::Service;

use crate::domain::{
    Answer, DescribeRequest, DescribeResponse, DescribeTarget, ErrorKind, ImageId, ListingFilter,
    NextToken, StoreImageTask, TaskKey, UpstreamError,
};

/// Time since the story began, on the monotonic clock. EC2's own clock is [`BEGIN`] plus this.
pub(super) type Moment = Duration;

/// EC2's time at the beginning of each story.
const BEGIN: Duration = Duration::from_secs(1_800_000_000);

/// Calls of one story. A cache that makes more goes round in circles, and gets no further answer.
const MOST_CALLS: usize = 1000;

/// How long EC2 lists a task (API reference: "tasks of the last 31 days").
pub(super) const LISTED_FOR: Duration = Duration::from_hours(744);

/// EC2's time at a moment.
pub(super) fn ec2_time(moment: Moment) -> SystemTime {
    SystemTime::UNIX_EPOCH + BEGIN + moment
}

/// How EC2 behaves throughout one story.
#[derive(Clone, Debug)]
pub(super) struct World {
    /// Tasks on each page of a listing, in turn.
    pub(super) page_sizes: Vec<usize>,
    /// A page that ends the listing has a token, too, and an empty page follows.
    pub(super) token_at_end: bool,
    /// The tasks of one page come in no order.
    pub(super) unsorted: bool,
    /// What a token stands for.
    pub(super) tokens: Tokens,
    /// The code with which a token is refused that is no longer taken.
    pub(super) token_code: &'static str,
    /// Milliseconds after which the attempt of a call starts that is answered, in turn. Attempts before it
    /// failed and were made again.
    pub(super) retries: Vec<u64>,
    /// Milliseconds that an attempt takes, in turn.
    pub(super) latencies: Vec<u64>,
    /// The share of a call's time, in percent, after which EC2 reads what it answers.
    pub(super) reads_at: u64,
    /// Milliseconds by which the answering replica is late, in turn.
    pub(super) lags: Vec<u64>,
    /// Which of the images at fault a refusal names.
    pub(super) naming: Naming,
    /// Calls that the gateway's own budget grants. None grants all.
    pub(super) budget: Option<Budget>,
}

/// What a token stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tokens {
    /// A position in the listing, which can be used again.
    Positions,
    /// A number of tasks to leave out.
    Offsets,
    /// A position; but a page below the first answers with the token that it was asked with.
    Repeated,
    /// A position; but no page from this one on can be read.
    RefusedFrom(usize),
}

/// Which of the images at fault a refusal names.
#[derive(Clone, Copy, Debug)]
pub(super) enum Naming {
    /// None of them.
    None,
    /// The first of them.
    First,
    /// All of them.
    All,
}

/// A budget of calls.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    /// Calls in a burst.
    pub(super) burst: u32,
    /// Milliseconds until one more call is granted.
    pub(super) every: u64,
}

/// A failure of a call that has nothing to do with what is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The credentials may not do this.
    Denied,
    /// EC2 is in trouble.
    Unavailable,
    /// EC2 grants no more calls.
    Throttled,
    /// The answer cannot be read.
    Malformed,
    /// EC2 finds the request wrong.
    Invalid,
}

/// A task with all states that it is ever in.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    /// Its key.
    pub(super) key: TaskKey,
    /// When it shows up on the replica that does not lag.
    pub(super) shows: Moment,
    /// When EC2 no longer lists it.
    pub(super) vanishes: Option<Moment>,
    /// EC2's order among tasks that start at the same time.
    rank: usize,
    /// Its states and when each begins. The first begins when it shows up.
    pub(super) versions: Vec<(Moment, StoreImageTask)>,
}

/// An image that EC2 refuses to look up.
#[derive(Clone, Debug)]
pub(super) struct Refused {
    /// The image.
    pub(super) image: ImageId,
    /// EC2's code for it.
    pub(super) code: &'static str,
    /// When that began.
    pub(super) from: Moment,
    /// When it ended.
    pub(super) until: Option<Moment>,
}

/// An answer that left out a task that it should have had.
#[derive(Clone, Debug)]
pub(super) struct Omission {
    /// When EC2 read the answer.
    pub(super) at: Moment,
    /// The number of the call.
    pub(super) call: usize,
    /// The task.
    pub(super) key: TaskKey,
}

/// One call to EC2.
#[derive(Clone, Debug)]
pub(super) struct Attempt {
    /// What the call asks for.
    pub(super) target: DescribeTarget,
    /// When the call was made.
    pub(super) called: Moment,
    /// When the attempt started that is answered.
    pub(super) started: Moment,
    /// When its answer arrived. None while it runs.
    pub(super) ended: Option<Moment>,
    /// The answer. None until EC2 reads what it answers.
    pub(super) outcome: Option<Result<Answer, UpstreamError>>,
}

#[derive(Clone, Debug)]
struct Token {
    filter: ListingFilter,
    place: Place,
    /// The page that it leads to, counted from 0.
    page: usize,
}

#[derive(Clone, Debug)]
enum Place {
    After(Reverse<SystemTime>, usize),
    /// At the first task of a listing whose first page is empty.
    At(Reverse<SystemTime>, usize),
    Offset(usize),
}

/// EC2, and the journal of the calls that it answered.
#[derive(Debug)]
pub(super) struct Ec2 {
    begin: Instant,
    pub(super) world: World,
    pub(super) tasks: Vec<Stored>,
    pub(super) refused: Vec<Refused>,
    pub(super) attempts: Vec<Attempt>,
    /// Failures of the next calls.
    pub(super) faults: VecDeque<Fault>,
    /// Milliseconds that the next calls take, before those of the world.
    pub(super) slow: VecDeque<u64>,
    /// Unfinished tasks that the next listings leave out, one a call, counted from the newest.
    pub(super) omissions: VecDeque<usize>,
    /// The answers that left out a task.
    pub(super) omitted: Vec<Omission>,
    /// When calls waited for the budget, and until when.
    pub(super) starved: Vec<(Moment, Option<Moment>)>,
    tokens: Vec<Token>,
    expired: usize,
    pages: usize,
    /// When the budget would be full again.
    full_at: Moment,
}

/// EC2 as the story and the service share it.
pub(super) type Shared = Arc<Mutex<Ec2>>;

/// Locks EC2.
pub(super) fn lock(ec2: &Shared) -> MutexGuard<'_, Ec2> {
    ec2.lock().unwrap_or_else(PoisonError::into_inner)
}

impl World {
    /// An EC2 that does nothing unusual.
    pub(super) fn plain(page_size: usize) -> Self {
        Self {
            page_sizes: vec![page_size],
            token_at_end: false,
            unsorted: false,
            tokens: Tokens::Positions,
            token_code: "InvalidNextToken",
            retries: vec![0],
            latencies: vec![500],
            reads_at: 0,
            lags: vec![0],
            naming: Naming::First,
            budget: None,
        }
    }

    /// The longest time by which a replica is late.
    pub(super) fn max_lag(&self) -> Duration {
        Duration::from_millis(self.lags.iter().copied().max().unwrap_or(0))
    }

    /// The same with other tokens. A page that begins at a number of tasks, of a replica that is late,
    /// leaves tasks out without a sign of it, so that there is no such replica.
    pub(super) fn with_tokens(mut self, tokens: Tokens) -> Self {
        if tokens == Tokens::Offsets {
            self.lags = vec![0];
        }
        Self { tokens, ..self }
    }

    /// The most tasks on a page.
    pub(super) fn most_on_a_page(&self) -> usize {
        self.page_sizes.iter().copied().max().unwrap_or(0)
    }

    /// The fewest tasks on a page, but at least one.
    pub(super) fn fewest_on_a_page(&self) -> usize {
        self.page_sizes.iter().copied().min().unwrap_or(1).max(1)
    }
}

impl Stored {
    /// The newest state that has begun at a moment. None before the task shows up.
    pub(super) fn version_at(&self, moment: Moment) -> Option<usize> {
        self.versions.iter().rposition(|(from, _)| *from <= moment)
    }

    /// Whether EC2 lists the task on a replica that is as of this moment.
    pub(super) fn is_listed_at(&self, moment: Moment) -> bool {
        let vanished = self.vanishes.is_some_and(|vanishes| vanishes <= moment);
        self.shows <= moment && !vanished && !self.is_forgotten_at(moment)
    }

    /// Whether the task is older than EC2 lists any.
    pub(super) fn is_forgotten_at(&self, moment: Moment) -> bool {
        self.key.start_time.0 + LISTED_FOR <= ec2_time(moment)
    }

    /// The state as of a moment at which the task is listed.
    pub(super) fn state_at(&self, moment: Moment) -> &StoreImageTask {
        let version = self.version_at(moment).unwrap_or(0);
        &self.versions[version].1
    }

    fn order(&self) -> (Reverse<SystemTime>, usize) {
        (self.key.start_time, self.rank)
    }
}

impl Attempt {
    /// The answer, if it arrived.
    pub(super) fn answer(&self) -> Option<&Answer> {
        self.ended?;
        self.outcome.as_ref()?.as_ref().ok()
    }

    /// The failure, if it arrived.
    pub(super) fn error(&self) -> Option<&UpstreamError> {
        self.ended?;
        self.outcome.as_ref()?.as_ref().err()
    }

    /// Whether it ran at a moment.
    pub(super) fn runs_at(&self, moment: Moment) -> bool {
        self.called <= moment && self.ended.is_none_or(|ended| ended >= moment)
    }
}

impl Ec2 {
    pub(super) fn new(world: World) -> Shared {
        Arc::new(Mutex::new(Self {
            begin: Instant::now(),
            world,
            tasks: Vec::new(),
            refused: Vec::new(),
            attempts: Vec::new(),
            faults: VecDeque::new(),
            slow: VecDeque::new(),
            omissions: VecDeque::new(),
            omitted: Vec::new(),
            starved: Vec::new(),
            tokens: Vec::new(),
            expired: 0,
            pages: 0,
            full_at: Duration::ZERO,
        }))
    }

    /// The moment of an instant.
    pub(super) fn moment(&self, instant: Instant) -> Moment {
        instant.saturating_duration_since(self.begin)
    }

    pub(super) fn now(&self) -> Moment {
        self.moment(Instant::now())
    }

    /// A task begins; its states are given with the time that each begins after it shows up.
    pub(super) fn store(&mut self, shows: Moment, states: Vec<(Duration, StoreImageTask)>) {
        let Some((_, first)) = states.first() else { return };
        let key = first.key.clone();
        if self.stored(&key).is_some() {
            return;
        }
        let number = self.tasks.len();
        // EC2 promises no order among tasks that start at the same time.
        let rank = (number * 7919 % 1009) * 10_000 + number;
        let mut versions = Vec::new();
        for (after, task) in states {
            versions.push((shows + after, task));
        }
        self.tasks.push(Stored { key, shows, vanishes: None, rank, versions });
    }

    /// The most tasks that started together.
    pub(super) fn most_at_once(&self) -> usize {
        let start = |task: &Stored| task.key.start_time;
        let together = |task| self.tasks.iter().filter(|other| start(other) == start(task)).count();
        self.tasks.iter().map(together).max().unwrap_or(0)
    }

    /// A task by its key.
    pub(super) fn stored(&self, key: &TaskKey) -> Option<&Stored> {
        self.tasks.iter().find(|task| task.key == *key)
    }

    /// From now on EC2 refuses to look an image up.
    pub(super) fn refuse(&mut self, image: ImageId, code: &'static str) {
        let from = self.now();
        self.refused.push(Refused { image, code, from, until: None });
    }

    /// From now on EC2 looks an image up again.
    pub(super) fn accept(&mut self, image: ImageId) {
        let now = self.now();
        for refused in &mut self.refused {
            if refused.image == image && refused.until.is_none() {
                refused.until = Some(now);
            }
        }
    }

    /// EC2 no longer takes the tokens that it gave so far.
    pub(super) fn expire_tokens(&mut self) {
        self.expired = self.tokens.len();
    }

    /// Begins a call: its number and how long it takes.
    fn begin(&mut self, target: DescribeTarget) -> (usize, Duration) {
        let number = self.attempts.len();
        let turn = number % self.world.latencies.len();
        let latency = self.slow.pop_front().unwrap_or(self.world.latencies[turn]);
        let started = self.now();
        let attempt = Attempt { target, called: started, started, ended: None, outcome: None };
        self.attempts.push(attempt);
        (number, Duration::from_millis(latency))
    }

    /// The attempts of a call failed so far, and another one starts.
    fn retry(&mut self, number: usize) {
        self.attempts[number].started = self.now();
    }

    /// EC2 reads what it answers.
    fn read(&mut self, number: usize) {
        let outcome = self.describe(number);
        self.attempts[number].outcome = Some(outcome);
    }

    /// The answer arrives.
    fn end(&mut self, number: usize) -> Result<DescribeResponse, UpstreamError> {
        let now = self.now();
        let attempt = &mut self.attempts[number];
        attempt.ended = Some(now);
        let outcome = attempt.outcome.clone().expect("EC2 has read what it answers");
        outcome.map(DescribeResponse::Tasks)
    }

    fn describe(&mut self, number: usize) -> Result<Answer, UpstreamError> {
        if let Some(fault) = self.faults.pop_front() {
            return Err(fault.error(number));
        }
        let lag = self.world.lags[number % self.world.lags.len()];
        let as_of = self.now().saturating_sub(Duration::from_millis(lag));
        match self.attempts[number].target.clone() {
            DescribeTarget::Images(images) => self.look_up(number, &images, as_of),
            DescribeTarget::Listing { filter, next } => {
                self.list(number, &filter, next.as_ref(), as_of)
            }
        }
    }

    fn look_up(
        &self,
        number: usize,
        images: &[ImageId],
        as_of: Moment,
    ) -> Result<Answer, UpstreamError> {
        let mut at_fault = Vec::new();
        for image in images {
            at_fault.extend(self.refusal_at(image, self.now()));
        }
        if let Some(first) = at_fault.first().copied() {
            // An error has one code, and names images that it is about.
            at_fault.retain(|refused| refused.code == first.code);
            let named = match self.world.naming {
                Naming::None => &[],
                Naming::First => &at_fault[..1],
                Naming::All => &at_fault[..],
            };
            let names: Vec<_> = named.iter().map(|refused| refused.image.to_string()).collect();
            let message =
                format!("The image ids '[{}]' are refused (call {number})", names.join(", "));
            return Err(refusal(first.code, &message));
        }
        let mut tasks = Vec::new();
        for task in self.view(as_of) {
            let found: &StoreImageTask = task.state_at(as_of);
            let image = found.key.image_id;
            let has_newer = tasks.iter().any(|newer: &StoreImageTask| newer.key.image_id == image);
            if images.contains(&image) && !has_newer {
                tasks.push(found.clone());
            }
        }
        Ok(Answer { tasks, next: None })
    }

    /// Why EC2 refuses to look an image up at a moment.
    pub(super) fn refusal_at(&self, image: &ImageId, moment: Moment) -> Option<&Refused> {
        self.refused.iter().find(|refused| {
            refused.image == *image
                && refused.from <= moment
                && refused.until.is_none_or(|until| until > moment)
        })
    }

    fn list(
        &mut self,
        number: usize,
        filter: &ListingFilter,
        next: Option<&NextToken>,
        as_of: Moment,
    ) -> Result<Answer, UpstreamError> {
        let token = match next {
            Some(next) => Some(self.taken(number, filter, next)?),
            None => None,
        };
        let place = token.as_ref().map(|token| token.place.clone());
        let passing: Vec<_> = self
            .view(as_of)
            .into_iter()
            .filter(|task| filter.matches(task.state_at(as_of)))
            .collect();
        let begins = match &place {
            None => 0,
            Some(Place::Offset(offset)) => (*offset).min(passing.len()),
            Some(Place::After(start, rank)) => {
                passing.partition_point(|task| task.order() <= (*start, *rank))
            }
            Some(Place::At(start, rank)) => {
                passing.partition_point(|task| task.order() < (*start, *rank))
            }
        };
        let size = self.world.page_sizes[self.pages % self.world.page_sizes.len()];
        let ends = (begins + size).min(passing.len());
        let mut tasks: Vec<_> =
            passing[begins..ends].iter().map(|task| task.state_at(as_of).clone()).collect();
        let goes_on =
            ends < passing.len() || (self.world.token_at_end && size > 0 && ends > begins);
        let last = ends.checked_sub(1).map(|last| passing[last].order());
        let first = passing.first().map(|task| task.order());
        self.pages += 1;
        self.omit(number, &mut tasks);
        if self.world.unsorted {
            tasks.sort_by_key(|task| {
                (task.key.image_id.to_string().chars().rev().collect::<String>(), task.key.clone())
            });
        }
        let place = match (self.world.tokens, last, first) {
            (Tokens::Offsets, _, _) | (_, None, None) => Place::Offset(ends),
            (_, Some((start, rank)), _) => Place::After(start, rank),
            (_, None, Some((start, rank))) => Place::At(start, rank),
        };
        let page = token.as_ref().map_or(1, |token| token.page + 1);
        let next = match (self.world.tokens, next) {
            _ if !goes_on => None,
            (Tokens::Repeated, Some(same)) => Some(same.clone()),
            _ => Some(self.token(filter, place, page)),
        };
        Ok(Answer { tasks, next })
    }

    /// What a token stands for, unless it is refused.
    fn taken(
        &self,
        number: usize,
        filter: &ListingFilter,
        next: &NextToken,
    ) -> Result<Token, UpstreamError> {
        let place: usize = next.0.parse().expect("a token of this EC2");
        let token = self.tokens[place].clone();
        assert_eq!(token.filter, *filter, "a token goes with the filter that it was given for");
        let refused = match self.world.tokens {
            Tokens::RefusedFrom(page) => token.page >= page,
            Tokens::Positions | Tokens::Offsets | Tokens::Repeated => false,
        };
        if refused || place < self.expired {
            let message = format!("The token is not taken (call {number})");
            return Err(refusal(self.world.token_code, &message));
        }
        Ok(token)
    }

    fn token(&mut self, filter: &ListingFilter, place: Place, page: usize) -> NextToken {
        let name = self.tokens.len().to_string();
        self.tokens.push(Token { filter: filter.clone(), place, page });
        NextToken(name.into())
    }

    /// Leaves an unfinished task out of an answer that should have it.
    fn omit(&mut self, call: usize, tasks: &mut Vec<StoreImageTask>) {
        let Some(nth) = self.omissions.pop_front() else { return };
        let mut unfinished = Vec::new();
        for (place, task) in tasks.iter().enumerate() {
            if !task.state.is_terminal() {
                unfinished.push(place);
            }
        }
        if !unfinished.is_empty() {
            let task = tasks.remove(unfinished[nth % unfinished.len()]);
            self.omitted.push(Omission { at: self.now(), call, key: task.key });
        }
    }

    /// The tasks that a replica lists, in EC2's order.
    pub(super) fn view(&self, as_of: Moment) -> Vec<&Stored> {
        let mut view: Vec<_> = self.tasks.iter().filter(|task| task.is_listed_at(as_of)).collect();
        view.sort_by_key(|task| task.order());
        view
    }

    /// Takes a call from the budget, or says how long it takes until there is one.
    fn admit(&mut self) -> Result<(), Duration> {
        let Some(Budget { burst, every }) = self.world.budget else { return Ok(()) };
        let now = self.now();
        let every = Duration::from_millis(every);
        let full_at = self.full_at.max(now) + every;
        match full_at.checked_sub(now + every * burst) {
            None | Some(Duration::ZERO) => {
                self.full_at = full_at;
                Ok(())
            }
            Some(wait) => Err(wait),
        }
    }

    /// Other tools spend all calls that the budget grants.
    pub(super) fn spend_budget(&mut self) {
        if let Some(Budget { burst, every }) = self.world.budget {
            self.full_at = self.full_at.max(self.now() + Duration::from_millis(every) * burst);
        }
    }

    fn give_back(&mut self) {
        if let Some(Budget { every, .. }) = self.world.budget {
            self.full_at = self.full_at.saturating_sub(Duration::from_millis(every));
        }
    }
}

impl Fault {
    fn error(self, number: usize) -> UpstreamError {
        let code = match self {
            Self::Denied => "UnauthorizedOperation",
            Self::Unavailable => "InternalError",
            Self::Throttled => "RequestLimitExceeded",
            Self::Malformed => "MalformedAnswer",
            Self::Invalid => "InvalidParameterValue",
        };
        refusal(code, &format!("fault (call {number})"))
    }
}

/// An error of EC2's with the kind that the gateway gives to its code.
fn refusal(code: &str, message: &str) -> UpstreamError {
    let kind = match code {
        "UnauthorizedOperation" => ErrorKind::Denied,
        "AuthFailure" => ErrorKind::Credentials,
        "InternalError" => ErrorKind::Unavailable,
        "RequestLimitExceeded" => ErrorKind::Throttled,
        "MalformedAnswer" => ErrorKind::MalformedAnswer,
        "InvalidAMIID.NotFound" | "InvalidAMIID.Unavailable" => ErrorKind::NotFound,
        _ => ErrorKind::InvalidRequest,
    };
    let (code, message) = (code.into(), message.into());
    UpstreamError { kind, code, message, cause: None, request_id: None, retry_after: None }
}

/// The way to EC2: waits for the budget, and keeps the journal.
pub(super) struct Endpoint {
    ec2: Shared,
    state: Admission,
}

enum Admission {
    Idle,
    Waiting { sleep: Pin<Box<Sleep>>, entry: usize },
    Admitted,
}

impl Endpoint {
    pub(super) fn new(ec2: &Shared) -> Self {
        Self { ec2: ec2.clone(), state: Admission::Idle }
    }
}

impl Clone for Endpoint {
    fn clone(&self) -> Self {
        Self::new(&self.ec2)
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        match self.state {
            Admission::Admitted => lock(&self.ec2).give_back(),
            Admission::Waiting { entry, .. } => {
                let mut ec2 = lock(&self.ec2);
                let now = ec2.now();
                ec2.starved[entry].1 = Some(now);
            }
            Admission::Idle => {}
        }
    }
}

impl Service<DescribeRequest> for Endpoint {
    type Response = DescribeResponse;
    type Error = UpstreamError;
    type Future = BoxFuture<'static, Result<DescribeResponse, UpstreamError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), UpstreamError>> {
        loop {
            match &mut self.state {
                Admission::Admitted => return Poll::Ready(Ok(())),
                Admission::Waiting { sleep, entry } => {
                    ready!(sleep.as_mut().poll(context));
                    let mut ec2 = lock(&self.ec2);
                    let now = ec2.now();
                    ec2.starved[*entry].1 = Some(now);
                    drop(ec2);
                    self.state = Admission::Idle;
                }
                Admission::Idle => {
                    let mut ec2 = lock(&self.ec2);
                    let admitted = ec2.admit();
                    let next = match admitted {
                        Ok(()) => Admission::Admitted,
                        Err(wait) => {
                            let now = ec2.now();
                            ec2.starved.push((now, None));
                            let entry = ec2.starved.len() - 1;
                            Admission::Waiting { sleep: Box::pin(sleep(wait)), entry }
                        }
                    };
                    drop(ec2);
                    self.state = next;
                }
            }
        }
    }

    fn call(&mut self, request: DescribeRequest) -> Self::Future {
        self.state = Admission::Idle;
        let ec2 = self.ec2.clone();
        // The call starts now, also if its future is polled later.
        let (number, latency) = lock(&ec2).begin(request.target.clone());
        let World { reads_at, retries, .. } = lock(&ec2).world.clone();
        let retried_after = retries[number % retries.len()];
        async move {
            if number >= MOST_CALLS {
                std::future::pending::<()>().await;
            }
            request.attempt.start();
            if retried_after > 0 {
                sleep(Duration::from_millis(retried_after)).await;
                request.attempt.start();
                lock(&ec2).retry(number);
            }
            let before = latency * u32::try_from(reads_at).unwrap_or(0) / 100;
            if before > Duration::ZERO {
                sleep(before).await;
            }
            lock(&ec2).read(number);
            sleep(latency.saturating_sub(before)).await;
            lock(&ec2).end(number)
        }
        .boxed()
    }
}
