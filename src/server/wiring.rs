//! Wires the modules together into the services of the gateway's port.

use std::sync::Arc;

use tonic::{codec::CompressionEncoding, service::Routes};
use tonic_health::pb::health_server::{Health, HealthServer};
use tower::Layer as _;

use super::settings::Settings;
use crate::{
    api::ScopePolicy,
    cache::Cache,
    domain::MakeUpstream,
    grpc::{Edge, ForeignStreams, ForeignStreamsLayer, MAX_FOREIGN_MESSAGE_BYTES, Service},
    proto,
    watch::Watches,
};

/// The one encoding in which requests may come.
const GZIP: CompressionEncoding = CompressionEncoding::Gzip;

/// All services of the port.
pub(super) type Services = ForeignStreams<Edge<Routes>>;

/// The gateway's services: the contract, health and reflection.
///
/// # Errors
/// If the contract's descriptor set cannot be decoded.
pub(super) fn services(
    settings: Settings,
    make_upstream: MakeUpstream,
    health: HealthServer<impl Health>,
) -> Result<Services, tonic_reflection::server::Error> {
    let service = service(settings, make_upstream);
    let edge = service.edge();
    let health =
        health.accept_compressed(GZIP).max_decoding_message_size(MAX_FOREIGN_MESSAGE_BYTES);
    let reflection_v1 = reflection()
        .build_v1()?
        .accept_compressed(GZIP)
        .max_decoding_message_size(MAX_FOREIGN_MESSAGE_BYTES);
    let reflection_v1alpha = reflection()
        .build_v1alpha()?
        .accept_compressed(GZIP)
        .max_decoding_message_size(MAX_FOREIGN_MESSAGE_BYTES);
    let routes = Routes::new(service.into_server())
        .add_service(health)
        .add_service(reflection_v1)
        .add_service(reflection_v1alpha)
        .prepare();
    Ok(ForeignStreamsLayer::default().layer(edge.layer(routes)))
}

fn service(settings: Settings, make_upstream: MakeUpstream) -> Service {
    let cache = Arc::new(Cache::new(settings.cache, make_upstream));
    let watches = Watches::new(cache.clone(), settings.watch);
    let policy = ScopePolicy {
        default_region: settings.default_region,
        allowed_regions: settings.allowed_regions,
    };
    Service::new(cache, watches, policy, settings.grpc)
}

/// Reflection of the contract, of health and of the error details. A client without their
/// definitions can then read every message.
fn reflection() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(proto::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
}
