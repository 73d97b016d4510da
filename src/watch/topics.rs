//! The topics of one scope: when they are due, and how a round of refreshes changes them.

use std::{collections::HashMap, time::Duration};

use tokio::time::Instant;

use super::{
    interval::Bounds,
    target::Target,
    topic::Topic,
    view::{Ended, State},
};
use crate::{
    cache::{CacheError, Freshness, KeptTask, Snapshot},
    domain::wall_clock,
};

/// The topics of one scope that have subscribers.
pub(super) struct Topics {
    bounds: Bounds,
    by_target: HashMap<Target, Topic>,
}

/// The result of refreshing one target.
pub(super) struct Refreshed {
    pub(super) target: Target,
    pub(super) result: Result<(), CacheError>,
}

impl Topics {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self { bounds, by_target: HashMap::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_target.is_empty()
    }

    /// The topic of a target. A new topic begins with the state `first`, and keeps the task in the
    /// cache while it lives.
    pub(super) fn get_or_create(
        &mut self,
        target: Target,
        first: State,
        kept: Option<KeptTask>,
    ) -> &Topic {
        self.by_target.entry(target).or_insert_with(|| Topic::new(first, kept))
    }

    /// Drops all topics, which ends the streams of their subscribers.
    pub(super) fn clear(&mut self) {
        self.by_target.clear();
    }

    /// Publishes a snapshot to every topic, then drops the topics that have reached their last
    /// state or have no subscribers.
    pub(super) fn update(&mut self, snapshot: &Snapshot) {
        self.by_target.retain(|target, topic| {
            if !topic.has_subscribers() {
                return false;
            }
            topic.update(target, snapshot);
            !topic.is_final()
        });
    }

    /// Time at which the first topic is due: one interval after its newest data, and at least one
    /// interval after the last round, since that round may have failed.
    pub(super) fn next_due(&self, snapshot: &Snapshot, last_round: Option<Instant>) -> Instant {
        let now = Instant::now();
        let mut next_due = None;
        for (target, topic) in &self.by_target {
            let due = match known_at(target, topic, snapshot).max(last_round) {
                Some(known) => known + self.interval(target, snapshot),
                None => now,
            };
            if next_due.is_none_or(|next| due < next) {
                next_due = Some(due);
            }
        }
        next_due.unwrap_or(now)
    }

    /// The targets whose data is older than half of their interval. A round refreshes them with
    /// those that are due, so that the topics of a scope fall due together and share calls.
    pub(super) fn to_refresh(&self, snapshot: &Snapshot, now: Instant) -> Vec<Target> {
        let mut targets = Vec::new();
        for (target, topic) in &self.by_target {
            let half = self.interval(target, snapshot) / 2;
            if known_at(target, topic, snapshot).is_none_or(|known| known + half <= now) {
                targets.push(target.clone());
            }
        }
        targets
    }

    /// Passes the results of a round to the topics.
    pub(super) fn settle(&self, round: Vec<Refreshed>) {
        for Refreshed { target, result } in round {
            if let Some(topic) = self.by_target.get(&target) {
                settle(topic, result);
            }
        }
    }

    fn interval(&self, target: &Target, snapshot: &Snapshot) -> Duration {
        let rate = match target.find(snapshot) {
            Some(task) => snapshot.progress_rate(task),
            None => None,
        };
        self.bounds.interval(rate)
    }
}

/// Passes the result of a refresh to its topic. A transient error degrades the topic, and any other
/// error of EC2 ends it.
fn settle(topic: &Topic, result: Result<(), CacheError>) {
    match result {
        Ok(()) => topic.clear_degraded(),
        Err(CacheError::Upstream(error)) if error.kind.is_transient() => {
            topic.degrade(error, wall_clock());
        }
        Err(refused @ (CacheError::Upstream(_) | CacheError::Remembered { .. })) => {
            topic.end(Ended::Refused(refused));
        }
        // The gateway, not EC2, refused or lost the refresh. The next round tries again.
        Err(CacheError::TooManyWaiting | CacheError::TooManyTasks | CacheError::RefresherLost) => {}
    }
}

/// Start of the newest call that shows the target. An immutable answer carries no call time, so the
/// topic's is taken.
fn known_at(target: &Target, topic: &Topic, snapshot: &Snapshot) -> Option<Instant> {
    let call = match snapshot.freshness(&target.query()) {
        Freshness::AsOf(call) => call,
        Freshness::Missing | Freshness::Immutable => topic.as_of()?,
    };
    Some(call.instant)
}
