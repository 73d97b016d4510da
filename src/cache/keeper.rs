//! The keeper: one task per scope, alive while something is needed. It plans, makes one call,
//! merges the answer, tells whoever is satisfied, and begins again.

use std::{sync::Arc, task::Poll};

use tokio::time::Instant;
use tower::{Service as _, ServiceExt as _};

use super::{
    ledger::{Call, Ledger},
    plan::{self, Lack, Suspects, lack},
    scope::{Refusal, ScopeCache, State, Verdict, Waiting},
};
use crate::domain::{
    CallTime, DescribeRequest, DescribeResponse, ErrorKind, ImageId, Upstream, UpstreamError,
};

/// A token that EC2 refuses restarts the walk; this often in a row it is EC2's answer.
const TOKENS_REFUSED_IN_A_ROW: u32 = 3;

/// Starts a keeper unless there is one.
pub(super) fn ensure(cache: &Arc<ScopeCache>, state: &mut State) {
    if !state.kept {
        state.kept = true;
        tokio::spawn(Keeper::new(cache.clone()).keep());
    }
}

struct Keeper {
    cache: Arc<ScopeCache>,
    urgent_in_a_row: u32,
    tokens_refused: u32,
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
        state.budget_spent = false;
        state.waiting.clear();
        state.behind.clear();
    }
}

impl Keeper {
    fn new(cache: Arc<ScopeCache>) -> Self {
        Self { cache, urgent_in_a_row: 0, tokens_refused: 0, retired: false }
    }

    async fn keep(mut self) {
        let mut upstream = self.cache.upstream.clone();
        // The plan is made when a call may start, not when the wait for it begins: what arrives
        // while the budget is spent is part of it.
        while self.is_needed() {
            if let Err(error) = self.admission(&mut upstream).await {
                self.fail_all(&error);
                continue;
            }
            let Some(call) = self.plan() else { continue };
            let at = CallTime::now();
            let request = DescribeRequest { question: call.question(), dry_run: false };
            let answer = upstream.call(request).await;
            self.settle(&call, answer, at);
        }
    }

    /// Whether anything is needed. If not, the keeper is retired under the same lock under which
    /// callers look for one.
    fn is_needed(&mut self) -> bool {
        let ledger = self.ledger();
        let mut state = self.cache.state();
        Self::dismiss(&mut state, &ledger);
        state.kept = !(state.waiting.is_empty() && state.behind.is_empty());
        self.retired = !state.kept;
        if self.retired {
            state.suspects = Suspects::default();
        }
        state.kept
    }

    /// Waits until the budget has a call for this scope.
    async fn admission(&self, upstream: &mut Upstream) -> Result<(), UpstreamError> {
        let mut ready = upstream.ready();
        if let Poll::Ready(ready) = futures_util::poll!(&mut ready) {
            return ready.map(|_| ());
        }
        self.budget_is_spent();
        let admitted = ready.await.map(|_| ());
        self.cache.state().budget_spent = false;
        admitted
    }

    /// Whoever takes an old answer need not wait for the budget.
    fn budget_is_spent(&self) {
        let mut state = self.cache.state();
        state.budget_spent = true;
        let (stale, waiting): (Vec<_>, Vec<_>) =
            std::mem::take(&mut state.waiting).into_iter().partition(|waiting| waiting.takes_stale);
        state.waiting = waiting;
        for waiting in stale {
            state.push_behind(waiting.demand, &self.cache.settings);
            // Who has gone away need not be told.
            let _ = waiting.tell.send(Verdict::BudgetSpent);
        }
    }

    fn plan(&mut self) -> Option<Call> {
        let ledger = self.ledger();
        let mut state = self.cache.state();
        Self::dismiss(&mut state, &ledger);
        let waiting = state.waiting.iter().map(|waiting| &waiting.demand);
        let demands = waiting.chain(&state.behind);
        let call = plan::next_call(&ledger, demands, &state.suspects, self.urgent_in_a_row)?;
        self.urgent_in_a_row = match call {
            Call::Next { .. } => 0,
            Call::Head | Call::Images(_) => self.urgent_in_a_row + 1,
        };
        Some(call)
    }

