//! The topics of one scope: when they are due, and how refreshes change them.

use std::{collections::HashMap, time::Duration};

use tokio::time::Instant;

use super::{
    interval::Bounds,
    target::Target,
    topic::{Refresh, Topic},
};
use crate::{
    cache::{CacheError, KeptTask, Snapshot},
    domain::{AttemptState, Caller},
};

/// The topics of one scope that have subscribers.
pub(super) struct Topics {
    bounds: Bounds,
    by_target: HashMap<Target, Topic>,
}

/// The result of a refresh.
pub(super) struct Refreshed {
    pub(super) target: Target,
    /// The time at which its calls had to start, or later.
    pub(super) not_before: Instant,
    pub(super) result: Result<(), CacheError>,
}

/// 1 day: the longest sleep of a poller without another event.
const LONGEST_SLEEP: Duration = Duration::from_hours(24);

impl Topics {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self { bounds, by_target: HashMap::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_target.is_empty()
    }

    /// The topic of a target. A new topic keeps the task in the cache while it lives.
    pub(super) fn get_or_create(
        &mut self,
        target: &Target,
        caller: &Caller,
        kept: impl FnOnce() -> Option<KeptTask>,
    ) -> &mut Topic {
        let new = || Topic::new(target.clone(), caller.clone(), kept());
        self.by_target.entry(target.clone()).or_insert_with(new)
    }

    /// The topic of a target.
    pub(super) fn get(&mut self, target: &Target) -> Option<&mut Topic> {
        self.by_target.get_mut(target)
    }

    /// Drops all topics, which ends the streams of their subscribers.
    pub(super) fn clear(&mut self) {
        self.by_target.clear();
    }

    /// Publishes a snapshot to every topic, then drops the topics that have reached their last
    /// state or have no subscribers.
    pub(super) fn update(&mut self, snapshot: &Snapshot, attempts: &AttemptState, now: Instant) {
        let bounds = &self.bounds;
        self.by_target.retain(|_, topic| {
            if !topic.has_subscribers() {
                return false;
            }
            topic.update(snapshot, attempts, bounds, now);
            !topic.is_final()
        });
    }

    /// Publishes a snapshot to one topic.
    pub(super) fn update_one(
        &mut self,
        target: &Target,
        snapshot: &Snapshot,
        attempts: &AttemptState,
    ) {
        if let Some(topic) = self.by_target.get_mut(target) {
            topic.update(snapshot, attempts, &self.bounds, Instant::now());
        }
    }

    /// Begins a round of refreshes, if one is due. It takes along the topics that are due soon, so that
    /// the topics of a scope fall due together and share calls.
    pub(super) fn begin_round(&mut self, snapshot: &Snapshot, now: Instant) -> Vec<Refresh> {
        let mut round = Vec::new();
        if self.next_due(snapshot, now).is_none_or(|due| due > now) {
            return round;
        }
        for topic in self.by_target.values_mut() {
            if topic.joins_round(snapshot, &self.bounds, now) {
                round.push(topic.begin_refresh(snapshot, &self.bounds, now));
            }
        }
        round
    }

    /// The time of the next refresh, or of the next look at the trouble with EC2.
    pub(super) fn next_event(
        &self,
        snapshot: &Snapshot,
        attempts: &AttemptState,
        now: Instant,
    ) -> Instant {
        let mut next = self.next_due(snapshot, now).unwrap_or(now + LONGEST_SLEEP);
        for topic in self.by_target.values() {
            if let Some(check) = topic.next_check(attempts, now) {
                next = next.min(check);
            }
        }
        next
    }

    fn next_due(&self, snapshot: &Snapshot, now: Instant) -> Option<Instant> {
        let mut next = None;
        for topic in self.by_target.values().filter(|topic| !topic.is_refreshing()) {
            let due = topic.due(snapshot, &self.bounds, now);
            if next.is_none_or(|next| due < next) {
                next = Some(due);
            }
        }
        next
    }

    /// Passes the result of a refresh to its topic.
    pub(super) fn settle(&mut self, refreshed: Refreshed, attempts: &AttemptState) {
        let Refreshed { target, not_before, result } = refreshed;
        if let Some(topic) = self.by_target.get_mut(&target) {
            topic.settle(not_before, result, attempts);
        }
    }
}
