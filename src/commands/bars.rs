//! The bars of running tasks on a terminal: as many as fit, above a line that counts all tasks.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use console::Term;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{
    output::print_error_line,
    printable::{one_line, printable},
};

/// 3 lines: those that are no bars, which are the summary, the footer and the cursor's.
const RESERVED_LINES: usize = 3;

/// 16 columns: the inner width of a bar, so that a line of 80 columns has room for an image and a state.
const BAR_COLUMNS: usize = 16;

/// 32 columns: the width up to which a name is shown beside a bar. A task ID is longer.
const NAME_COLUMNS: usize = 32;

/// The columns beside a bar's name and message: the bar, the percentage and the blanks.
const OTHER_COLUMNS: usize = BAR_COLUMNS + 10;

/// How a task has ended, for the count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The task has completed.
    Completed,
    /// The task has failed.
    Failed,
    /// The task could not be followed to its end.
    Lost,
}

/// The bars on standard output. All clones share them.
#[derive(Clone)]
pub(super) struct Bars(Arc<Mutex<Board>>);

/// The bars, and the lines below them.
struct Board {
    terminal: Term,
    lines: MultiProgress,
    summary: ProgressBar,
    shown: Vec<(TaskNumber, ProgressBar)>,
    /// The bars that do not fit. They move up when others end.
    hidden: VecDeque<(TaskNumber, ProgressBar)>,
    counts: Counts,
}

/// The number under which a task was added.
type TaskNumber = usize;

/// Numbers of tasks.
#[derive(Default)]
struct Counts {
    all: usize,
    completed: usize,
    failed: usize,
    lost: usize,
}

impl Bars {
    pub(super) fn new() -> Self {
        let lines = MultiProgress::with_draw_target(ProgressDrawTarget::stdout());
        let summary = lines.add(line());
        let terminal = Term::stdout();
        let (shown, hidden, counts) = (Vec::new(), VecDeque::new(), Counts::default());
        Self(Arc::new(Mutex::new(Board { terminal, lines, summary, shown, hidden, counts })))
    }

    /// Adds a bar with this name.
    pub(super) fn add(&self, name: &str) -> Bar {
        let prefix = console::truncate_str(&one_line(name), NAME_COLUMNS, "…").into_owned();
        let bar = ProgressBar::with_draw_target(Some(100), ProgressDrawTarget::hidden())
            .with_style(bar_style(None))
            .with_prefix(prefix);
        let mut board = self.board();
        let number = board.counts.all;
        board.counts.all += 1;
        board.hidden.push_back((number, bar.clone()));
        board.fit();
        Bar {
            bars: self.clone(),
            number,
            drawn: bar,
            percentage: None,
            name: name.to_owned(),
            said: String::new(),
        }
    }

    /// Adds a line below all others.
    pub(super) fn footer(&self) -> ProgressBar {
        self.board().lines.add(line())
    }

    /// Prints a line above the bars.
    pub(super) fn print_line(&self, text: &str) {
        self.board().print_line(text);
    }

    /// The line that counts all tasks.
    #[cfg(test)]
    pub(super) fn summary(&self) -> String {
        self.board().summary_text()
    }

    /// Leaves the last summary as a line.
    pub(super) fn finish(&self) {
        let board = self.board();
        board.lines.remove(&board.summary);
        board.print_line(&board.summary_text());
    }

    /// A board stays valid if a holder of its lock panics, so poisoning is ignored.
    fn board(&self) -> MutexGuard<'_, Board> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Board {
    /// Shows as many bars as fit, and updates the summary.
    fn fit(&mut self) {
        let (rows, _) = self.terminal.size();
        let room = usize::from(rows).saturating_sub(RESERVED_LINES).max(1);
        while self.shown.len() > room
            && let Some((number, bar)) = self.shown.pop()
        {
            self.lines.remove(&bar);
            self.hidden.push_front((number, bar));
        }
        while self.shown.len() < room
            && let Some((number, bar)) = self.hidden.pop_front()
        {
            let bar = self.lines.insert(self.shown.len(), bar);
            bar.tick();
            self.shown.push((number, bar));
        }
        self.summary.set_message(self.summary_text());
    }

    fn summary_text(&self) -> String {
        let Counts { all, completed, failed, lost } = self.counts;
        let unfinished = all - completed - failed - lost;
        let mut text = format!(
            "{unfinished} of {all} tasks unfinished, {completed} completed, {failed} failed"
        );
        if lost > 0 {
            text = format!("{text}, {lost} not followed to the end");
        }
        match self.hidden.len() {
            0 => text,
            hidden => format!("{text}; {hidden} not shown"),
        }
    }

