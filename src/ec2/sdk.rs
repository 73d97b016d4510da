//! The SDK's configuration. It is loaded when the region is known, and loaded again when EC2 refuses
//! the credentials: the SDK keeps what it has read of a credentials file until the process ends.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use aws_config::{
    BehaviorVersion, SdkConfig, identity::IdentityCache, retry::RetryConfig,
    stalled_stream_protection::StalledStreamProtectionConfig,
};
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use tokio::{
    sync::{Mutex, watch},
    time::Instant,
};

use super::credentials::CheckedProvider;
use crate::domain::Region;

/// 5 s: the shortest time between two renewals. Credentials that are refused twice within it are bad.
const RENEWAL_INTERVAL: Duration = Duration::from_secs(5);

/// 10 s: longer than the time that a provider has, so that its own limit counts.
const CACHE_LOAD_TIMEOUT: Duration = Duration::from_secs(10);

/// The SDK's configuration, shared by the clients of all scopes.
#[derive(Debug)]
pub(super) struct Sdk {
    loaded: watch::Sender<Option<Loaded>>,
    /// The HTTP client with which the configuration is loaded. None if it is fixed.
    http_client: Option<SharedHttpClient>,
    /// Time of the last renewal. The lock is held while the configuration is loaded.
    renewed_at: Mutex<Option<Instant>>,
    had_credentials: AtomicBool,
}

/// A configuration, and how many times it was renewed.
#[derive(Clone, Debug)]
pub(super) struct Loaded {
    pub(super) generation: u64,
    pub(super) config: SdkConfig,
}

impl Sdk {
    /// A configuration that is loaded from the environment later.
    pub(super) fn of_environment(http_client: SharedHttpClient) -> Self {
        Self::new(None, Some(http_client))
    }

    /// A configuration that never changes.
    pub(super) fn fixed(config: SdkConfig) -> Self {
        Self::new(Some(Loaded { generation: 0, config }), None)
    }

    fn new(loaded: Option<Loaded>, http_client: Option<SharedHttpClient>) -> Self {
        Self {
            loaded: watch::Sender::new(loaded),
            http_client,
            renewed_at: Mutex::new(None),
            had_credentials: AtomicBool::new(false),
        }
    }

    /// The configuration, as soon as it is loaded.
    pub(super) async fn get(&self) -> Loaded {
        loop {
            let mut receiver = self.loaded.subscribe();
            // Fails only if the sender is gone, which `self` holds.
            if let Ok(loaded) = receiver.wait_for(Option::is_some).await
                && let Some(loaded) = loaded.clone()
            {
                return loaded;
            }
        }
    }

    /// The region that the SDK finds, as text.
    pub(super) async fn search_region(&self) -> Option<String> {
        let http_client = self.http_client.clone()?;
        let config = load(http_client, None).await;
        Some(config.region()?.to_string())
    }

    /// Loads the configuration, unless it is fixed.
    pub(super) async fn load(&self, region: &Region) {
        let Some(http_client) = &self.http_client else { return };
        let config = load(http_client.clone(), Some(region)).await;
        self.loaded.send_modify(|loaded| {
            let generation = loaded.as_ref().map_or(0, |loaded| loaded.generation + 1);
            *loaded = Some(Loaded { generation, config });
        });
    }

    /// Reads the credentials again after EC2 has refused those of a generation. Returns whether there
    /// is a newer generation to try.
    pub(super) async fn renew(&self, refused: u64) -> bool {
        let mut renewed_at = self.renewed_at.lock().await;
        let Loaded { generation, config } = self.get().await;
        if generation != refused {
            return true;
        }
        if self.http_client.is_none()
            || renewed_at.is_some_and(|at| at.elapsed() < RENEWAL_INTERVAL)
        {
            return false;
        }
        let region = config.region().and_then(|region| Region::parse(region.as_ref()).ok());
        let Some(region) = region else { return false };
        *renewed_at = Some(Instant::now());
        self.load(&region).await;
        true
    }

    /// Records that a request was signed, so that credentials are configured.
    pub(super) fn note_credentials(&self) {
        self.had_credentials.store(true, Ordering::Relaxed);
    }

    /// Returns whether a request was ever signed.
    pub(super) fn had_credentials(&self) -> bool {
        self.had_credentials.load(Ordering::Relaxed)
    }
}

async fn load(http_client: SharedHttpClient, region: Option<&Region>) -> SdkConfig {
    let mut loader = aws_config::defaults(BehaviorVersion::latest())
        .http_client(http_client)
        .identity_cache(IdentityCache::lazy().load_timeout(CACHE_LOAD_TIMEOUT).build())
        .retry_config(RetryConfig::disabled())
        // The attempt timeout covers stalled streams, also those that never began.
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
    if let Some(region) = region {
        loader = loader.region(aws_config::Region::new(region.as_str().to_owned()));
    }
    let config = loader.load().await;
    let Some(provider) = config.credentials_provider() else { return config };
    let checked = SharedCredentialsProvider::new(CheckedProvider(provider));
    config.into_builder().credentials_provider(checked).build()
}
