//! How far down the listing of all tasks is known without a gap, and as of when.
//!
//! EC2 lists newest first, so a position is a start time. A call for the first page tells of all
//! that is new; what lies below stays known unless a task appears late. EC2 is eventually
//! consistent, so a new task may appear late, below tasks that started after it. What started five
//! minutes before a call can no longer get such a neighbour: that is the *watermark* of the call.
//!
//! The coverage is a stack of readings. Each is a first page and the pages that were read below it;
//! a deeper one is older. Nearly always there is one. If a new first page reaches down to the
//! watermark of the reading below, nothing can have appeared in between, and the two become one.

use std::{
    cmp::Reverse,
    time::{Duration, SystemTime},
};

use super::freshness::Freshness;
use crate::domain::{CallTime, TaskKey};

/// Most readings of the stack. A walk over tasks of the last five minutes keeps one of its own
/// beside those of newer first pages; the oldest ones stay, since a walk may rest on them.
const MAX_READINGS: usize = 8;

/// A position in a listing. Positions lower down are greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Position {
    /// Above the newest task.
    Top,
    /// Above all tasks that started at this time: EC2 promises nothing about their order, so some
    /// of them may be on the page above this position and some on the page below.
    At(Reverse<SystemTime>),
    /// Below the oldest task.
    End,
}

impl Position {
    /// The position above all tasks that started at the same time as this one.
    pub(super) fn above(key: &TaskKey) -> Self {
        Self::At(key.start_time)
    }

    /// A position above this task and all that started at the same time. A page that begins at
    /// [`Position::above`] need not show all of them, so it does not continue what ends here.
    pub(super) fn well_above(key: &TaskKey) -> Self {
        Self::at(key.start_time.0 + Duration::from_nanos(1))
    }

    /// The position below which no task started after this time.
    pub(super) fn at(time: SystemTime) -> Self {
        Self::At(Reverse(time))
    }

    /// Whether the task is above this position for certain.
    pub(super) fn covers(&self, key: &TaskKey) -> bool {
        match self {
            Self::Top => false,
            Self::At(time) => key.start_time < *time,
            Self::End => true,
        }
    }

    /// The time that all tasks above this position started after. None at the end.
    pub(super) fn time(&self) -> Option<SystemTime> {
        match self {
            Self::At(time) => Some(time.0),
            Self::Top | Self::End => None,
        }
    }
}

/// A part of a listing, by its lower end, and how new what is known of it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stretch {
    /// Where it ends.
    pub(super) bottom: Position,
    /// How new it is.
    pub(super) freshness: Freshness,
}

/// A first page and what was read below it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Reading {
    /// When the call for the first page started. All pages below were asked for later.
    at: CallTime,
    /// How far down it goes.
    bottom: Position,
    /// No task that started at this time or before can appear late.
    watermark: SystemTime,
}

/// How far down the listing of all tasks is known. The newest and shallowest reading comes first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Coverage(Vec<Reading>);

impl Coverage {
    /// When the call for the newest first page started.
    pub(super) fn first_page_at(&self) -> Option<CallTime> {
        self.0.first().map(|reading| reading.at)
    }

    /// How far down the listing is known, as of whatever call.
    pub(super) fn bottom(&self) -> Position {
        self.0.last().map_or(Position::Top, |reading| reading.bottom)
    }

    /// How far down the listing would be known by a new first page that ends where the newest one did.
    pub(super) fn promised(&self, first_bottom: Position) -> Position {
        match self.0.first() {
            Some(newest) if first_bottom >= Position::at(newest.watermark) => newest.bottom,
            _ => first_bottom,
        }
    }