    fn print_line(&self, text: &str) {
        // Fails only if the terminal is gone, so that the line has no reader.
        let _ = self.lines.println(printable(text));
    }

    fn remove(&mut self, removed: TaskNumber, bar: &ProgressBar, end: End) {
        self.lines.remove(bar);
        self.shown.retain(|(number, _)| *number != removed);
        self.hidden.retain(|(number, _)| *number != removed);
        match end {
            End::Completed => self.counts.completed += 1,
            End::Failed => self.counts.failed += 1,
            End::Lost => self.counts.lost += 1,
        }
        self.fit();
    }
}

/// One task's bar.
pub(super) struct Bar {
    bars: Bars,
    number: TaskNumber,
    drawn: ProgressBar,
    /// None if EC2 gives none.
    percentage: Option<u8>,
    name: String,
    /// The last message that was too long for the bar.
    said: String,
}

impl Bar {
    /// Shows a percentage, or that EC2 gives none.
    pub(super) fn set_percentage(&mut self, percentage: Option<u8>) {
        self.percentage = percentage;
        self.drawn.set_style(bar_style(percentage));
        self.drawn.set_position(percentage.unwrap_or(0).into());
    }

    /// Shows a message beside the bar, followed by `more` if there is room. A message without room is
    /// also printed in full above the bars, once.
    pub(super) fn set_message(&mut self, message: &str, more: &str) {
        let message = one_line(message);
        self.drawn.set_message(format!("{message}{more}"));
        let mut board = self.bars.board();
        board.fit();
        let (_, columns) = board.terminal.size();
        let taken = console::measure_text_width(&self.drawn.prefix()) + OTHER_COLUMNS;
        let room = usize::from(columns).saturating_sub(taken);
        if console::measure_text_width(&message) > room && self.said != message {
            board.print_line(&format!("{} {message}", self.name));
            self.said = message.into_owned();
        }
    }

    /// Replaces the bar by a line above the others, and by another one with the reason if there is one.
    pub(super) fn end(&self, end: End, state: &str, reason: &str) {
        let mut board = self.bars.board();
        board.remove(self.number, &self.drawn, end);
        let (name, state) = (&self.name, one_line(state));
        let (bar, percentage) = (bar_text(self.percentage, end), percentage_text(self.percentage));
        board.print_line(&format!("{name} [{bar}] {percentage} {state}"));
        if !reason.is_empty() {
            board.print_line(&format!("  {}", one_line(reason)));
        }
    }

    /// Removes the bar, and prints an error.
    pub(super) fn fail(&self, error: &str) {
        let mut board = self.bars.board();
        board.remove(self.number, &self.drawn, End::Lost);
        board.lines.suspend(|| print_error_line(error));
    }
}

/// The last bar of a task as text, as indicatif draws it. That of a completed task is full, even if EC2
/// gives no percentage.
fn bar_text(percentage: Option<u8>, end: End) -> String {
    let percentage = match (percentage, end) {
        (Some(percentage), _) => percentage.min(100),
        (None, End::Completed) => 100,
        (None, End::Failed | End::Lost) => 0,
    };
    let columns = usize::from(percentage) * BAR_COLUMNS / 100;
    let mut text = "=".repeat(columns);
    if columns < BAR_COLUMNS {
        text.push('>');
    }
    format!("{text:BAR_COLUMNS$}")
}

/// A percentage in five columns, or a dash if EC2 gives none.
fn percentage_text(percentage: Option<u8>) -> String {
    match percentage {
        Some(percentage) => format!("{percentage:>3} %"),
        None => format!("{:>5}", "-"),
    }
}

/// The style of a bar whose task has this percentage.
fn bar_style(percentage: Option<u8>) -> ProgressStyle {
    let percentage = percentage_text(percentage);
    style(&format!("{{prefix}} [{{bar:{BAR_COLUMNS}}}] {percentage} {{wide_msg}}"))
        .progress_chars("=> ")
}

/// A line whose text can be replaced.
fn line() -> ProgressBar {
    ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden())
        .with_style(style("{wide_msg}"))
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("a valid template")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_without_a_percentage_shows_none() {
        for (percentage, end, expected) in [
            (Some(100), End::Completed, "[================] 100 %"),
            (None, End::Completed, "[================]     -"),
            (Some(50), End::Failed, "[========>       ]  50 %"),
            (None, End::Failed, "[>               ]     -"),
        ] {
            let shown = format!("[{}] {}", bar_text(percentage, end), percentage_text(percentage));
            assert_eq!(shown, expected);
        }
    }
}
