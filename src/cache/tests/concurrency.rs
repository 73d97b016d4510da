//! The whole cache of a scope against a model of EC2: random crowds that arrive, tolerate staleness
//! and give up, calls that take time and fail, replicas that lag.

use std::{
    future::pending,
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    thread,
    time::Duration,
};

use futures_util::FutureExt as _;
use proptest::prelude::*;
use tokio::{
    runtime::Builder,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tower::util::BoxCloneSyncService;

use super::{
    pure::{Ask, FEW, Step, Story, ask, images_query, life, listing, not_turned_back},
    support::{Clock, image_id},
};
use crate::cache::{
    Cache, Settings, Snapshot,
    outcome::{CacheError, CacheRead, Outcome},
    query::Query,
    scope::ScopeCache,
};
use crate::domain::{
    AccountName, DescribeRequest, DescribeResponse, DescribeTarget, ErrorKind, Region, Scope,
    TaskStateKind, UpstreamError,
};

/// How long a call to EC2 takes.
const LATENCY: Duration = Duration::from_millis(500);

/// What happens, one after the other.
#[derive(Clone, Debug)]
enum Event {
    /// Time passes, tasks start, tokens expire.
    Life(Step),
    /// So many callers arrive. None of them waits for longer than their patience.
    Crowd { target: Ask, callers: usize, max_staleness: Option<u64>, patience: Option<u64> },
    /// The next calls fail.
    Fault { transient: bool, calls: usize },
}

fn event() -> impl Strategy<Value = Event> {
    let some_seconds = || proptest::option::of(0..9_u64);
    prop_oneof![
        5 => life().prop_map(Event::Life),
        5 => (ask(), 1..6_usize, some_seconds(), some_seconds()).prop_map(
            |(target, callers, max_staleness, patience)| Event::Crowd {
                target, callers, max_staleness, patience
            }
        ),
        1 => (any::<bool>(), 1..3_usize)
            .prop_map(|(transient, calls)| Event::Fault { transient, calls }),
    ]
}

/// EC2 behind a lock, with how it will fail.
struct Ec2 {
    story: Story,
    lag: usize,
    faults: Vec<bool>,
    asked: Vec<DescribeTarget>,
    failed: usize,
}

type Shared = Arc<Mutex<Ec2>>;

impl Ec2 {
    fn answer(&mut self, target: &DescribeTarget) -> Result<DescribeResponse, UpstreamError> {
        self.asked.push(target.clone());
        if let Some(transient) = self.faults.pop() {
            self.failed += 1;
            let kind = if transient { ErrorKind::Unavailable } else { ErrorKind::Denied };
            return Err(refusal(kind, "Fault"));
        }
        match self.story.ec2.answer(target, self.lag) {
            Some(answer) => Ok(DescribeResponse::Tasks(answer)),
            None => Err(refusal(ErrorKind::InvalidRequest, "InvalidNextToken")),
        }
    }
}

fn refusal(kind: ErrorKind, code: &str) -> UpstreamError {
    let (code, message) = (code.into(), "on purpose".into());
    UpstreamError { kind, code, message, cause: None, request_id: None, retry_after: None }
}

fn scope_of(ec2: &Shared, settings: Settings) -> (Cache, Arc<ScopeCache>) {
    let ec2 = ec2.clone();
    let upstream = tower::service_fn(move |request: DescribeRequest| {
        // EC2's state is that of the call's arrival.
        let answer = ec2.lock().unwrap_or_else(PoisonError::into_inner).answer(&request.target);
        async move {
            sleep(LATENCY).await;
            answer
        }
    });
    let connect = Arc::new(move |_: &Scope| BoxCloneSyncService::new(upstream.clone()));
    let cache = Cache::new(settings, connect);
    let region = Region::parse("us-east-1").expect("valid");
    let scope = cache.scope(&Scope { account: AccountName::default(), region });
    (cache, scope)
}

/// How a caller fared.
struct Told {
    arrived: Instant,
    max_staleness: Option<u64>,
    result: Result<CacheRead, CacheError>,
}

impl Told {
    /// No answer is older than allowed.
    fn check_freshness(&self) -> Result<(), TestCaseError> {
        let Ok(found) = &self.result else { return Ok(()) };
        let settings = Settings::default();
        let allowed = match (&found.outcome, self.max_staleness) {
            (_, Some(seconds)) => Duration::from_secs(seconds),
            (Outcome::StaleWhileRevalidate, None) => settings.ttl + settings.stale_while_revalidate,
            (Outcome::StaleIfError(_), None) => settings.ttl + settings.stale_if_error,
            (Outcome::Hit | Outcome::Fetched { .. }, None) => settings.ttl,
        };
        let is_fresh = found.as_of().is_none_or(|call| call.instant + allowed >= self.arrived);
        prop_assert!(is_fresh, "too old: {:?} for {:?}", self.result, self.max_staleness);
        Ok(())
    }
}

/// A scope's cache, EC2 behind it, and all who ask.
struct Life {
    ec2: Shared,
    scope: Arc<ScopeCache>,
    // Keeps the scope.
    _cache: Cache,
    asking: JoinSet<Option<Told>>,
    /// How many crowds came, and how many calls were told to fail.
    crowds: usize,
    faults: usize,
}

impl Life {
    fn new(lag: usize, settings: Settings) -> Self {
        let story = Story::by(Clock::beginning_now(), FEW);
        let ec2 = Arc::new(Mutex::new(Ec2 {
            story,
            lag,
            faults: Vec::new(),
            asked: Vec::new(),
            failed: 0,
        }));
        let (cache, scope) = scope_of(&ec2, settings);
        let asking = JoinSet::new();
        Self { ec2, scope, _cache: cache, asking, crowds: 0, faults: 0 }
    }

    fn ec2(&self) -> MutexGuard<'_, Ec2> {
        self.ec2.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn snapshot(&self) -> Arc<Snapshot> {
        self.scope.subscribe().borrow().clone()
    }

    async fn live(&mut self, event: Event) -> Result<(), TestCaseError> {
        match event {
            Event::Life(Step::Wait { seconds, gain }) => {
                sleep(Duration::from_secs(seconds)).await;
                self.ec2().story.wait(seconds, gain);
            }
            Event::Life(step) => {
                // A walk whose tokens are refused twice fails.
                self.faults += usize::from(matches!(step, Step::ExpireTokens));
                self.ec2().story.live(&step)?;
            }
            Event::Fault { transient, calls } => {
                self.faults += calls;
                self.ec2().faults.extend(std::iter::repeat_n(transient, calls));
            }
            Event::Crowd { target, callers, max_staleness, patience } => {
                let Some(query) = Story::query_by(&self.snapshot(), &target) else { return Ok(()) };
                self.crowds += 1;
                for _ in 0..callers {
                    let (scope, query) = (self.scope.clone(), query.clone());
                    self.asking.spawn(async move {
                        let arrived = Instant::now();
                        let asked = scope.get(query, max_staleness.map(Duration::from_secs));
                        let patience = patience.map_or(Duration::MAX, Duration::from_secs);
                        let result = timeout(patience, asked).await.ok()?;
                        Some(Told { arrived, max_staleness, result })
                    });
                }
            }
        }
        Ok(())
    }

    fn waits_for_ever(&self) -> TestCaseError {
        let asked = &self.ec2().asked;
        let last = &asked[asked.len().saturating_sub(10)..];
        let last: Vec<_> = last.iter().map(|target| format!("{target:?}")).collect();
        TestCaseError::fail(format!(
            "somebody waits for ever; the last of {} questions: {last:#?}",
            asked.len()
        ))
    }

    /// How all fared who did not give up.
    async fn end(&mut self) -> Result<Vec<Told>, TestCaseError> {
        let mut all = Vec::new();
        while let Some(observed_at) = timeout(Duration::from_hours(1), self.asking.join_next())
            .await
            .map_err(|_| self.waits_for_ever())?
        {
            all.extend(observed_at.expect("no caller panics"));
        }
        // The refreshes that nobody waits for end, too.
        sleep(Duration::from_hours(1)).await;
        Ok(all)
    }
}

/// Every need is met in the end, from calls that are new enough, or was refused by a call that failed.
async fn all_are_answered(events: Vec<Event>, lag: usize) -> Result<(), TestCaseError> {
    let mut life = Life::new(lag, Settings::default());
    let mut before = life.snapshot();
    for event in events {
        life.live(event).await?;
        let after = life.snapshot();
        for known in before.tasks_after(None) {
            let now = after.task(&known.key);
            prop_assert!(now.is_some_and(|now| not_turned_back(known, now)), "{known:?}");
        }
        before = after;
    }
    for observed_at in life.end().await? {
        observed_at.check_freshness()?;
        if let Err(error) = observed_at.result {
            prop_assert!(life.faults > 0, "{error:?}, and no call failed");
        }
    }
    let (calls, failed, each) = {
        let ec2 = life.ec2();
        (ec2.asked.len(), ec2.failed, ec2.story.bound())
    };
    let most = life.crowds * each + failed;
    prop_assert!(calls <= most, "{calls} calls for {} crowds, at most {most}", life.crowds);
    // No error is stored: once EC2 is well, everything is answered.
    life.ec2().faults.clear();
    let all = Story::query_by(&before, &Ask::everything()).expect("a need");
    let healed = life.scope.get(all, Some(Duration::ZERO)).await;
    prop_assert!(healed.is_ok(), "{healed:?}");
    Ok(())
}

/// Bounds that any crowd is over now and then.
fn narrow() -> Settings {
    Settings { max_waiting: 6, max_queries: 3, max_tasks: 15, ..Settings::default() }
}

/// What is over a bound is refused, and whoever was let in is answered.
async fn bounds_hold(events: Vec<Event>) -> Result<(), TestCaseError> {
    let mut life = Life::new(0, narrow());
    for event in events {
        life.live(event).await?;
        tokio::task::yield_now().await;
        let (waiting, queries) = life.scope.waiting();
        prop_assert!(waiting <= narrow().max_waiting && queries <= narrow().max_queries);
        let snapshot = life.snapshot();
        // Unfinished tasks are never dropped, nor those that hide them; EC2 bounds them. Nor are the
        // tasks of the first page.
        let most = narrow().max_tasks.max(2 * snapshot.unfinished.len() + FEW);
        prop_assert!(snapshot.len() <= most, "{} tasks, {most} allowed", snapshot.len());
    }
    for observed_at in life.end().await? {
        observed_at.check_freshness()?;
        match observed_at.result {
            Ok(_) | Err(CacheError::TooManyWaiting | CacheError::TooManyTasks) => {}
            Err(error) => prop_assert!(life.faults > 0, "{error:?}, and no call failed"),
        }
    }
    Ok(())
}

/// A caller asks while others ask something again and again, and want nothing older than their
/// question: three times in each call.
async fn is_answered_while_others_ask(wanted: Query, hot: Query) -> Result<(), TestCaseError> {
    let mut life = Life::new(0, Settings::default());
    for round in 0..8 {
        let images = (0..8).map(|image| (2 * round + image % 2, image % 3 == 0)).collect();
        life.live(Event::Life(Step::Start { images, late: false })).await?;
        life.live(Event::Life(Step::Wait { seconds: 60, gain: 20 })).await?;
    }
    let scope = life.scope.clone();
    let others = tokio::spawn(async move {
        let mut asking = JoinSet::new();
        loop {
            let (scope, hot) = (scope.clone(), hot.clone());
            asking.spawn(async move { scope.get(hot, Some(Duration::ZERO)).await.map(|_| ()) });
            sleep(LATENCY / 3).await;
            while let Some(done) = asking.try_join_next() {
                done.expect("no caller panics").expect("no call fails");
            }
        }
    });
    sleep(10 * LATENCY).await;
    let answer = timeout(400 * LATENCY, life.scope.get(wanted.clone(), Some(Duration::ZERO))).await;
    others.abort();
    if answer.is_err() {
        return Err(life.waits_for_ever());
    }
    Ok(())
}

/// Queries have priorities, and none waits forever.
#[test]
fn none_waits_for_ever_while_others_keep_asking() {
    let everything = listing(&[], None, 1000);
    let top = listing(&[], None, 1);
    let failed = |count| listing(&[TaskStateKind::Failed], None, count);
    let images = |from: u64| images_query((from..from + 45).map(image_id), None);
    let one = images_query([image_id(900)], None);
    for (wanted, hot) in [
        (everything.clone(), everything.clone()),
        (everything, top.clone()),
        (images(100), images(100)),
        (images(100), top.clone()),
        (one, top.clone()),
        (failed(1000), failed(1)),
        (failed(1000), top.clone()),
        (top.clone(), failed(1000)),
        (top, images(100)),
    ] {
        let asked = format!("{wanted:?} beside {hot:?}");
        run(is_answered_while_others_ask(wanted, hot)).expect(&asked);
    }
}

fn run(test: impl Future<Output = Result<(), TestCaseError>>) -> Result<(), TestCaseError> {
    let mut paused = tokio::runtime::Builder::new_current_thread();
    paused.enable_time().start_paused(true).build().expect("a runtime").block_on(test)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, rng_seed: proptest::test_runner::RngSeed::Fixed(1), failure_persistence: None, ..ProptestConfig::default() })]

    /// Invariants 2, 3 and 9 (docs/invariants.md), for random callers
    #[test]
    fn whoever_waits_is_answered_from_a_call_that_is_new_enough_and_no_error_is_stored(
        lags in any::<bool>(),
        events in proptest::collection::vec(event(), 1..40),
    ) {
        run(all_are_answered(events, usize::from(lags)))?;
    }

    /// Invariant 7 (docs/invariants.md): bounds
    #[test]
    fn memory_is_bounded_whatever_the_clients_do(
        events in proptest::collection::vec(event(), 1..40),
    ) {
        run(bounds_hold(events))?;
    }
}

/// A runtime that shuts down drops what is spawned on it, at once. So the refresher is dropped while its
/// caller still starts it.
#[test]
fn a_query_does_not_block_a_runtime_that_shuts_down() {
    let runtime =
        Builder::new_multi_thread().worker_threads(2).enable_time().build().expect("runs");
    let (tell, told) = mpsc::channel();
    runtime.spawn(async move {
        let life = Life::new(0, Settings::default());
        tell.send("began").expect("read");
        while !tokio::spawn(pending::<()>()).is_finished() {
            thread::yield_now();
        }
        let answer = life.scope.get(images_query([image_id(1)], None), None).now_or_never();
        assert!(answer.is_none_or(|answer| answer.is_err()), "EC2 was not asked");
        tell.send("ended").expect("read");
    });
    assert_eq!(told.recv(), Ok("began"));
    runtime.shutdown_background();
    assert_eq!(told.recv_timeout(Duration::from_secs(10)), Ok("ended"));
}
