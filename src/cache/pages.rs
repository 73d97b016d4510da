//! The pages of one listing of EC2 that have been read: where each begins and ends, when it was read,
//! and the tokens that lead to it and on from it.
//!
//! A page is as of its own call; nothing is reset by a newer first page. Pages chain by position.
//! That EC2's tokens are positions that can be used again is an assumption (docs/cache.md): so a
//! page in the middle can be read again by one call, and an old page still leads to the next one.

use imbl::OrdMap;

use super::{
    coverage::{Position, Stretch},
    freshness::Freshness,
};
use crate::domain::{CallTime, NextToken, TaskKey};

/// One page.
#[derive(Clone, Debug)]
struct Page {
    /// When its call started.
    at: CallTime,
    /// The token that leads to it. None leads to the first page.
    token: Option<NextToken>,
    /// Where its first task is; the end if it has none. What lies above, down from where the page begins,
    /// is on neither page.
    first: Position,
    /// Where it ends.
    to: Position,
    /// The token that leads on from there. None at the end, and if EC2 refused its tokens since.
    next: Option<NextToken>,
    /// Which tasks are on it can no longer change.
    is_final: bool,
    /// Some of its tasks had to make room: it only leads on.
    is_hollow: bool,
}

/// A page that is to be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PageStart {
    /// Where it begins.
    pub(super) from: Position,
    /// The token that leads there. None leads to the first page.
    pub(super) token: Option<NextToken>,
}

impl PageStart {
    /// The first page.
    pub(super) const FIRST: Self = Self { from: Position::Top, token: None };
}

/// The pages of one listing, by where they begin.
#[derive(Clone, Debug, Default)]
pub(super) struct Pages(OrdMap<Position, Page>);

impl Pages {
    /// How many pages are kept.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// When the newest page was asked for.
    pub(super) fn newest(&self) -> Option<CallTime> {
        self.0.values().map(|page| page.at).max()
    }

    /// Where the first page ends.
    pub(super) fn first_bottom(&self) -> Option<Position> {
        self.0.get(&Position::Top).map(|page| page.to)
    }

