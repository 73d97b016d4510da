//! Progress of watched tasks: bars on a terminal, plain lines elsewhere.

use std::{
    env,
    io::{IsTerminal as _, stdout},
    time::Duration,
};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{
    output,
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
    bars: Option<MultiProgress>,
}

impl Progress {
    /// Bars if standard output is a terminal that can draw them, else lines.
    pub(super) fn new() -> Self {
        if !stdout().is_terminal() || !can_draw(env::var("TERM").ok().as_deref()) {
            return Self { bars: None };
        }
        Self { bars: Some(MultiProgress::with_draw_target(ProgressDrawTarget::stdout())) }
    }

    /// Adds a task.
    pub(super) fn task(&self, name: String) -> TaskProgress {
        let mut bar = None;
        if let Some(bars) = &self.bars {
            let style = style("{prefix} [{bar:32}] {pos:>3} % {wide_msg}").progress_chars("=> ");
            let new = ProgressBar::new(100).with_style(style).with_prefix(name.clone());
            bar = Some(bars.add(new));
        }
        TaskProgress { name, bar, last_line: String::new() }
    }

    /// Adds a line below the bars, whose text can be replaced; None without bars.
    pub(super) fn footer(&self) -> Option<ProgressBar> {
        let bars = self.bars.as_ref()?;
        Some(bars.add(ProgressBar::new_spinner().with_style(style("{wide_msg}"))))
    }

    /// Prints a line, above the bars if there are any.
    pub(super) fn print_line(&self, line: &str) {
        match &self.bars {
            // Fails only if the terminal is gone, so that the line has no reader.
            Some(bars) => _ = bars.println(line),
            None => output::print_line(line),
        }
    }
}

/// Returns whether a terminal of this type moves its cursor. indicatif draws nothing on others.
fn can_draw(terminal_type: Option<&str>) -> bool {
    !matches!(terminal_type, None | Some("" | "dumb"))
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("a valid template")
}

/// Progress of one task.
pub(super) struct TaskProgress {
    name: String,
    bar: Option<ProgressBar>,
    last_line: String,
}

impl TaskProgress {
    /// Shows the current state of the task.
    pub(super) fn update(&mut self, task: &StoreImageTask, degraded: Option<&Degraded>) {
        let state = state_text(task, degraded);
        let Some(bar) = &self.bar else {
            return self.print(format!("{:>5} {state}", progress_text(task)));
        };
        bar.set_position(u64::try_from(task.progress_percentage.unwrap_or(0)).unwrap_or(0));
        bar.set_message(format!("{state}{}", time_left_text(task)));
        if task.done {
            bar.abandon();
        }
    }

    /// Shows a text instead of the state.
    pub(super) fn message(&mut self, text: String) {
        match &self.bar {
            Some(bar) => bar.set_message(one_line(&text).into_owned()),
            None => self.print(text),
        }
    }

    /// Prints a line, unless it repeats the last one.
    fn print(&mut self, line: String) {
        if line != self.last_line {
            output::print_line(format_args!("{} {line}", self.name));
            self.last_line = line;
        }
    }
}

fn state_text(task: &StoreImageTask, degraded: Option<&Degraded>) -> String {
    let mut text = one_line(&task.state_text).into_owned();
    if has_failed(task) {
        text = format!("{text}: {}", one_line(&task.failure_reason));
    }
    if let Some(degraded) = degraded {
        text = format!("{text} (EC2 cannot be asked: {})", degraded.reason);
    }
    text
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
