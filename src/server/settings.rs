//! The settings of a whole gateway.

use std::{collections::BTreeSet, time::Duration};

use crate::{
    cache,
    domain::{DefaultRegion, Region},
    ec2, grpc, watch,
};

/// All settings of a gateway.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The cache.
    pub cache: cache::Settings,
    /// The watches.
    pub watch: watch::Settings,
    /// The calls to EC2.
    pub ec2: ec2::Settings,
    /// Region of a request that names none.
    pub default_region: DefaultRegion,
    /// The regions that requests may name beside the default region.
    pub allowed_regions: BTreeSet<Region>,
    /// The gRPC service.
    pub grpc: grpc::Settings,
    /// Time that a shutdown waits for requests in progress.
    pub drain_timeout: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            cache: cache::Settings::default(),
            watch: watch::Settings::default(),
            ec2: ec2::Settings::default(),
            default_region: DefaultRegion::default(),
            allowed_regions: BTreeSet::new(),
            grpc: grpc::Settings::default(),
            drain_timeout: Duration::from_secs(35),
        }
    }
}
