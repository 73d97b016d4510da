//! The keeper: one task per scope, alive while something is needed. It plans, makes one call,
//! merges the answer, tells whoever is satisfied, and begins again.

use std::{sync::Arc, task::Poll, time::Duration};

use tokio::time::{Instant, timeout};
use tower::{Service as _, ServiceExt as _};

use super::{
    ledger::{Call, Ledger},
    open::Open,
    outcome::{CacheError, StaleReason},
    plan::{Demand, Lack, Plan, grows, lack, serves},
    scope::{Refusal, ScopeCache, State, Verdict},
};
use crate::domain::{
    CallTime, DescribeRequest, DescribeResponse, ErrorKind, ImageId, NextToken, Upstream,
    UpstreamError,
};

/// A token that EC2 refuses restarts the walk. Where it was given by the answer just before, and this
/// often in a row, it is EC2's answer.
const TOKENS_REFUSED_IN_A_ROW: u32 = 3;

/// Whoever takes an old answer does not wait for longer. An attempt of a call takes well under a second;
/// one that fails is made again as the call budget admits it, which may take a minute.
const SLOW: Duration = Duration::from_secs(2);

/// Starts a keeper unless there is one.
pub(super) fn ensure(cache: &Arc<ScopeCache>, state: &mut State) {
    if !state.kept {
        state.kept = true;
        tokio::spawn(Keeper::new(cache.clone()).keep());
    }
}

struct Keeper {
    cache: Arc<ScopeCache>,
    plan: Plan,
    tokens_refused: u32,
    /// The token that the newest answer gave.
    token: Option<NextToken>,
    /// Nothing was needed any more, and callers know it.
    retired: bool,
}

/// Where the keeper goes, also when it panics: who waits is told by the closing channel, and the
/// next to ask starts a new keeper on the same ledger.
impl Drop for Keeper {
    fn drop(&mut self) {
        if self.retired {
            return;
        }
        let mut state = self.cache.state();
        state.kept = false;
        state.give_stale = None;
        state.open = Open::default();
    }
}

impl Keeper {
    fn new(cache: Arc<ScopeCache>) -> Self {
        Self { cache, plan: Plan::default(), tokens_refused: 0, token: None, retired: false }
    }

    async fn keep(mut self) {
        let mut upstream = self.cache.upstream.clone();
        // The plan is made when a call may start, not when the wait for it begins: what arrives
        // while the budget is spent is part of it.
        while self.is_needed() {
            if let Err(error) = self.admission(&mut upstream).await {
                self.fail_where(None, &error, |_, _| true);
                continue;
            }
            let Some(call) = self.next_call() else { continue };
            let at = CallTime::now();
            let request = DescribeRequest { question: call.question(), dry_run: false };
            let mut asking = upstream.call(request);
            let answer = match timeout(SLOW, &mut asking).await {
                Ok(answer) => answer,
                Err(_) => self.giving_stale(StaleReason::Slow, asking).await,
            };
            self.settle(&call, answer, at);
        }
    }

    /// Whether anything is needed. If not, the keeper is retired under the same lock under which
    /// callers look for one.
    fn is_needed(&mut self) -> bool {
        let ledger = self.ledger();
        let mut state = self.cache.state();
        self.dismiss(&mut state, &ledger);
        state.kept = !state.open.is_empty();
        self.retired = !state.kept;
        state.kept
    }

    /// Waits until the budget has a call for this scope.
    async fn admission(&self, upstream: &mut Upstream) -> Result<(), UpstreamError> {
        let mut ready = upstream.ready();
        if let Poll::Ready(ready) = futures_util::poll!(&mut ready) {
            return ready.map(|_| ());
        }
        self.giving_stale(StaleReason::BudgetSpent, ready).await.map(|_| ())
    }

    /// Whoever takes an old answer need not wait for this.
    async fn giving_stale<T>(&self, reason: StaleReason, work: impl Future<Output = T>) -> T {
        {
            let mut state = self.cache.state();
            state.give_stale = Some(reason.clone());
            state.open.give_stale(|| Verdict::Stale(reason.clone()));
        }
        let done = work.await;
        self.cache.state().give_stale = None;
        done
    }

    fn next_call(&mut self) -> Option<Call> {
        let ledger = self.ledger();
        let mut state = self.cache.state();
        self.dismiss(&mut state, &ledger);
        let demands = state.open.demands();
        let call = self.plan.next(&ledger, &demands);
        if call.is_none() && !demands.is_empty() {
            // A fault in the plan must not become a keeper that turns in circles.
            tracing::error!(scope = %self.cache.scope, "the plan has no call for {demands:?}");
            state.open.fail(None, |_| true, || Verdict::Refused(CacheError::KeeperLost));
        }
        call
    }

    /// Tells whoever is satisfied, forgets whoever has gone away, and refuses what there is no room
    /// for.
    fn dismiss(&self, state: &mut State, ledger: &Arc<Ledger>) {
        state.open.dismiss(|need| need.known(ledger), || Verdict::Met(ledger.clone()));
        if ledger.len() >= self.cache.settings.max_tasks {
            let no_room =
                |demand: Demand<'_>| lack(ledger, demand).is_some_and(|lack| grows(ledger, &lack));
            state.open.fail(None, no_room, || Verdict::Refused(CacheError::TooManyTasks));
        }
    }

