//! The refresher: one task per scope, alive while something is pending. It tells what is known, plans,
//! makes one call, merges the answer, and begins again. Coalescing, joining and batching are nothing
//! but this loop.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    task::Poll,
    time::Duration,
};

use tokio::time::{Instant, timeout};
use tower::{Service as _, ServiceExt as _};

use super::{
    assess::assess,
    coverage::Position,
    fetch::Fetch,
    outcome::{CacheError, StaleReason},
    pending::{PendingGap, QueryId},
    planner::{Plan, Planner},
    query::Query,
    reading::{Assessment, Gap, Reading},
    refusals::Refusal,
    room::Kept,
    shared::{FURTHER_PAGES, Lane, Shared},
    snapshot::Snapshot,
    wait_queue::{PendingGroup, WaitOutcome},
};
use crate::domain::{
    Answer, CallTime, DescribeRequest, DescribeResponse, GatewayCode, ImageId, ListingFilter,
    Upstream, UpstreamError,
};

/// A caller that takes an old answer waits no longer than this. An attempt takes well under a second; a
/// call that fails is tried again as the call budget admits it, which may take a minute.
const SLOW: Duration = Duration::from_secs(2);

/// Images and queries that are assessed before other tasks of the runtime get their turn: a part of a
/// millisecond, since most take some microseconds each.
const ASSESSED_AT_ONCE: usize = 32;

/// Queries whose tasks stay while they wait although there is no room: those that wait longest.
const KEPT_QUERIES: usize = 64;

/// Starts a refresher unless one is alive.
pub(super) fn spawn_if_idle(shared: &Arc<Shared>) {
    let mut state = shared.state();
    if state.running || state.is_idle() {
        return;
    }
    state.running = true;
    // A runtime that shuts down drops the refresher at once, which locks the state.
    drop(state);
    tokio::spawn(Refresher::new(shared.clone()).run());
}

struct Refresher {
    shared: Arc<Shared>,
    planner: Planner,
    /// What pending queries lack of the snapshot with this version.
    gaps: Vec<PendingGap>,
    version: u64,
    /// Where EC2 refused a token, so that the walk of a listing had to begin again.
    restarts: HashMap<ListingFilter, Position>,
    /// A look-up that failed with `AuthFailure`, until the listing shows whether that is about all.
    auth_failure: Option<AuthFailure>,
    /// How many pages were read for each query of a watch that look-ups do not tell.
    further_pages: HashMap<QueryId, usize>,
    /// Nothing is pending, and callers know it.
    finished: bool,
}

/// The limits of reading at present.
#[derive(Clone, Copy)]
struct Limits {
    /// Pages for images that look-ups do not tell.
    may_read_further: bool,
    /// There is no room for pages below the first one.
    is_full: bool,
}

/// A look-up that failed with `AuthFailure`.
struct AuthFailure {
    images: Vec<ImageId>,
    error: UpstreamError,
    at: CallTime,
}

/// Runs when the task exits, also by a panic. The channels of the waiting callers close, and the next
/// request starts a new refresher on the same snapshot.
impl Drop for Refresher {
    fn drop(&mut self) {
        if !self.finished {
            // A runtime that shuts down drops refreshers, too.
            if std::thread::panicking() {
                tracing::error!(
                    scope = %self.shared.scope,
                    "the refresher of a scope panicked; the next request starts a new one"
                );
            }
            let mut state = self.shared.state();
            state.running = false;
            state.serve_stale = None;
            state.to_give = 0;
            state.clear();
        }
    }
}

