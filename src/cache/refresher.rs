//! The keeper: one task per scope, alive while something is needed. It plans, makes one call,
//! merges the answer, tells whoever is satisfied, and begins again.

use std::{sync::Arc, task::Poll, time::Duration};

use tokio::time::{Instant, timeout};
use tower::{Service as _, ServiceExt as _};

use super::{
    outcome::{CacheError, StaleReason},
    plan::{Gap, PendingQuery, Plan, find_gap},
    scope::{Refusal, ScopeCache, State, WaitOutcome},
    snapshot::{Fetch, Snapshot},
    wait_queue::WaitQueue,
};
use crate::domain::{
    CallTime, DescribeRequest, DescribeResponse, ErrorKind, GatewayCode, ImageId, NextToken,
    Upstream, UpstreamError,
};

/// A token that EC2 refuses restarts the walk. Where it was given by the answer just before, and this
/// often in a row, it is EC2's answer.
const TOKENS_REFUSED_IN_A_ROW: u32 = 3;

/// Whoever takes an old answer does not wait for longer. An attempt of a call takes well under a second;
/// one that fails is made again as the call budget admits it, which may take a minute.
const SLOW: Duration = Duration::from_secs(2);

/// Starts a keeper unless there is one.
pub(super) fn spawn_if_idle(cache: &Arc<ScopeCache>, state: &mut State) {
    if !state.running {
        state.running = true;
        tokio::spawn(Refresher::new(cache.clone()).run());
    }
}

struct Refresher {
    cache: Arc<ScopeCache>,
    plan: Plan,
    tokens_refused: u32,
    /// The token that the newest answer gave.
    token: Option<NextToken>,
    /// Nothing was needed any more, and callers know it.
    finished: bool,
}

/// Where the keeper goes, also when it panics: who waits is told by the closing channel, and the
/// next to ask starts a new keeper on the same ledger.
impl Drop for Refresher {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        // A runtime that shuts down drops refreshers, too.
        if std::thread::panicking() {
            tracing::error!(
                scope = %self.cache.scope,
                "the refresher of a scope panicked; the next request starts a new one"
            );
        }
        let mut state = self.cache.state();
        state.running = false;
        state.serve_stale = None;
        state.queue = WaitQueue::default();
    }
}

impl Refresher {
    fn new(cache: Arc<ScopeCache>) -> Self {
        Self { cache, plan: Plan::default(), tokens_refused: 0, token: None, finished: false }
    }

    async fn run(mut self) {
        let mut upstream = self.cache.upstream.clone();
        // The plan is made when a call may start, not when the wait for it begins: what arrives
        // while the budget is spent is part of it.
        while self.has_pending_queries() {
            if let Err(error) = self.admission(&mut upstream).await {
                self.fail_where(None, &error, |_, _| true);
                continue;
            }
            let Some(fetch) = self.next_fetch() else { continue };
            let at = CallTime::now();
            let request = DescribeRequest { target: fetch.target(), dry_run: false };
            let mut asking = upstream.call(request);
            let answer = match timeout(SLOW, &mut asking).await {
                Ok(answer) => answer,
                Err(_) => self.serving_stale(StaleReason::Slow, asking).await,
            };
            self.settle(&fetch, answer, at);
        }
    }

    /// Whether anything is needed. If not, the keeper is retired under the same lock under which
    /// callers look for one.
    fn has_pending_queries(&mut self) -> bool {
        let snapshot = self.snapshot();
        let mut state = self.cache.state();
        self.dismiss(&mut state, &snapshot);
        state.running = !state.queue.is_empty();
        self.finished = !state.running;
        state.running
    }

    /// Waits until the budget has a call for this scope.
    async fn admission(&self, upstream: &mut Upstream) -> Result<(), UpstreamError> {
        let mut ready = upstream.ready();
        if let Poll::Ready(ready) = futures_util::poll!(&mut ready) {
            return ready.map(|_| ());
        }
        self.serving_stale(StaleReason::BudgetSpent, ready).await.map(|_| ())
    }

