//! One listing of EC2 as far as it has been read: of all tasks, or of those that pass a filter.

use std::time::Duration;

use super::{
    coverage::{Coverage, Position},
    query::Freshness,
};
use crate::domain::{Answer, CallTime, NextToken, TaskKey};

/// EC2 is eventually consistent: a new task may show up late, below others that started after it.
/// What is older than this has shown up (EC2 API reference, "Eventual consistency", waits for up to
/// five minutes where it advises to wait).
const STABLE_AFTER: Duration = Duration::from_mins(5);

/// See the module.
#[derive(Clone, Debug, Default)]
pub(super) struct Listing {
    head: Option<Head>,
    /// When its newest page was asked for.
    touched: Option<CallTime>,
    coverage: Coverage,
    /// The newest task of what was read since the newest head page, and without a gap below it, that is
    /// settled: what is further down can't be added to any more. A newer one that a look-up told of
    /// stands above what was read without a gap, however new it is.
    watermark: Option<TaskKey>,
    /// The same of what was read before.
    previous_watermark: Option<TaskKey>,
    /// Where a walk over known ground has come to.
    cursor: Option<(Position, NextToken)>,
}

/// The newest head page.
#[derive(Clone, Debug)]
struct Head {
    /// When its call started.
    at: CallTime,
    /// How far down it reached.
    bottom: Position,
    /// Leads on from there.
    next: Option<NextToken>,
}

impl Listing {
    /// The newest head page, which tells of all that is new.
    pub(super) fn as_of(&self) -> Freshness {
        self.head.as_ref().map(|head| head.at).into()
    }

    /// When its newest page was asked for, the head page or another.
    pub(super) fn touched(&self) -> Option<CallTime> {
        self.touched
    }

    /// As long as the listing is known from the top down to this task, it shows all that was not
    /// there when it was read last.
    pub(super) fn watermark(&self) -> Option<&TaskKey> {
        self.watermark.as_ref()
    }

    /// How far down the newest head page reached; None before the first.
    pub(super) fn head_bottom(&self) -> Option<&Position> {
        self.head.as_ref().map(|head| &head.bottom)
    }

    /// How far down it is known without a gap.
    pub(super) fn bottom(&self) -> &Position {
        self.coverage.bottom()
    }

    /// The next page: onwards from the bottom, or over known ground down to a task. None where only
    /// a new head page leads on.
    pub(super) fn onwards(&self, target: Option<&TaskKey>) -> Option<(Position, NextToken)> {
        let coverage = &self.coverage;
        let wanted =
            target.map_or_else(|| coverage.bottom().clone(), |key| Position::At(key.clone()));
        let from_bottom = || {
            target.is_none().then(|| Some((coverage.bottom().clone(), coverage.next()?.clone())))?
        };
        let from_cursor = || self.cursor.clone().filter(|(position, _)| *position < wanted);
        let from_head = || {
            let head =
                self.head.as_ref().filter(|head| head.bottom < wanted || target.is_none())?;
            Some((head.bottom.clone(), head.next.clone()?))
        };
        from_bottom().or_else(from_cursor).or_else(from_head)
    }

    /// Takes over a page that begins at a depth, and says how far down it reached. `lasting` is
    /// whether what was listed stays listed, so that a new head page joins up with what is known.
    pub(super) fn merge(
        &mut self,
        from: &Position,
        answer: &Answer,
        at: CallTime,
        lasting: bool,
    ) -> Position {
        let bottom = match (&answer.next, answer.tasks.last()) {
            (None, _) => Position::End,
            (Some(_), Some(last)) => Position::At(last.key.clone()),
            (Some(_), None) => from.clone(),
        };
        let goes_on = *from == Position::Top || from == self.bottom();
        if *from == Position::Top {
            if !lasting {
                *self = Self::default();
            }
            self.previous_watermark = self.watermark.take().or(self.previous_watermark.take());
            self.coverage.lower_top(self.previous_watermark.as_ref());
            let next = answer.next.clone();
            self.head = Some(Head { at, bottom: bottom.clone(), next });
        } else {
            self.cursor = answer.next.clone().map(|token| (bottom.clone(), token));
        }
        self.touched = Some(at);
        self.coverage.add(from.clone(), bottom.clone(), answer.next.clone());
        if goes_on && self.watermark.is_none() {
            self.watermark = self.first_stable(answer, at);
        }
        bottom
    }

    /// On a page that was added below what was read since the head page; or where this joins what was
    /// read before.
    fn first_stable(&self, answer: &Answer, at: CallTime) -> Option<TaskKey> {
        let on_page = answer.tasks.iter().map(|task| &task.key).find(|key| is_stable(key, at));
        let before = self.previous_watermark.as_ref();
        on_page.or(before.filter(|before| self.bottom().reaches(before))).cloned()
    }

    /// EC2 no longer takes this token.
    pub(super) fn forget(&mut self, token: &NextToken) {
        self.coverage.forget(token);
        self.cursor.take_if(|(_, known)| known == token);
        if let Some(head) = &mut self.head {
            head.next.take_if(|known| known == token);
        }
    }

    /// What is below this task is known no longer. A walk below it goes on: it is for the sake of one
    /// task, and not of what lies on its way.
    pub(super) fn cut_below(&mut self, last: &TaskKey) {
        self.coverage.cut_below(last);
    }
}

/// Whether EC2 had shown all tasks that started before this one, by then.
fn is_stable(key: &TaskKey, at: CallTime) -> bool {
    at.wall.duration_since(key.start_time.0).is_ok_and(|age| age >= STABLE_AFTER)
}
