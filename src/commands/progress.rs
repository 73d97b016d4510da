//! Watched tasks on a terminal as bars, and elsewhere as plain lines.

use std::io::{IsTerminal as _, stdout};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::client::{has_failed, is_terminal, state_name, time};
use crate::{
    domain::wall_clock,
    proto::{Degraded, StoreImageTask},
};

/// Where progress is shown.
#[derive(Clone)]
pub(super) struct Progress {
    bars: Option<MultiProgress>,
}

impl Progress {
    /// Bars where standard output is a terminal, lines elsewhere.
    pub(super) fn new() -> Self {
        let bars = stdout()
            .is_terminal()
            .then(|| MultiProgress::with_draw_target(ProgressDrawTarget::stdout()));
        Self { bars }
    }

    /// A place for one task.
    pub(super) fn task(&self, name: String) -> TaskProgress {
        let bar = self.bars.as_ref().map(|bars| {
            let style = ProgressStyle::with_template("{prefix} [{bar:32}] {pos:>3} % {wide_msg}")
                .expect("a template that is right")
                .progress_chars("=> ");
            let bar = ProgressBar::new(100).with_style(style).with_prefix(name.clone());
            bars.add(bar)
        });
        TaskProgress { name, bar, last: String::new() }
    }

    /// A line below all tasks, rewritten at each call; None where there are no bars.
    pub(super) fn footer(&self) -> Option<ProgressBar> {
        let bars = self.bars.as_ref()?;
        let style = ProgressStyle::with_template("{wide_msg}").expect("a template that is right");
        Some(bars.add(ProgressBar::new_spinner().with_style(style)))
    }

    /// A line of its own.
    pub(super) fn print_line(&self, line: &str) {
        match &self.bars {
            // Above the bars; where the terminal is gone there is nobody to tell.
            Some(bars) => bars.println(line).unwrap_or_default(),
            None => super::print_line(line),
        }
    }
}

/// One task's bar or lines.
pub(super) struct TaskProgress {
    name: String,
    bar: Option<ProgressBar>,
    last: String,
}

impl TaskProgress {
    /// The task as it is now.
    pub(super) fn update(&mut self, task: &StoreImageTask, degraded: Option<&Degraded>) {
        let mut said = state_name(task).to_owned();
        if has_failed(task) {
            said = format!("{said}: {}", task.failure_reason);
        }
        if let Some(degraded) = degraded {
            said = format!("{said} (EC2 cannot be asked: {})", degraded.reason);
        }
        let left = time(task.estimated_completion_time.as_ref())
            .and_then(|end| end.duration_since(wall_clock()).ok())
            .map(|left| {
                format!(
                    ", about {} left",
                    humantime::format_duration(std::time::Duration::from_secs(left.as_secs()))
                )
            });
        match &self.bar {
            Some(bar) => {
                bar.set_position(u64::try_from(task.progress_percentage).unwrap_or(0));
                bar.set_message(format!("{said}{}", left.unwrap_or_default()));
                if is_terminal(task) {
                    bar.abandon();
                }
            }
            None => self.line(format!("{:>3} % {said}", task.progress_percentage)),
        }
    }

    /// Something else than a task's state.
    pub(super) fn print_line(&mut self, said: &str) {
        match &self.bar {
            Some(bar) => bar.set_message(said.to_owned()),
            None => self.line(said.to_owned()),
        }
    }

    fn line(&mut self, said: String) {
        if said != self.last {
            super::print_line(format_args!("{} {said}", self.name));
            self.last = said;
        }
    }
}