    /// Whoever takes an old answer need not wait for this.
    async fn serving_stale<T>(&self, reason: StaleReason, work: impl Future<Output = T>) -> T {
        {
            let mut state = self.cache.state();
            state.serve_stale = Some(reason.clone());
            state.queue.serve_stale(|| WaitOutcome::Stale(reason.clone()));
        }
        let done = work.await;
        self.cache.state().serve_stale = None;
        done
    }

    fn next_fetch(&mut self) -> Option<Fetch> {
        let snapshot = self.snapshot();
        let mut state = self.cache.state();
        self.dismiss(&mut state, &snapshot);
        let pending_queries = state.queue.pending_queries();
        let fetch = self.plan.next(&snapshot, &pending_queries);
        if fetch.is_none() && !pending_queries.is_empty() {
            // A fault in the plan must not become a keeper that turns in circles.
            tracing::error!(scope = %self.cache.scope, "the plan has no call for {pending_queries:?}");
            state.queue.fail(None, |_| true, || WaitOutcome::Refused(CacheError::RefresherLost));
        }
        fetch
    }

    /// Tells whoever is satisfied, forgets whoever has gone away, and refuses what there is no room
    /// for.
    fn dismiss(&self, state: &mut State, snapshot: &Arc<Snapshot>) {
        state.queue.dismiss(
            |query| query.freshness(snapshot),
            || WaitOutcome::Satisfied(snapshot.clone()),
        );
        if snapshot.len() >= self.cache.settings.max_tasks {
            let no_room = |pending_query: PendingQuery<'_>| {
                find_gap(snapshot, pending_query).is_some_and(|gap| gap.adds_tasks(snapshot))
            };
            state.queue.fail(None, no_room, || WaitOutcome::Refused(CacheError::TooManyTasks));
        }
    }

    fn settle(
        &mut self,
        fetch: &Fetch,
        answer: Result<DescribeResponse, UpstreamError>,
        at: CallTime,
    ) {
        match answer {
            Ok(DescribeResponse::Tasks(answer)) => {
                self.token.clone_from(&answer.next);
                if matches!(fetch, Fetch::Page { token: Some(_), .. }) {
                    self.tokens_refused = 0;
                }
                let snapshot = self.snapshot();
                let mut state = self.cache.state();
                self.plan.learn(fetch, &answer.tasks, &snapshot, &state.queue.pending_queries());
                drop(state);
                let snapshot = snapshot.merge(fetch, &answer, at);
                let most = self.cache.settings.max_tasks;
                self.publish(if snapshot.len() > most { snapshot.cut_to(most) } else { snapshot });
            }
            Ok(DescribeResponse::Permitted) => self.fail(fetch, at, &answered_as_dry_run()),
            Err(error) => {
                tracing::debug!(scope = %self.cache.scope, code = %error.code, "EC2 call failed: {error}");
                self.settle_error(fetch, &error, at);
            }
        }
    }

    fn settle_error(&mut self, fetch: &Fetch, error: &UpstreamError, at: CallTime) {
        match fetch {
            Fetch::Page { filter, token: Some(token), .. } if error.blames_the_token() => {
                self.publish(self.snapshot().forget_token(filter, token));
                self.tokens_refused += u32::from(self.token.as_ref() == Some(token));
                if self.tokens_refused >= TOKENS_REFUSED_IN_A_ROW {
                    self.tokens_refused = 0;
                    self.fail(fetch, at, error);
                }
            }
            Fetch::Images(images) if error.blames_an_image() => self.blame(images, error, at),
            _ => {
                if !error.kind.is_transient() {
                    self.remember(fetch, error, at);
                }
                self.fail(fetch, at, error);
            }
        }
    }

    /// EC2 said no: to everything, or to this question.
    fn remember(&self, fetch: &Fetch, error: &UpstreamError, at: CallTime) {
        let refusal = self.refusal(error, at);
        let mut state = self.cache.state();
        let refusals = &mut state.refusals;
        refusals.expire(Instant::now());
        match fetch {
            _ if concerns_everything(fetch, error) => refusals.scope = Some(refusal),
            Fetch::Page { filter, .. } => {
                refusals.listings.insert(filter.clone(), refusal);
            }
            Fetch::Images(images) => {
                refusals.images.extend(images.iter().map(|image| (*image, refusal.clone())));
            }
        }
    }

    /// EC2 refused a look-up for the sake of an image: those that it names are refused, the others
    /// are asked for again; where it names none, the set is split until the bad one stands alone.
    fn blame(&mut self, images: &[ImageId], error: &UpstreamError, at: CallTime) {
        let named: Vec<_> =
            images.iter().filter(|image| names(&error.message, image)).copied().collect();
        let refused = match (images, named.len()) {
            ([_], _) => images.to_vec(),
            (_, 0) => return self.plan.bisection.failed(images),
            _ => named,
        };
        let mut snapshot = (*self.snapshot()).clone();
        for image in &refused {
            snapshot = snapshot.merge_refusal(image, at);
        }
        self.publish(snapshot);
        let refusal = self.refusal(error, at);
        self.plan.bisection.refused(&refused);
        {
            let mut state = self.cache.state();
            state.refusals.expire(Instant::now());
            for image in &refused {
                state.refusals.images.insert(*image, refusal.clone());
            }
        }
        let asked = Fetch::Images(refused);
        self.fail_where(Some(at), error, |snapshot, gap| asked.advances(snapshot, gap));
    }

    /// Fails whoever this call was for. An error is an answer like any other: it counts for those
    /// whom an answer of the same call would have satisfied, and not for who came later.
    fn fail(&mut self, fetch: &Fetch, at: CallTime, error: &UpstreamError) {
        let everything = concerns_everything(fetch, error);
        if matches!(fetch, Fetch::Page { .. }) {
            self.plan.learn(fetch, &[], &self.snapshot(), &[]);
        }
        self.fail_where(Some(at), error, |snapshot, gap| {
            // Where a page was walked to for the sake of images, look-ups may still bring them.
            let has_other_ways =
                matches!((fetch, gap), (Fetch::Page { token: Some(_), .. }, Gap::Images { .. }));
            everything || (fetch.advances(snapshot, gap) && !has_other_ways)
        });
    }

    fn fail_where(
        &self,
        at: Option<CallTime>,
        error: &UpstreamError,
        concerned: impl Fn(&Snapshot, &Gap) -> bool,
    ) {
        let snapshot = self.snapshot();
        let concerned = |pending_query: PendingQuery<'_>| {
            find_gap(&snapshot, pending_query).is_some_and(|gap| concerned(&snapshot, &gap))
        };
        let until = at.map(|at| at.instant);
        self.cache.state().queue.fail(until, concerned, || WaitOutcome::Failed(error.clone()));
    }

    fn refusal(&self, error: &UpstreamError, at: CallTime) -> Refusal {
        let until = Instant::now() + self.cache.settings.refusal_ttl;
        Refusal { at, until, error: error.clone() }
    }

    fn snapshot(&self) -> Arc<Snapshot> {
        self.cache.snapshot.borrow().clone()
    }

    fn publish(&self, snapshot: Snapshot) {
        self.cache.snapshot.send_replace(Arc::new(snapshot));
    }
}

/// Whether a failure is the answer to all that could be asked: by its kind, or since without the
/// listing of all tasks nothing can be told.
fn concerns_everything(fetch: &Fetch, error: &UpstreamError) -> bool {
    error.kind.concerns_the_scope()
        || (!error.kind.is_transient()
            && matches!(fetch, Fetch::Page { filter, .. } if filter.is_empty()))
}

/// Whether EC2's message names an image, and not just one whose ID begins alike.
fn names(message: &str, image: &ImageId) -> bool {
    message
        .split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'))
        .any(|word| ImageId::parse(word).is_ok_and(|named| named == *image))
}

fn answered_as_dry_run() -> UpstreamError {
    UpstreamError {
        kind: ErrorKind::MalformedAnswer,
        code: GatewayCode::UnexpectedDryRun.into(),
        message: "EC2 answered as if to a dry run".into(),
        cause: None,
        request_id: None,
        retry_after: None,
    }
}
