//! Errors of the configuration.

use std::{io, path::PathBuf};

/// Problem of the command line, the environment or the file.
#[derive(Debug, thiserror::Error)]
pub(in crate::commands) enum ConfigError {
    /// clap's own result, help and version included.
    #[error(transparent)]
    Usage(#[from] clap::Error),
    /// The file cannot be read.
    #[error("cannot read the configuration file {path}: {error}", path = path.display())]
    Unreadable { path: PathBuf, error: io::Error },
    /// The file is not TOML.
    #[error("{path}: expected TOML: {error}", path = path.display())]
    NotToml { path: PathBuf, error: Box<toml::de::Error> },
    /// Invalid keys, values or variables, one line each.
    #[error("{}", .0.join("\n"))]
    Invalid(Vec<String>),
}