    /// The known stretches, from the newest and shallowest on. Nothing can appear below a task that
    /// started before the watermark, so a stretch that begins there cannot change.
    pub(super) fn stretches<'a>(
        &'a self,
        after: Option<&TaskKey>,
    ) -> impl Iterator<Item = Stretch> + use<'a> {
        let start = after.map(|key| key.start_time.0);
        self.0.iter().map(move |reading| {
            let is_stable = start.is_some_and(|start| start <= reading.watermark);
            let freshness =
                if is_stable { Freshness::Immutable } else { Freshness::AsOf(reading.at) };
            Stretch { bottom: reading.bottom, freshness }
        })
    }

    /// Adds a first page.
    pub(super) fn add_first_page(&mut self, at: CallTime, bottom: Position, watermark: SystemTime) {
        self.0.insert(0, Reading { at, bottom, watermark });
        self.join();
    }

    /// Adds a page that was read between two positions. It is newer than each reading that reaches
    /// down to it, so it continues all of them.
    pub(super) fn add_page(&mut self, from: Position, to: Position) {
        for reading in &mut self.0 {
            if from <= reading.bottom {
                reading.bottom = reading.bottom.max(to);
            }
        }
        self.join();
    }

    /// Forgets what is below a position.
    pub(super) fn cut_below(&mut self, position: Position) {
        for reading in &mut self.0 {
            reading.bottom = reading.bottom.min(position);
        }
        self.join();
    }

    fn join(&mut self) {
        let mut joined: Vec<Reading> = Vec::with_capacity(self.0.len());
        for reading in self.0.drain(..) {
            match joined.last_mut() {
                // It is older and not deeper.
                Some(above) if reading.bottom <= above.bottom => {}
                Some(above) if above.bottom >= Position::at(reading.watermark) => {
                    above.bottom = reading.bottom;
                }
                _ => joined.push(reading),
            }
        }
        if joined.len() > MAX_READINGS {
            joined.remove(1);
        }
        self.0 = joined;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::cache::tests::support::Clock;

    fn time(minute: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(60 * minute)
    }

    fn at(minute: u64) -> Position {
        Position::at(time(minute))
    }

    fn known(coverage: &Coverage) -> Vec<(Position, Freshness)> {
        let mut known = Vec::new();
        for stretch in coverage.stretches(None) {
            known.push((stretch.bottom, stretch.freshness));
        }
        known
    }

    /// Reads a first page at a second, down to a minute; its watermark is at minute 90.
    fn first_page(coverage: &mut Coverage, clock: &Clock, second: u64, bottom: Position) {
        coverage.add_first_page(clock.at(second), bottom, time(90));
    }

    #[test]
    fn pages_one_after_the_other_go_down() {
        let clock = Clock::new();
        let mut coverage = Coverage::default();
        first_page(&mut coverage, &clock, 0, at(80));
        coverage.add_page(at(80), at(60));
        assert_eq!(known(&coverage), [(at(60), Freshness::AsOf(clock.at(0)))]);
        coverage.add_page(at(60), Position::End);
        assert_eq!(coverage.bottom(), Position::End);
    }

    #[test]
    fn a_first_page_that_reaches_the_watermark_makes_all_below_as_new_as_itself() {
        let clock = Clock::new();
        let mut coverage = Coverage::default();
        first_page(&mut coverage, &clock, 0, at(80));
        coverage.add_page(at(80), at(60));
        first_page(&mut coverage, &clock, 5, at(85));
        assert_eq!(known(&coverage), [(at(60), Freshness::AsOf(clock.at(5)))]);
    }

    #[test]
    fn above_the_watermark_the_reading_below_keeps_its_own_time_until_the_walk_reaches_it() {
        let clock = Clock::new();
        let (old, new) = (Freshness::AsOf(clock.at(0)), Freshness::AsOf(clock.at(5)));
        let mut coverage = Coverage::default();
        first_page(&mut coverage, &clock, 0, Position::End);
        first_page(&mut coverage, &clock, 5, at(99));
        assert_eq!(known(&coverage), [(at(99), new), (Position::End, old)]);
        coverage.add_page(at(99), at(95));
        assert_eq!(known(&coverage), [(at(95), new), (Position::End, old)]);
        coverage.add_page(at(95), at(89));
        assert_eq!(known(&coverage), [(Position::End, new)]);
    }

    #[test]
    fn a_first_page_promises_what_is_below_only_if_it_reaches_the_watermark() {
        let clock = Clock::new();
        let mut coverage = Coverage::default();
        first_page(&mut coverage, &clock, 0, at(99));
        coverage.add_page(at(99), at(80));
        assert_eq!((coverage.promised(at(99)), coverage.promised(at(90))), (at(99), at(80)));
    }

    #[test]
    fn a_walk_that_rests_on_an_older_first_page_goes_on_below_newer_ones() {
        let clock = Clock::new();
        let mut coverage = Coverage::default();
        first_page(&mut coverage, &clock, 0, at(99));
        for second in 1..100 {
            let bottom = at(99 + second);
            coverage.add_first_page(clock.at(second), bottom, time(90));
        }
        coverage.add_page(at(99), at(95));
        assert_eq!(known(&coverage).last(), Some(&(at(95), Freshness::AsOf(clock.at(0)))));
        assert!(known(&coverage).len() <= MAX_READINGS);
    }

    #[test]
    fn an_empty_first_page_covers_nothing_and_its_continuation_is_no_first_page() {
        let clock = Clock::new();
        let mut coverage = Coverage::default();
        first_page(&mut coverage, &clock, 0, Position::End);
        first_page(&mut coverage, &clock, 5, Position::Top);
        coverage.add_page(Position::Top, at(80));
        assert_eq!(known(&coverage), [(Position::End, Freshness::AsOf(clock.at(5)))]);
    }

    #[test]
    fn what_is_cut_off_is_not_known() {
        let clock = Clock::new();
        let mut coverage = Coverage::default();
        first_page(&mut coverage, &clock, 0, Position::End);
        coverage.cut_below(at(60));
        assert_eq!(coverage.bottom(), at(60));
        coverage.cut_below(at(40));
        assert_eq!(coverage.bottom(), at(60), "nothing was known there");
    }

    #[test]
    fn below_the_watermark_nothing_can_change() {
        let clock = Clock::new();
        let mut coverage = Coverage::default();
        coverage.add_first_page(clock.at(0), Position::End, clock.at(0).wall);
        let (old, new) = (clock.done([1]), clock.done([0]));
        let freshness = |key: &TaskKey| coverage.stretches(Some(key)).next().expect("known");
        assert_eq!(freshness(&old[0].key).freshness, Freshness::Immutable);
        let mut newer = new[0].key.clone();
        newer.start_time.0 += Duration::from_millis(1);
        assert_eq!(freshness(&newer).freshness, Freshness::AsOf(clock.at(0)));
    }
}
