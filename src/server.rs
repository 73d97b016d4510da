//! Wires the rooms together, listens, and drains.

use std::{collections::BTreeSet, io, sync::Arc, time::Duration};

use tokio::{net::TcpListener, time::timeout};
use tokio_util::sync::CancellationToken;
use tonic::{
    server::NamedService,
    transport::server::{Server, TcpIncoming},
};
use tonic_health::ServingStatus;

use crate::{
    api::ScopePolicy,
    cache::{self, Cache},
    domain::{MakeUpstream, Region},
    ec2,
    grpc::{self, Service},
    proto::{self, server::store_image_task_service_server::StoreImageTaskServiceServer},
    watch::{self, Watches},
};

/// Streams that one connection may have open at once: a client library that keeps one connection
/// should be able to open thousands of watches on it. All watches together are bounded elsewhere.
const STREAMS_PER_CONNECTION: u32 = 10_000;

/// All that can be configured of a gateway.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The cache.
    pub cache: cache::Settings,
    /// The watches.
    pub watch: watch::Settings,
    /// The discipline towards EC2.
    pub ec2: ec2::Settings,
    /// The region of a request that names none.
    pub default_region: Option<Region>,
    /// The only regions that may be asked for. Empty: all.
    pub allowed_regions: BTreeSet<Region>,
    /// The service.
    pub grpc: grpc::Settings,
    /// How long a shutdown waits for requests that are under way.
    pub drain_timeout: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            cache: cache::Settings::default(),
            watch: watch::Settings::default(),
            ec2: ec2::Settings::default(),
            default_region: None,
            allowed_regions: BTreeSet::new(),
            grpc: grpc::Settings::default(),
            drain_timeout: Duration::from_secs(35),
        }
    }
}

/// Why the server stopped.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The server failed.
    #[error("the gRPC server failed: {0}")]
    Transport(#[from] tonic::transport::Error),
    /// The reflection service could not be built.
    #[error("the contract's descriptor set is damaged: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// Requests were still under way when the drain timeout was over.
    #[error("requests were still under way after {0:?}; they were cut off")]
    Undrained(Duration),
    /// The listener failed.
    #[error("cannot listen: {0}")]
    Listen(#[from] io::Error),
}

/// What health knows: the server as a whole, and the service.
const HEALTH: [&str; 2] = ["", <Contract as NamedService>::NAME];

/// How long a draining server still tells its health.
const HEALTH_LINGERS: Duration = Duration::from_secs(1);

type Contract = StoreImageTaskServiceServer<Service>;

/// Serves until `shutdown` is done, then drains: health says NOT_SERVING, no connection is taken
/// any more, watches end with UNAVAILABLE and a pushback, and unary calls finish.
///
/// # Errors
/// Where the server fails, or the drain takes too long.
pub async fn serve(
    listener: TcpListener,
    settings: Settings,
    make_upstream: MakeUpstream,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let draining = CancellationToken::new();
    let drain_timeout = settings.drain_timeout;
    let (mut reporter, health) = tonic_health::server::health_reporter();
    reporter.set_serving::<Contract>().await;

    let server = Server::builder()
        .max_concurrent_streams(STREAMS_PER_CONNECTION)
        .http2_keepalive_interval(Some(Duration::from_mins(1)))
        .http2_keepalive_timeout(Some(Duration::from_secs(20)))
        .add_service(service(settings, make_upstream, draining.clone()).into_server())
        .add_service(health)
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?);
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let server = server.serve_with_incoming_shutdown(incoming, draining.clone().cancelled_owned());

    tokio::pin!(server);
    tokio::select! {
        ended = &mut server => return Ok(ended?),
        () = shutdown => {}
    }
    tracing::info!("draining");
    for service in HEALTH {
        reporter.set_service_status(service, ServingStatus::NotServing).await;
    }
    draining.cancel();
    let drain = async {
        // The streams of tonic-health end only when their status is taken away. Who watches has
        // read NOT_SERVING by then, and who checks is told the same for as long.
        if let Ok(ended) = timeout(HEALTH_LINGERS, &mut server).await {
            return ended;
        }
        for service in HEALTH {
            reporter.clear_service_status(service).await;
        }
        server.await
    };
    match timeout(drain_timeout, drain).await {
        Ok(ended) => Ok(ended?),
        Err(_) => Err(ServeError::Undrained(drain_timeout)),
    }
}

fn service(
    settings: Settings,
    make_upstream: MakeUpstream,
    draining: CancellationToken,
) -> Service {
    let cache = Arc::new(Cache::new(settings.cache, make_upstream));
    let watches = Watches::new(cache.clone(), settings.watch);
    let policy = ScopePolicy {
        default_region: settings.default_region,
        allowed_regions: settings.allowed_regions,
    };
    Service::new(cache, watches, policy, settings.grpc, draining)
}

/// The contract, health, and the details of errors, so that a client without any of them at hand
/// can read all that it gets.
fn reflection() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(proto::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
}
