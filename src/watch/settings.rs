//! The settings of the watch engine.

use super::interval::Bounds;

/// How often watched tasks are refreshed, and how many watches may be open.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Shortest and longest interval between two refreshes of a watched task.
    pub interval: Bounds,
    /// Number of watches that may be open at once, over all scopes.
    pub max_watches: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { interval: Bounds::default(), max_watches: 50_000 }
    }
}