impl Refresher {
    fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            planner: Planner::default(),
            gaps: Vec::new(),
            version: 0,
            restarts: HashMap::new(),
            auth_failure: None,
            further_pages: HashMap::new(),
            finished: false,
        }
    }

    async fn run(mut self) {
        let mut upstream = self.shared.upstream.clone();
        loop {
            self.assess().await;
            self.give_room();
            if self.is_finished() {
                return;
            }
            if self.gaps.is_empty() {
                continue;
            }
            // The plan is made when a call may start, not when the wait for it begins: what arrives
            // while the budget is spent is part of it.
            if let Err(error) = self.admission(&mut upstream).await {
                self.fail_all(&error, None);
                continue;
            }
            self.assess().await;
            let Some(plan) = self.plan() else { continue };
            let request =
                DescribeRequest::observed(plan.fetch.target(), self.shared.attempts.clone());
            let (attempt, started) = (request.attempt.clone(), CallTime::now());
            let mut call = upstream.call(request);
            let result = match timeout(SLOW, &mut call).await {
                Ok(result) => result,
                Err(_) => self.serving_stale(StaleReason::Slow, call).await,
            };
            self.settle(&plan, result, attempt.started().unwrap_or(started));
        }
    }

    /// Whether nothing is pending. The refresher ends under the same lock under which callers look for
    /// one.
    fn is_finished(&mut self) -> bool {
        let mut state = self.shared.state();
        state.running = !state.is_idle();
        self.finished = !state.running;
        self.finished
    }

    /// Waits until the budget has a call for this scope.
    async fn admission(&self, upstream: &mut Upstream) -> Result<(), UpstreamError> {
        let mut ready = upstream.ready();
        if let Poll::Ready(ready) = futures_util::poll!(&mut ready) {
            return ready.map(|_| ());
        }
        self.serving_stale(StaleReason::BudgetSpent, ready).await.map(|_| ())
    }

    /// Callers that take an old answer need not wait for this.
    async fn serving_stale<T>(&self, reason: StaleReason, work: impl Future<Output = T>) -> T {
        self.shared.state().serve_stale(&reason);
        let done = work.await;
        self.shared.state().serve_stale = None;
        done
    }

    /// Answers the queries that the snapshot answers, refuses those that find no room, and finds the
    /// gaps of the others. Each query is assessed once for each snapshot.
    async fn assess(&mut self) {
        let snapshot = self.shared.snapshot();
        let mut assessed = HashMap::new();
        for gap in self.gaps.drain(..) {
            if self.version == snapshot.version() {
                assessed.insert(gap.id, gap);
            }
        }
        self.version = snapshot.version();
        let limits = Limits {
            may_read_further: self.shared.may_read_further(Instant::now()),
            is_full: self.shared.room.is_full_for(&self.shared.holding),
        };
        let pending = self.shared.state().pending();
        if !self.further_pages.is_empty() {
            let ids: HashSet<_> = pending.iter().map(|group| group.id).collect();
            self.further_pages.retain(|id, _| ids.contains(id));
        }
        let mut work = 0;
        for group in pending {
            let pending = &group.pending;
            if let Some(mut gap) = assessed.remove(&group.id)
                && gap.not_before == pending.not_before
                && (limits.may_read_further || !gap.is_optional)
            {
                gap.caller = group.owner;
                self.gaps.push(gap);
                continue;
            }
            if let Query::Images { images, .. } = &*pending.query {
                self.planner.wanted(images);
            }
            work += 1 + pending.query.images();
            if work > ASSESSED_AT_ONCE {
                work = 0;
                tokio::task::yield_now().await;
            }
            self.gaps.extend(self.assess_query(&group, &snapshot, limits));
        }
    }

    /// Finds the gap of a query. None if the query is answered or refused.
    fn assess_query(
        &self,
        group: &PendingGroup,
        snapshot: &Arc<Snapshot>,
        limits: Limits,
    ) -> Option<PendingGap> {
        let PendingGroup { id, owner, pending, .. } = group;
        let id = *id;
        let (gap, is_optional) = match assess(snapshot, &pending.query, pending.not_before) {
            Assessment::Missing(gap) => (gap, false),
            Assessment::Fresh(reading) => match &reading.further {
                Some(page) if limits.may_read_further && self.has_pages_left(id) => {
                    (Gap::page(page.clone()), true)
                }
                _ => {
                    self.answer(id, reading, snapshot);
                    return None;
                }
            },
        };
        if limits.is_full && needs_room(snapshot, &pending.query, &gap) {
            self.shared.tasks_log.refused(self.shared.settings.max_tasks);
            self.refuse(id, &CacheError::TooManyTasks);
            return None;
        }
        if !limits.is_full {
            self.shared.tasks_log.admitted();
        }
        let (caller, not_before) = (owner.clone(), pending.not_before);
        Some(PendingGap { id, caller, not_before, gap, is_optional })
    }

    /// Whether one more page may be read for a query that has an answer without it. A List ends at its
    /// deadline; a watch has none, so its pages are counted.
    fn has_pages_left(&self, id: QueryId) -> bool {
        let read = self.further_pages.get(&id).copied().unwrap_or_default();
        Lane::of(id) == Lane::Lists || read < FURTHER_PAGES
    }

    fn answer(&self, id: QueryId, reading: Reading, snapshot: &Arc<Snapshot>) {
        let mut state = self.shared.state();
        let arrivals = state.arrivals_at_call;
        state.queue_of(id).answer(id, &Arc::new(reading), snapshot, arrivals);
    }

    fn refuse(&self, id: QueryId, error: &CacheError) {
        let mut state = self.shared.state();
        state.queue_of(id).fail(id, None, || WaitOutcome::Refused(error.clone()));
    }

    fn plan(&mut self) -> Option<Plan> {
        // All callers may have gone away since the call was wanted.
        if self.gaps.is_empty() {
            return None;
        }
        let snapshot = self.shared.snapshot();
        let gaps = &self.gaps;
        self.restarts.retain(|filter, _| gaps.iter().any(|gap| gap.may_read(filter)));
        let mut plan = self.planner.next(&snapshot, gaps);
        if plan.is_none() {
            // A fault in the planner must not become a refresher that turns in circles.
            tracing::error!(scope = %self.shared.scope, "the plan has no call for {:?}", self.gaps);
            for gap in &self.gaps {
                self.refuse(gap.id, &CacheError::RefresherLost);
            }
            self.gaps.clear();
        }
        if let Some(failure) = &self.auth_failure {
            plan = Some(Plan::proof(&snapshot, &self.gaps, &failure.images));
        }
        let plan = plan?;
        let mut state = self.shared.state();
        state.call_starts(&plan.queries);
        let mut reads_further = false;
        for gap in &self.gaps {
            if gap.is_optional && plan.queries.contains(&gap.id) {
                reads_further = true;
                *self.further_pages.entry(gap.id).or_default() += 1;
            }
        }
        if reads_further {
            state.reads_further(Instant::now());
        }
        drop(state);
        Some(plan)
    }

    fn settle(
        &mut self,
        plan: &Plan,
        result: Result<DescribeResponse, UpstreamError>,
        at: CallTime,
    ) {
        match result {
            Ok(DescribeResponse::Tasks(answer)) => self.settle_answer(plan, &answer, at),
            Ok(DescribeResponse::Permitted) => {
                self.fail(
                    plan,
                    &UpstreamError::of_gateway(
                        GatewayCode::UnexpectedDryRun,
                        "EC2 answered as if to a dry run",
                    ),
                    at,
                );
            }
            Err(error) => {
                tracing::debug!(scope = %self.shared.scope, code = %error.code, "EC2 call failed: {error}");
                self.settle_error(plan, error, at);
            }
        }
    }

    fn settle_answer(&mut self, plan: &Plan, answer: &Answer, at: CallTime) {
        let fetch = &plan.fetch;
        let snapshot = self.shared.snapshot();
        if let Some(next) = &answer.next
            && snapshot.repeats(fetch, next)
        {
            self.fail(
                plan,
                &UpstreamError::of_gateway(
                    GatewayCode::MalformedAnswer,
                    "EC2 gave a NextToken that it had given before",
                ),
                at,
            );
            return;
        }
        match fetch {
            Fetch::Images(images) => self.planner.clear(images),
            Fetch::Page { filter, start } => {
                if filter.is_empty() {
                    self.planner.page_read(&answer.tasks);
                }
                if self.restarts.get(filter).is_some_and(|refused| start.from > *refused) {
                    self.restarts.remove(filter);
                }
            }
        }
        self.shared.state().call_answered(fetch, at);
        self.publish(snapshot.merge(fetch, answer, at));
        if let Some(AuthFailure { images, error, at }) = self.auth_failure.take() {
            self.blame(&images, &error, at);
        }
    }

    fn settle_error(&mut self, plan: &Plan, error: UpstreamError, at: CallTime) {
        self.auth_failure = None;
        match &plan.fetch {
            Fetch::Images(images) if error.blames_an_image() => self.blame(images, &error, at),
            Fetch::Images(images) if error.is_auth_failure() => {
                self.settle_auth_failure(images, error, at);
            }
            Fetch::Page { filter, start }
                if start.token.is_some() && error.may_blame_the_token() =>
            {
                self.settle_token(plan, filter, start.from, &error, at);
            }
            _ if error.kind.concerns_the_scope() => self.refuse_scope(error, at),
            _ => {
                if !error.kind.is_transient() {
                    let refusal = self.refusal(&error, at);
                    self.shared.state().refusals.add(&plan.fetch, &refusal);
                }
                self.fail(plan, &error, at);
            }
        }
    }

    /// `AuthFailure` of a look-up may be about one image. The next call is for the listing: if EC2 still
    /// lists, it is. If these images are suspects, EC2 was seen to list since the first such refusal.
    fn settle_auth_failure(&mut self, images: &[ImageId], error: UpstreamError, at: CallTime) {
        if self.planner.suspects(images) {
            self.blame(images, &error, at);
        } else {
            self.auth_failure = Some(AuthFailure { images: images.to_vec(), error, at });
        }
    }

    /// A token that EC2 refuses restarts the walk once. The second time it is an error.
    fn settle_token(
        &mut self,
        plan: &Plan,
        filter: &ListingFilter,
        from: Position,
        error: &UpstreamError,
        at: CallTime,
    ) {
        if self.restarts.insert(filter.clone(), from).is_none() {
            self.publish(self.shared.snapshot().forget_tokens(filter));
            return;
        }
        self.restarts.remove(filter);
        let code = &error.code;
        let message = format!("EC2 refuses the NextTokens that it gives: {code}: {error}");
        self.fail(plan, &UpstreamError::of_gateway(GatewayCode::MalformedAnswer, &message), at);
    }

    /// EC2 refuses everything in the scope.
    fn refuse_scope(&mut self, mut error: UpstreamError, at: CallTime) {
        if error.is_auth_failure() {
            let region = &self.shared.scope.region;
            let hint = format!("{error} (region {region}; it may not be enabled for the account)");
            error.message = hint.into();
        }
        let refusal = self.refusal(&error, at);
        self.shared.state().refusals.add_scope(refusal);
        self.fail_all(&error, Some(at.instant));
    }

    /// EC2 refused a look-up because of an image: those that it names, or the only one. If it names
    /// none, the images are asked for apart from others, until the bad one stands alone.
    fn blame(&mut self, images: &[ImageId], error: &UpstreamError, at: CallTime) {
        let mut refused = images.to_vec();
        refused.retain(|image| images.len() == 1 || names(&error.message, image));
        if refused.is_empty() {
            self.planner.suspect(images);
            return;
        }
        self.planner.clear(&refused);
        self.publish(self.shared.snapshot().merge_refusal(
            &refused,
            &error.code.to_string().into(),
            at,
        ));
    }

    /// Tells the queries that a call was for. An error is an answer like any other: it counts for those
    /// callers whom an answer of the same call would have satisfied.
    fn fail(&mut self, plan: &Plan, error: &UpstreamError, at: CallTime) {
        self.planner.call_failed(&plan.fetch);
        let concerned: HashSet<_> = plan.queries.iter().collect();
        let mut state = self.shared.state();
        for gap in &self.gaps {
            if !concerned.contains(&gap.id) {
                continue;
            }
            if gap.is_optional {
                // There is an answer without the page.
                state.reads_no_further(Instant::now());
            } else if !(plan.fetch.is_deep_page() && gap.has_other_ways()) {
                let queue = state.queue_of(gap.id);
                queue.fail(gap.id, Some(at.instant), || WaitOutcome::Failed(error.clone()));
            }
        }
    }

    fn fail_all(&mut self, error: &UpstreamError, until: Option<Instant>) {
        let mut state = self.shared.state();
        for id in state.all() {
            state.queue_of(id).fail(id, until, || WaitOutcome::Failed(error.clone()));
        }
    }

    fn refusal(&self, error: &UpstreamError, at: CallTime) -> Refusal {
        let until = Instant::now() + self.shared.settings.refusal_ttl;
        Refusal { at, until, error: error.clone() }
    }

    /// Gives back tasks if there are too many, in this scope or in another one that needs the room.
    fn give_room(&mut self) {
        let asked = std::mem::take(&mut self.shared.state().to_give);
        let surplus = asked.max(self.shared.room.surplus_of(&self.shared.holding));
        if surplus == 0 {
            self.shared.room.ask_others(&self.shared.holding);
            return;
        }
        let snapshot = self.shared.snapshot();
        if let Some(trimmed) = snapshot.without(surplus, &self.kept(&snapshot)) {
            self.publish(trimmed);
        }
        self.planner.avoid_pages();
    }

    /// The tasks that are watched, and those that the pending queries that wait longest ask for.
    fn kept(&self, snapshot: &Snapshot) -> Kept {
        let mut kept = Kept::default();
        let pending = {
            let mut state = self.shared.state();
            kept.starts.extend(state.watched.keys().map(|key| key.start_time.0));
            state.pending()
        };
        for group in pending.into_iter().take(KEPT_QUERIES) {
            match &*group.pending.query {
                Query::Images { images, .. } => kept.images.extend(images.iter().copied()),
                Query::Listing { filter, after, count } => {
                    for task in snapshot.tasks.matching(filter, after.as_ref()).take(*count) {
                        kept.starts.insert(task.key.start_time.0);
                    }
                }
                // A newer task of its image says that look-ups do not tell of it.
                Query::Candidate { image, .. } => {
                    kept.images.insert(*image);
                }
                Query::Task(key) => {
                    kept.images.insert(key.image_id);
                }
            }
        }
        kept
    }

    fn publish(&self, snapshot: Snapshot) {
        self.shared.holding.set(&snapshot);
        self.shared.snapshot.send_replace(Arc::new(snapshot));
    }
}

/// Whether what is lacking is below the first pages. Tasks that are known go on without room, and so does
/// the listing of what is in progress, which EC2 bounds.
fn needs_room(snapshot: &Snapshot, query: &Query, gap: &Gap) -> bool {
    let Some(page) = &gap.page else { return false };
    let Fetch::Page { filter, start } = page else { return false };
    if page.is_first_of_all() || *filter == ListingFilter::in_progress() {
        return false;
    }
    match query {
        Query::Listing { after, .. } => start.token.is_some() || after.is_some(),
        Query::Images { .. } | Query::Candidate { .. } => start.token.is_some(),
        Query::Task(key) => snapshot.task(key).is_none(),
    }
}

/// Whether EC2's message names an image, and not one whose ID begins alike.
fn names(message: &str, image: &ImageId) -> bool {
    for word in message.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-')) {
        if ImageId::parse(word).is_ok_and(|named| named == *image) {
            return true;
        }
    }
    false
}
