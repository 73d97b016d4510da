//! Wires the modules together into one gRPC server.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;
use tonic::{
    codec::CompressionEncoding,
    transport::server::{Router, Server},
};
use tonic_health::pb::health_server::{Health, HealthServer};
use tower::layer::util::{Identity, Stack};

use super::settings::Settings;
use crate::{
    api::ScopePolicy,
    cache::Cache,
    domain::MakeUpstream,
    grpc::{EdgeLayer, Service},
    proto,
    watch::Watches,
};

/// Maximum number of streams that one connection may have open at once. A client library that keeps
/// one connection must be able to open thousands of watches on it. `max_watches` bounds the watches
/// of all connections together.
const STREAMS_PER_CONNECTION: u32 = 10_000;

/// Interval at which an idle connection is probed with an HTTP/2 PING.
const KEEPALIVE_INTERVAL: Duration = Duration::from_mins(1);
/// Time after which a connection without an answer to a PING is closed.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// 64 KiB: the size of headers from which on HTTP/2 itself refuses a request, without a gRPC status.
/// The edge refuses smaller ones with one.
const HTTP2_HEADER_BYTES: u32 = 64 << 10;

/// The one encoding in which requests may come.
const GZIP: CompressionEncoding = CompressionEncoding::Gzip;

/// A router of the gateway's services: the contract, health and reflection.
///
/// # Errors
/// If the contract's descriptor set cannot be decoded.
pub(super) fn router(
    settings: Settings,
    make_upstream: MakeUpstream,
    draining: CancellationToken,
    health: HealthServer<impl Health>,
) -> Result<Router<Stack<EdgeLayer, Identity>>, tonic_reflection::server::Error> {
    let router = Server::builder()
        .max_concurrent_streams(STREAMS_PER_CONNECTION)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .http2_max_header_list_size(HTTP2_HEADER_BYTES)
        .layer(EdgeLayer)
        .add_service(service(settings, make_upstream, draining).into_server())
        .add_service(health.accept_compressed(GZIP))
        .add_service(reflection().build_v1()?.accept_compressed(GZIP))
        .add_service(reflection().build_v1alpha()?.accept_compressed(GZIP));
    Ok(router)
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

/// Reflection of the contract, of health and of the error details. A client without their
/// definitions can then read every message.
fn reflection() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(proto::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
}
