//! How far down the listing is known: which stretches of it have been read without a gap.
//!
//! The listing is newest first and new tasks show up on top, so a stretch that was read stays
//! read. What can happen is that more than a page of new tasks pushes a known stretch down, and
//! leaves a gap between it and the next head page; walking on closes the gap.

use crate::domain::{NextToken, TaskKey};

/// A place in the listing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Position {
    /// Above the newest task.
    Top,
    /// At this task, which need not exist any more.
    At(TaskKey),
    /// Below the oldest task.
    End,
}

impl Position {
    /// Whether a task is above it, or at it.
    pub(super) fn reaches(&self, key: &TaskKey) -> bool {
        match self {
            Self::Top => false,
            Self::At(bottom) => key <= bottom,
            Self::End => true,
        }
    }
}

/// A stretch of the listing that is known without a gap, both ends included.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Interval {
    top: Position,
    bottom: Position,
    /// Leads on from the bottom. None at the end, and when EC2 no longer takes the token.
    next: Option<NextToken>,
}

/// All known stretches, from the top down, disjoint. Nearly always one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Coverage(Vec<Interval>);

impl Coverage {
    /// How far the listing is known from the top on without a gap.
    pub(super) fn bottom(&self) -> &Position {
        match self.0.first() {
            Some(interval) if interval.top == Position::Top => &interval.bottom,
            _ => &Position::Top,
        }
    }

    /// The token that leads on from [`Self::bottom`].
    pub(super) fn next(&self) -> Option<&NextToken> {
        self.0.first().and_then(|interval| interval.next.as_ref())
    }

    /// A new head page is about to be added: what was the top so far is now just where its newest
    /// settled task is. Without any, there is nothing left to hold on to.
    pub(super) fn lower_top(&mut self, watermark: Option<&TaskKey>) {
        let Some(first) = self.0.first_mut() else { return };
        if first.top != Position::Top {
            return;
        }
        match watermark {
            Some(watermark) if first.bottom.reaches(watermark) => {
                first.top = Position::At(watermark.clone());
            }
            _ => {
                self.0.remove(0);
            }
        }
    }

    /// Adds a stretch that was read just now, and joins it with those that it touches.
    pub(super) fn add(&mut self, top: Position, bottom: Position, next: Option<NextToken>) {
        let mut joined = Interval { top, bottom, next };
        self.0.retain(|known| {
            let touches = known.top <= joined.bottom && joined.top <= known.bottom;
            if touches {
                if known.bottom > joined.bottom {
                    joined.bottom = known.bottom.clone();
                    joined.next.clone_from(&known.next);
                }
                joined.top = joined.top.clone().min(known.top.clone());
            }
            !touches
        });
        let place = self.0.partition_point(|known| known.top < joined.top);
        self.0.insert(place, joined);
    }

    /// What is below this task is known no longer.
    pub(super) fn cut_below(&mut self, last: &TaskKey) {
        let last = Position::At(last.clone());
        self.0.retain(|known| known.top <= last);
        if let Some(lowest) = self.0.last_mut().filter(|lowest| lowest.bottom > last) {
            lowest.bottom = last;
            lowest.next = None;
        }
    }

    /// EC2 no longer takes this token.
    pub(super) fn forget(&mut self, token: &NextToken) {
        for interval in &mut self.0 {
            if interval.next.as_ref() == Some(token) {
                interval.next = None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        cmp::Reverse,
        time::{Duration, SystemTime},
    };

    use super::*;
    use crate::domain::ImageId;

    /// The place of a task that started at this second: a higher number is further up.
    fn key(second: u64) -> TaskKey {
        TaskKey {
            start_time: Reverse(SystemTime::UNIX_EPOCH + Duration::from_secs(second)),
            image_id: ImageId::parse("ami-01234567").expect("valid"),
            bucket: "bucket".into(),
        }
    }

    fn at(second: u64) -> Position {
        Position::At(key(second))
    }

    fn token(name: &str) -> Option<NextToken> {
        Some(NextToken(name.into()))
    }

    #[test]
    fn a_walk_goes_deeper_page_by_page() {
        let mut coverage = Coverage::default();
        assert_eq!(coverage.bottom(), &Position::Top);
        coverage.add(Position::Top, at(80), token("a"));
        coverage.add(at(80), at(60), token("b"));
        assert_eq!((coverage.bottom(), coverage.next().cloned()), (&at(60), token("b")));
        coverage.add(at(60), Position::End, None);
        assert_eq!((coverage.bottom(), coverage.next()), (&Position::End, None));
    }

    #[test]
    fn a_head_page_that_joins_keeps_the_depth() {
        let mut coverage = Coverage::default();
        coverage.add(Position::Top, at(80), token("a"));
        coverage.add(at(80), at(60), token("b"));
        coverage.lower_top(Some(&key(99)));
        coverage.add(Position::Top, at(90), token("c"));
        assert_eq!((coverage.bottom(), coverage.next().cloned()), (&at(60), token("b")));
    }

    #[test]
    fn a_head_page_that_does_not_join_leaves_a_gap_that_walking_closes() {
        let mut coverage = Coverage::default();
        coverage.add(Position::Top, Position::End, None);
        coverage.lower_top(Some(&key(99)));
        coverage.add(Position::Top, at(200), token("a"));
        assert_eq!((coverage.bottom(), coverage.next().cloned()), (&at(200), token("a")));
        coverage.add(at(200), at(99), token("b"));
        assert_eq!((coverage.bottom(), coverage.next()), (&Position::End, None));
    }

    #[test]
    fn an_empty_listing_says_nothing_once_tasks_show_up() {
        let mut coverage = Coverage::default();
        coverage.add(Position::Top, Position::End, None);
        coverage.lower_top(None);
        assert_eq!(coverage.bottom(), &Position::Top);
    }

    #[test]
    fn what_is_cut_off_is_not_known_and_leads_nowhere() {
        let mut coverage = Coverage::default();
        coverage.add(Position::Top, Position::End, None);
        coverage.cut_below(&key(60));
        assert_eq!((coverage.bottom(), coverage.next()), (&at(60), None));
        coverage.cut_below(&key(40));
        assert_eq!(coverage.bottom(), &at(60), "nothing was known there");
    }

    #[test]
    fn a_token_that_expired_is_forgotten_and_the_depth_is_not() {
        let mut coverage = Coverage::default();
        coverage.add(Position::Top, at(80), token("a"));
        coverage.forget(&NextToken("a".into()));
        assert_eq!((coverage.bottom(), coverage.next()), (&at(80), None));
    }
}