    fn settle(
        &mut self,
        call: &Call,
        answer: Result<DescribeResponse, UpstreamError>,
        at: CallTime,
    ) {
        match answer {
            Ok(DescribeResponse::Tasks(answer)) => {
                self.token.clone_from(&answer.next);
                if matches!(call, Call::Page { token: Some(_), .. }) {
                    self.tokens_refused = 0;
                }
                let ledger = self.ledger();
                let mut state = self.cache.state();
                self.plan.learn(call, &answer.tasks, &ledger, &state.open.demands());
                drop(state);
                let ledger = ledger.merge(call, &answer, at);
                let most = self.cache.settings.max_tasks;
                self.publish(if ledger.len() > most { ledger.cut_to(most) } else { ledger });
            }
            Ok(DescribeResponse::Permitted) => self.fail(call, at, &answered_as_dry_run()),
            Err(error) => {
                tracing::debug!(scope = %self.cache.scope, code = %error.code, "EC2 call failed: {error}");
                self.settle_error(call, &error, at);
            }
        }
    }

    fn settle_error(&mut self, call: &Call, error: &UpstreamError, at: CallTime) {
        match call {
            Call::Page { filter, token: Some(token), .. } if error.blames_the_token() => {
                self.publish(self.ledger().forget_token(filter, token));
                self.tokens_refused += u32::from(self.token.as_ref() == Some(token));
                if self.tokens_refused >= TOKENS_REFUSED_IN_A_ROW {
                    self.tokens_refused = 0;
                    self.fail(call, at, error);
                }
            }
            Call::Images(images) if error.blames_an_image() => self.blame(images, error, at),
            _ => {
                if !error.kind.is_transient() {
                    self.remember(call, error, at);
                }
                self.fail(call, at, error);
            }
        }
    }

    /// EC2 said no: to everything, or to this question.
    fn remember(&self, call: &Call, error: &UpstreamError, at: CallTime) {
        let refusal = self.refusal(error, at);
        let mut state = self.cache.state();
        let refusals = &mut state.refusals;
        refusals.expire(Instant::now());
        match call {
            _ if concerns_everything(call, error) => refusals.scope = Some(refusal),
            Call::Page { filter, .. } => {
                refusals.listings.insert(filter.clone(), refusal);
            }
            Call::Images(images) => {
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
            (_, 0) => return self.plan.suspects.failed(images),
            _ => named,
        };
        let mut ledger = (*self.ledger()).clone();
        for image in &refused {
            ledger = ledger.merge_refusal(image, at);
        }
        self.publish(ledger);
        let refusal = self.refusal(error, at);
        self.plan.suspects.refused(&refused);
        {
            let mut state = self.cache.state();
            state.refusals.expire(Instant::now());
            for image in &refused {
                state.refusals.images.insert(*image, refusal.clone());
            }
        }
        let asked = Call::Images(refused);
        self.fail_where(Some(at), error, |ledger, lack| serves(ledger, &asked, lack));
    }

    /// Fails whoever this call was for. An error is an answer like any other: it counts for those
    /// whom an answer of the same call would have satisfied, and not for who came later.
    fn fail(&mut self, call: &Call, at: CallTime, error: &UpstreamError) {
        let everything = concerns_everything(call, error);
        if matches!(call, Call::Page { .. }) {
            self.plan.learn(call, &[], &self.ledger(), &[]);
        }
        self.fail_where(Some(at), error, |ledger, lack| {
            // Where a page was walked to for the sake of images, look-ups may still bring them.
            let has_other_ways =
                matches!((call, lack), (Call::Page { token: Some(_), .. }, Lack::Images { .. }));
            everything || (serves(ledger, call, lack) && !has_other_ways)
        });
    }

    fn fail_where(
        &self,
        at: Option<CallTime>,
        error: &UpstreamError,
        concerned: impl Fn(&Ledger, &Lack) -> bool,
    ) {
        let ledger = self.ledger();
        let concerned = |demand: Demand<'_>| {
            lack(&ledger, demand).is_some_and(|lack| concerned(&ledger, &lack))
        };
        let until = at.map(|at| at.instant);
        self.cache.state().open.fail(until, concerned, || Verdict::Failed(error.clone()));
    }

    fn refusal(&self, error: &UpstreamError, at: CallTime) -> Refusal {
        let until = Instant::now() + self.cache.settings.refusal_ttl;
        Refusal { at, until, error: error.clone() }
    }

    fn ledger(&self) -> Arc<Ledger> {
        self.cache.ledger.borrow().clone()
    }

    fn publish(&self, ledger: Ledger) {
        self.cache.ledger.send_replace(Arc::new(ledger));
    }
}

/// Whether a failure is the answer to all that could be asked: by its kind, or since without the
/// listing of all tasks nothing can be told.
fn concerns_everything(call: &Call, error: &UpstreamError) -> bool {
    error.kind.concerns_the_scope()
        || (!error.kind.is_transient()
            && matches!(call, Call::Page { filter, .. } if filter.is_empty()))
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
        code: "UnexpectedDryRun".into(),
        message: "EC2 answered as if to a dry run".into(),
        request_id: None,
        retry_after: None,
    }
}
