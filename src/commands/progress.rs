//! Progress of watched tasks: bars on a terminal, plain lines elsewhere.

use std::{
    env,
    io::{IsTerminal as _, stdout},
    time::Duration,
};

use indicatif::ProgressBar;

use super::{
    bars::{Bar, Bars, End},
    output::{self, print_error_line},
    printable::one_line,
    task_format::{has_failed, progress_text, time},
};
use crate::{
    domain::wall_clock,
    proto::{Degraded, StoreImageTask},
};

/// The progress of several tasks on standard output.
#[derive(Clone)]
pub(super) struct Progress {
    /// None if standard output is not a terminal.
    bars: Option<Bars>,
}

impl Progress {
    /// Bars if standard output is a terminal that can draw them, else lines.
    pub(super) fn new() -> Self {
        if !stdout().is_terminal() || !can_draw(env::var("TERM").ok().as_deref()) {
            return Self { bars: None };
        }
        Self { bars: Some(Bars::new()) }
    }

    /// Adds a task.
    pub(super) fn task(&self, name: String) -> TaskProgress {
        match &self.bars {
            Some(bars) => TaskProgress::Bar(bars.add(&name)),
            None => TaskProgress::Lines(Lines { name, last: String::new() }),
        }
    }

    /// Adds a line below the bars, whose text can be replaced; None without bars.
    pub(super) fn footer(&self) -> Option<ProgressBar> {
        Some(self.bars.as_ref()?.footer())
    }

    /// Prints a line, above the bars if there are any.
    pub(super) fn print_line(&self, line: &str) {
        match &self.bars {
            Some(bars) => bars.print_line(line),
            None => output::print_line(line),
        }
    }

    /// Leaves the count of all tasks below their last lines, if there are bars.
    pub(super) fn finish(&self) {
        if let Some(bars) = &self.bars {
            bars.finish();
        }
    }
}

/// Returns whether a terminal of this type moves its cursor. indicatif draws nothing on others.
fn can_draw(terminal_type: Option<&str>) -> bool {
    !matches!(terminal_type, None | Some("" | "dumb"))
}

/// Progress of one task.
pub(super) enum TaskProgress {
    Bar(Bar),
    Lines(Lines),
}

/// The lines of one task.
pub(super) struct Lines {
    name: String,
    last: String,
}

impl TaskProgress {
    /// Shows the current state of the task.
    pub(super) fn update(&mut self, task: &StoreImageTask, degraded: Option<&Degraded>) {
        match self {
            Self::Bar(bar) => update_bar(bar, task, degraded),
            Self::Lines(lines) => {
                let mut state = task.state_text.clone();
                if has_failed(task) {
                    state = format!("{state}: {}", task.failure_reason);
                }
                let state = with_trouble(&state, degraded);
                lines.print(&format!("{:>5} {state}", progress_text(task)));
            }
        }
    }

    /// Shows a text instead of the state.
    pub(super) fn message(&mut self, text: &str) {
        match self {
            Self::Bar(bar) => bar.set_message(text, ""),
            Self::Lines(lines) => lines.print(text),
        }
    }

    /// Ends the progress of a task that cannot be followed to its end, with an error.
    pub(super) fn fail(&self, error: &str) {
        match self {
            Self::Bar(bar) => bar.fail(error),
            Self::Lines(_) => print_error_line(error),
        }
    }
}

impl Lines {
    /// Prints a line, unless it repeats the last one.
    fn print(&mut self, line: &str) {
        let line = one_line(line);
        if line != self.last {
            output::print_line(format_args!("{} {line}", self.name));
            self.last = line.into_owned();
        }
    }
}

fn update_bar(bar: &mut Bar, task: &StoreImageTask, degraded: Option<&Degraded>) {
    let percentage = task.progress_percentage;
    bar.set_percentage(
        percentage.map(|percent| u8::try_from(percent.clamp(0, 100)).unwrap_or(100)),
    );
    if !task.done {
        return bar.set_message(&with_trouble(&task.state_text, degraded), &time_left_text(task));
    }
    let end = if has_failed(task) { End::Failed } else { End::Completed };
    bar.end(end, &task.state_text, &task.failure_reason);
}

/// A state, and why EC2 cannot be asked for it.
fn with_trouble(state: &str, degraded: Option<&Degraded>) -> String {
    match degraded {
        Some(degraded) => format!("{state} (EC2 cannot be asked: {})", degraded.reason),
        None => state.to_owned(),
    }
}

/// A text such as `, about 2m left`. Empty if the end is unknown or past.
fn time_left_text(task: &StoreImageTask) -> String {
    let Some(end) = time(task.estimated_completion_time.as_ref()) else { return String::new() };
    let Ok(left) = end.duration_since(wall_clock()) else { return String::new() };
    let left = Duration::from_secs(left.as_secs());
    format!(", about {} left", humantime::format_duration(left))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_need_a_terminal_that_moves_its_cursor() {
        assert!(can_draw(Some("xterm-256color")) && can_draw(Some("vt100")));
        for terminal_type in [None, Some(""), Some("dumb")] {
            assert!(!can_draw(terminal_type), "{terminal_type:?}");
        }
    }
}