    /// Tells whoever is satisfied and forgets whoever has gone away.
    fn dismiss(state: &mut State, ledger: &Arc<Ledger>) {
        let met = |demand: &plan::Demand| demand.need.known(ledger).meets(demand.since);
        state.behind.retain(|demand| !met(demand));
        for waiting in std::mem::take(&mut state.waiting) {
            if met(&waiting.demand) {
                // Who has gone away need not be told.
                let _ = waiting.tell.send(Verdict::Met(ledger.clone()));
            } else if !waiting.tell.is_closed() {
                state.waiting.push(waiting);
            }
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
                self.tokens_refused = 0;
                if let Call::Images(images) = call {
                    self.cache.state().suspects.answered(images);
                }
                self.publish(self.ledger().merge(call, &answer, at));
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
            Call::Next { token, .. } if error.blames_the_token() => {
                self.publish(self.ledger().forget_token(token));
                self.tokens_refused += 1;
                if self.tokens_refused >= TOKENS_REFUSED_IN_A_ROW {
                    self.tokens_refused = 0;
                    self.fail(call, at, error);
                }
            }
            Call::Images(images) if error.blames_an_image() => self.blame(images, error, at),
            _ => {
                if !error.kind.is_transient() {
                    let refusal = self.refusal(error, at);
                    self.cache.state().refusals.scope = Some(refusal);
                }
                self.fail(call, at, error);
            }
        }
    }

    /// EC2 refused a look-up for the sake of an image: those that it names are refused, the others
    /// are asked for again; where it names none, the set is split until the bad one stands alone.
    fn blame(&self, images: &[ImageId], error: &UpstreamError, at: CallTime) {
        let named: Vec<_> =
            images.iter().filter(|image| names(&error.message, image)).cloned().collect();
        let refused = match (images, named.len()) {
            ([_], _) => images.to_vec(),
            (_, 0) => return self.cache.state().suspects.failed(images),
            _ => named,
        };
        let mut ledger = (*self.ledger()).clone();
        for image in &refused {
            ledger = ledger.merge_refusal(image, at);
        }
        self.publish(ledger);
        let refusal = self.refusal(error, at);
        let mut state = self.cache.state();
        state.suspects.refused(&refused);
        state.refusals.expire(Instant::now());
        for image in &refused {
            state.refusals.images.insert(image.clone(), refusal.clone());
        }
        self.fail_where(&mut state, error, |ledger, waiting| {
            matches!(lack(ledger, waiting), Some(Lack::Images(asked))
                if waiting.since <= at.instant && asked.iter().any(|image| refused.contains(image)))
        });
    }

    /// Fails whoever this call was for. An error is an answer like any other: it counts for those
    /// whom an answer of the same call would have satisfied, and not for who came later.
    fn fail(&self, call: &Call, at: CallTime, error: &UpstreamError) {
        let everything = !error.kind.is_transient();
        self.fail_where(&mut self.cache.state(), error, |ledger, demand| {
            let concerned = match (lack(ledger, demand), call) {
                (Some(_), _) if everything => true,
                (Some(Lack::Head), Call::Head)
                | (Some(Lack::Deeper(_)), Call::Next { .. } | Call::Head) => true,
                (Some(Lack::Images(asked)), Call::Images(images)) => {
                    asked.iter().any(|image| images.contains(image))
                }
                (None | Some(Lack::Head | Lack::Images(_) | Lack::Deeper(_)), _) => false,
            };
            concerned && demand.since <= at.instant
        });
    }

    fn fail_all(&self, error: &UpstreamError) {
        self.fail_where(&mut self.cache.state(), error, |_, _| true);
    }

    fn fail_where(
        &self,
        state: &mut State,
        error: &UpstreamError,
        concerned: impl Fn(&Ledger, &plan::Demand) -> bool,
    ) {
        let ledger = self.ledger();
        state.behind.retain(|demand| !concerned(&ledger, demand));
        let (failed, waiting): (Vec<Waiting>, Vec<_>) = std::mem::take(&mut state.waiting)
            .into_iter()
            .partition(|waiting| concerned(&ledger, &waiting.demand));
        state.waiting = waiting;
        for waiting in failed {
            let _ = waiting.tell.send(Verdict::Failed(error.clone()));
        }
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

/// Whether EC2's message names an image, and not just one whose ID begins alike.
fn names(message: &str, image: &ImageId) -> bool {
    message
        .split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'))
        .any(|word| word == image.as_str())
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
