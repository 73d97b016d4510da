//! The whole cache of a scope against a model of EC2: random crowds that arrive, tolerate staleness
//! and give up, calls that take time and fail, replicas that lag.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use proptest::prelude::*;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tower::util::BoxCloneSyncService;

use super::{
    Cache, Settings,
    outcome::{CacheError, Found, Outcome},
    properties::{Ask, FEW, Step, Story, ask, life, not_turned_back},
    scope::ScopeCache,
};
use crate::domain::{
    AccountName, DescribeRequest, DescribeResponse, ErrorKind, Question, Region, Scope,
    UpstreamError,
};

/// How long a call to EC2 takes.
const LATENCY: Duration = Duration::from_millis(500);

/// What happens, one after the other.
#[derive(Clone, Debug)]
enum Event {
    /// Time passes, tasks start, tokens expire.
    Life(Step),
    /// So many callers arrive. None of them waits for longer than their patience.
    Crowd { question: Ask, callers: usize, max_staleness: Option<u64>, patience: Option<u64> },
    /// The next calls fail.
    Fault { transient: bool, calls: usize },
}

fn event() -> impl Strategy<Value = Event> {
    let some_seconds = || proptest::option::of(0..9_u64);
    prop_oneof![
        5 => life().prop_map(Event::Life),
        5 => (ask(), 1..6_usize, some_seconds(), some_seconds()).prop_map(
            |(question, callers, max_staleness, patience)| Event::Crowd {
                question, callers, max_staleness, patience
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
    calls: usize,
    failed: usize,
}

type Shared = Arc<Mutex<Ec2>>;

impl Ec2 {
    fn answer(&mut self, question: &Question) -> Result<DescribeResponse, UpstreamError> {
        self.calls += 1;
        if let Some(transient) = self.faults.pop() {
            self.failed += 1;
            let kind = if transient { ErrorKind::Unavailable } else { ErrorKind::Denied };
            return Err(refusal(kind, "Fault"));
        }
        match self.story.ec2.answer(question, self.lag) {
            Some(answer) => Ok(DescribeResponse::Tasks(answer)),
            None => Err(refusal(ErrorKind::InvalidRequest, "InvalidNextToken")),
        }
    }
}

fn refusal(kind: ErrorKind, code: &str) -> UpstreamError {
    let (code, message) = (code.into(), "on purpose".into());
    UpstreamError { kind, code, message, request_id: None, retry_after: None }
}

fn scope_of(ec2: &Shared) -> (Cache, Arc<ScopeCache>) {
    let ec2 = ec2.clone();
    let upstream = tower::service_fn(move |request: DescribeRequest| {
        // EC2's state is that of the call's arrival.
        let answer = ec2.lock().unwrap_or_else(PoisonError::into_inner).answer(&request.question);
        async move {
            sleep(LATENCY).await;
            answer
        }
    });
    let connect = Arc::new(move |_: &Scope| BoxCloneSyncService::new(upstream.clone()));
    let cache = Cache::new(Settings::default(), connect);
    let region = Region::parse("us-east-1").expect("valid");
    let scope = cache.scope(&Scope { account: AccountName::default(), region }).expect("room");
    (cache, scope)
}

/// How a caller fared.
struct Told {
    arrived: Instant,
    max_staleness: Option<u64>,
    result: Result<Found, CacheError>,
}

impl Told {
    /// No answer is older than allowed.
    fn is_fresh(&self) -> bool {
        let Ok(found) = &self.result else { return true };
        let settings = Settings::default();
        let allowed = match (&found.outcome, self.max_staleness) {
            (_, Some(seconds)) => Duration::from_secs(seconds),
            (Outcome::StaleWhileRevalidate, None) => settings.ttl + settings.stale_while_revalidate,
            (Outcome::StaleIfError(_), None) => settings.ttl + settings.stale_if_error,
            (Outcome::Hit | Outcome::Fetched { .. }, None) => settings.ttl,
        };
        found.as_of().is_none_or(|call| call.instant + allowed >= self.arrived)
    }
}

async fn live(events: Vec<Event>, lag: usize) -> Result<(), TestCaseError> {
    let story = Story::new(FEW);
    let ec2 = Arc::new(Mutex::new(Ec2 { story, lag, faults: Vec::new(), calls: 0, failed: 0 }));
    let (_cache, scope) = scope_of(&ec2);
    let lock = || ec2.lock().unwrap_or_else(PoisonError::into_inner);
    let mut crowd = JoinSet::new();
    let (mut callers_in_all, mut crowds, mut faults) = (0, 0, 0);
    let mut before = scope.subscribe().borrow().clone();
    for event in events {
        match event {
            Event::Life(Step::Wait { seconds, gain }) => {
                sleep(Duration::from_secs(seconds)).await;
                lock().story.wait(seconds, gain);
            }
            Event::Life(step) => lock().story.live(&step)?,
            Event::Fault { transient, calls } => {
                faults += calls;
                lock().faults.extend(std::iter::repeat_n(transient, calls));
            }
            Event::Crowd { question, callers, max_staleness, patience } => {
                let ledger = scope.subscribe().borrow().clone();
                let Some(need) = Story::need_by(&ledger, &question) else { continue };
                crowds += 1;
                callers_in_all += callers;
                for _ in 0..callers {
                    let (scope, need) = (scope.clone(), need.clone());
                    crowd.spawn(async move {
                        let arrived = Instant::now();
                        let asked = scope.get(need, max_staleness.map(Duration::from_secs));
                        let patience = patience.map_or(Duration::MAX, Duration::from_secs);
                        let result = timeout(patience, asked).await.ok()?;
                        Some(Told { arrived, max_staleness, result })
                    });
                }
            }
        }
        let after = scope.subscribe().borrow().clone();
        for known in before.tasks_after(None) {
            let now = after.task(&known.key);
            prop_assert!(now.is_some_and(|now| not_turned_back(known, now)), "{known:?}");
        }
        before = after;
    }
    // Every need is met in the end, or was refused by a call that failed.
    while let Some(told) =
        timeout(Duration::from_hours(1), crowd.join_next()).await.expect("nobody waits for ever")
    {
        let Some(told) = told.expect("no caller panics") else { continue };
        prop_assert!(told.is_fresh(), "too old: {:?} for {:?}", told.result, told.max_staleness);
        if let Err(error) = told.result {
            prop_assert!(faults > 0, "{error:?}, and no call failed");
        }
    }
    // The refreshes that nobody waits for end, too.
    sleep(Duration::from_hours(1)).await;
    let (calls, failed, each) = {
        let ec2 = lock();
        (ec2.calls, ec2.failed, ec2.story.bound())
    };
    prop_assert!(
        calls <= crowds * each + failed,
        "{calls} calls for {crowds} crowds of {callers_in_all} callers, {each} each"
    );
    // No error is stored: once EC2 is well, everything is answered.
    lock().faults.clear();
    let all = Story::need_by(&before, &Ask::everything()).expect("a need");
    let healed = scope.get(all, Some(Duration::ZERO)).await;
    prop_assert!(healed.is_ok(), "{healed:?}");
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, rng_seed: proptest::test_runner::RngSeed::Fixed(1), failure_persistence: None, ..ProptestConfig::default() })]

    /// DESIGN §9.2, 9.3 and 9.9, for random crowds
    #[test]
    fn whoever_waits_is_answered_from_a_call_that_is_new_enough_and_no_error_is_stored(
        lags in any::<bool>(),
        events in proptest::collection::vec(event(), 1..40),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime");
        runtime.block_on(live(events, usize::from(lags)))?;
    }
}
