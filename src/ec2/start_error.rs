//! The reasons for which the gateway does not start with its AWS configuration.

use std::{io, path::PathBuf};

use crate::domain::{NameError, Region};

/// A wrong AWS configuration, found before the gateway serves with it.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Environment variables that the SDK cannot use, one line each.
    #[error("{}", .0.join("\n"))]
    Variables(Vec<String>),
    /// A text that is no region.
    #[error("{origin}: {error}")]
    Region {
        /// Where the text comes from.
        origin: &'static str,
        /// What is wrong with it.
        error: NameError,
    },
    /// No region at all.
    #[error(
        "no region: the environment, the AWS profile and the instance metadata name none; set --default-region, --allowed-regions or AWS_REGION"
    )]
    NoRegion,
    /// The endpoint serves another region than those asked for.
    #[error(
        "the endpoint {endpoint} belongs to {endpoint_region} and cannot be asked for {region}; remove the region from --default-region, --allowed-regions or AWS_REGION, or set no endpoint"
    )]
    EndpointRegion {
        /// The host of the endpoint.
        endpoint: String,
        /// The region in its name.
        endpoint_region: Region,
        /// The region that requests may name.
        region: Region,
    },
    /// A file of certificates cannot be read.
    #[error("{origin}: cannot read {path}: {error}", path = path.display())]
    UnreadableBundle {
        /// The variable, or the key of the profile, that names the file.
        origin: &'static str,
        /// The path.
        path: PathBuf,
        /// The system's error.
        error: io::Error,
    },
    /// A file of certificates holds none, or one that cannot be read.
    #[error("{origin}: expected valid certificates in PEM in {path}", path = path.display())]
    BadBundle {
        /// The variable, or the key of the profile, that names the file.
        origin: &'static str,
        /// The path.
        path: PathBuf,
    },
}
