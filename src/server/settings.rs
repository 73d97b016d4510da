//! The settings of a whole gateway.

use std::{collections::BTreeSet, time::Duration};

use super::tls::TlsAcceptor;
use crate::{
    cache,
    domain::{DefaultRegion, Region},
    ec2, grpc, watch,
};

/// All settings of a gateway.
#[derive(Clone, Debug, Default)]
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
    /// The connections of the port.
    pub connections: ConnectionSettings,
    /// TLS of the connections; None for plaintext.
    pub tls: Option<TlsAcceptor>,
}

/// Settings of the connections of the gateway's port.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionSettings {
    /// Maximum number of open connections. The limit of open files may lower it.
    pub max_connections: usize,
    /// Time after which a connection without calls is closed.
    pub idle: Duration,
    /// Age at which a client is told to open another connection, give or take 10 percent.
    pub max_age: Duration,
    /// Time after that for calls in progress to end.
    pub max_age_grace: Duration,
    /// Maximum number of bytes of requests that are not answered yet.
    pub max_inbound_bytes: u64,
    /// Maximum number of bytes of answers that their clients have not taken yet.
    pub max_outbound_bytes: u64,
    /// How a connection ends.
    pub drain: DrainSettings,
}

/// Settings of a drain, which lets calls in progress end.
#[derive(Clone, Copy, Debug)]
pub struct DrainSettings {
    /// Time for which a process that is asked to stop still accepts connections.
    pub delay: Duration,
    /// Time within which watches end, one after the other.
    pub spread: Duration,
    /// Time limit of the whole.
    pub timeout: Duration,
}

impl Default for ConnectionSettings {
    fn default() -> Self {
        Self {
            max_connections: 10_000,
            idle: Duration::from_mins(15),
            max_age: Duration::from_hours(1),
            max_age_grace: Duration::from_hours(12),
            max_inbound_bytes: 64 << 20,
            max_outbound_bytes: 64 << 20,
            drain: DrainSettings::default(),
        }
    }
}

impl Default for DrainSettings {
    fn default() -> Self {
        Self {
            delay: Duration::ZERO,
            spread: Duration::from_secs(5),
            timeout: Duration::from_secs(25),
        }
    }
}
