//! The settings of the watch engine.

use super::interval::Bounds;

/// Settings of the watch engine.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Shortest and longest interval between two refreshes of a watched task.
    pub interval: Bounds,
    /// Maximum number of watches that are open at once, over all scopes.
    pub max_watches: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { interval: Bounds::default(), max_watches: 50_000 }
    }
}