    /// Which tasks are listed from a task down, or from the top, and how new that is.
    pub(super) fn stretches<'a>(
        &'a self,
        after: Option<&TaskKey>,
    ) -> impl Iterator<Item = Stretch> + use<'a> {
        self.chain(after).map(|page| {
            let read = page.read();
            if page.is_final { Stretch { freshness: Freshness::Immutable, ..read } } else { read }
        })
    }

    /// How new it is which tasks are listed from a task down, also of pages that can no longer change.
    pub(super) fn reads<'a>(&'a self, key: &TaskKey) -> impl Iterator<Item = Stretch> + use<'a> {
        self.chain(Some(key)).map(Page::read)
    }

    /// When the pages were read that tell of an unfinished task, which never has to make room: the one
    /// that has it or lacks it, or both that lack it if it would be between their tasks.
    pub(super) fn around<'a>(&'a self, key: &TaskKey) -> impl Iterator<Item = Stretch> + use<'a> {
        let first = self.first_around(key).map(|(_, page)| page);
        self.down_from(first, true)
            .map(|page| Stretch { bottom: page.to, freshness: Freshness::AsOf(page.at) })
    }

    fn first_around(&self, key: &TaskKey) -> Option<(&Position, &Page)> {
        let (from, page) = self.above(key)?;
        let position = Position::above(key);
        if page.to < position {
            return None;
        }
        match self.before(*from) {
            Some(before) if position <= page.first => {
                if before.1.to >= *from {
                    Some(before)
                } else {
                    None
                }
            }
            _ => Some((from, page)),
        }
    }

    fn before(&self, position: Position) -> Option<(&Position, &Page)> {
        self.0.range(..position).next_back()
    }

    /// The pages that follow each other from a task down, or from the top. The first of them is the
    /// one that may hold tasks which started at the same time as the task.
    fn chain<'a>(&'a self, after: Option<&TaskKey>) -> impl Iterator<Item = &'a Page> + use<'a> {
        let first = match after {
            None => self.0.get(&Position::Top),
            Some(key) => match self.above(key) {
                Some((_, page)) if page.to >= Position::above(key) => Some(page),
                _ => None,
            },
        };
        self.down_from(first, false)
    }

    /// A page and those that follow. Where tasks that started together stand on two pages, these tell of
    /// all of them only if the lower one was read after the upper one: by its token, from where it ends.
    fn down_from<'a>(
        &'a self,
        first: Option<&'a Page>,
        is_between_pages: bool,
    ) -> impl Iterator<Item = &'a Page> + use<'a> {
        std::iter::successors(first, move |page| {
            let (from, next) = self.0.range(..=page.to).next_back()?;
            let is_split = is_between_pages || next.first == *from;
            let follows = next.at >= page.at || !is_split;
            (next.to > page.to && follows).then_some(next)
        })
    }

    /// The page that begins next above a task.
    fn above(&self, key: &TaskKey) -> Option<(&Position, &Page)> {
        self.0.range(..Position::above(key)).next_back()
    }

    /// The page to read for the state of a task.
    pub(super) fn start_around(&self, key: &TaskKey) -> PageStart {
        if let Some((from, page)) = self.first_around(key) {
            return page.start(*from);
        }
        match self.above(key) {
            Some((from, page)) if page.to >= Position::above(key) => {
                let before = self.before(*from);
                before.map_or(PageStart::FIRST, |(from, before)| self.following(*from, before))
            }
            Some((from, page)) => self.following(*from, page),
            None => PageStart::FIRST,
        }
    }

    /// The page to read for the tasks after a task, or from the top, of which nothing is known that is
    /// new enough.
    pub(super) fn after(&self, after: Option<&TaskKey>) -> PageStart {
        let Some(key) = after else { return PageStart::FIRST };
        match self.above(key) {
            Some((from, page)) if page.to >= Position::above(key) => page.start(*from),
            Some((from, page)) => self.following(*from, page),
            None => PageStart::FIRST,
        }
    }

    /// The page to read for what lies below a position that is known to be new enough.
    pub(super) fn below(&self, position: Position) -> PageStart {
        match self.0.range(..=position).next_back() {
            Some((from, page)) if page.to > position => page.start(*from),
            Some((from, page)) => self.following(*from, page),
            None => PageStart::FIRST,
        }
    }

    /// The page to read after a page. One that ends where it begins is empty, or holds nothing but tasks
    /// that started together. If the page above was read since, it may end elsewhere among these, and the
    /// walk goes on from there.
    fn following(&self, from: Position, page: &Page) -> PageStart {
        let is_passed =
            page.to == from && self.before(from).is_some_and(|(_, above)| above.at > page.at);
        match &page.next {
            _ if is_passed => page.start(from),
            Some(next) => PageStart { from: page.to, token: Some(next.clone()) },
            None => PageStart::FIRST,
        }
    }

    /// Adds a page with the positions of its first task and of its end. One that begins where the page
    /// before it began continues that page: a page may be empty, or hold only tasks that started at the
    /// same time.
    pub(super) fn add(
        &mut self,
        start: &PageStart,
        (first, to): (Position, Position),
        next: Option<NextToken>,
        at: CallTime,
        is_final: bool,
    ) {
        let token = start.token.clone();
        let mut page = Page { at, token, first, to, next, is_final, is_hollow: false };
        if let Some(begun) = self.0.get(&start.from)
            && begun.to == start.from
            && begun.leads_to(start)
        {
            page.at = begun.at.min(at);
            page.first = begun.first.min(first);
            page.token.clone_from(&begun.token);
        }
        let mut inside = Vec::new();
        for (from, _) in self.0.range(start.from..to) {
            inside.push(*from);
        }
        for from in inside {
            self.0.remove(&from);
        }
        if to > start.from
            && let Some(following) = self.0.get_mut(&to)
        {
            // Of two tokens that lead to the same page, the newer one is valid for longer.
            following.token.clone_from(&page.next);
        }
        self.0.insert(start.from, page);
    }

    /// Tasks that started at the time of a position or before had to make room: nothing is known below it.
    pub(super) fn cut_below(&mut self, position: Position) {
        let (mut above, ..) = self.0.split(&position);
        if let Some((from, mut page)) = above.get_max().cloned()
            && page.to > position
        {
            (page.to, page.next) = (position, None);
            above.insert(from, page);
        }
        self.0 = above;
    }

    /// The same, but the pages still lead on.
    pub(super) fn hollow_below(&mut self, position: Position) {
        let mut hollow = Vec::new();
        for (from, page) in &self.0 {
            if page.to > position && !page.is_hollow {
                hollow.push((*from, Page { is_hollow: true, ..page.clone() }));
            }
        }
        self.0.extend(hollow);
    }

    /// Whether a page above this position has this token already: then EC2's tokens lead in a circle.
    pub(super) fn repeats(&self, start: &PageStart, next: &NextToken) -> bool {
        if start.token.as_ref() == Some(next) {
            return true;
        }
        let above = self.0.range(..start.from);
        above.into_iter().any(|(_, page)| page.token.as_ref() == Some(next))
    }

    /// The call by which the page that begins here tells of a task at a position. What lies between the last
    /// task of the page above and the first of this one is on neither: both tell of it, if this one was
    /// read after the other.
    pub(super) fn tells_at(&self, from: Position, position: Position) -> Option<CallTime> {
        let page = self.0.get(&from)?;
        if page.first < position {
            return Some(page.at);
        }
        let (_, above) = self.before(from)?;
        if above.to >= from && page.at >= above.at { Some(above.at) } else { None }
    }

    /// EC2 refused a token. The walk begins again: no other token of the same age is trusted.
    pub(super) fn forget_tokens(&mut self) {
        let first = self.0.remove(&Position::Top);
        self.0.clear();
        if let Some(first) = first {
            self.0.insert(Position::Top, Page { next: None, ..first });
        }
    }
}

impl Page {
    /// Reads this page again.
    fn start(&self, from: Position) -> PageStart {
        PageStart { from, token: self.token.clone() }
    }

    fn leads_to(&self, start: &PageStart) -> bool {
        start.token.is_some() && self.next == start.token
    }

    fn read(&self) -> Stretch {
        let freshness = if self.is_hollow { Freshness::Missing } else { Freshness::AsOf(self.at) };
        Stretch { bottom: self.to, freshness }
    }
}
