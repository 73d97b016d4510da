//! The one room that names `aws_sdk_ec2`: a client per scope behind a tower stack, and the classes
//! that EC2's errors fall into.
//!
//! The stack, outermost first: retry (only what is transient) → rate budget (counted per attempt)
//! → attempt timeout → client. The SDK's own retries are off: one place retries.

mod budget;
mod cause;
mod client;
mod codes;
mod endpoint;
mod error;
mod response_integrity;
mod retry;

use std::{sync::Arc, time::Duration};

use aws_config::{
    BehaviorVersion, SdkConfig, retry::RetryConfig,
    stalled_stream_protection::StalledStreamProtectionConfig,
};
use aws_credential_types::{Credentials, provider::SharedCredentialsProvider};
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use tower::{ServiceBuilder, util::BoxCloneSyncService};

pub use budget::RateSettings;
pub use codes::{KNOWN_CODES, kind_of_code};
pub use retry::RetrySettings;

use crate::domain::{MakeUpstream, Region, Scope, Upstream};

/// The SDK's answer to where EC2 is and who we are, read once at the start.
#[derive(Clone, Debug)]
pub struct Ec2 {
    config: SdkConfig,
    settings: Settings,
}

/// The discipline towards EC2.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How long one attempt may take.
    pub attempt_timeout: Duration,
    /// How often, and how far apart, is tried again.
    pub retry: RetrySettings,
    /// How many calls a scope may make.
    pub rate: RateSettings,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            attempt_timeout: Duration::from_secs(10),
            retry: RetrySettings::default(),
            rate: RateSettings::default(),
        }
    }
}

impl Ec2 {
    /// Reads the SDK's standard configuration: environment, profile files, and the chain of
    /// credential providers. Credentials themselves are only looked for when a call needs them.
    pub async fn from_environment(settings: Settings) -> Self {
        let config = aws_config::defaults(BehaviorVersion::latest())
            .http_client(https())
            .retry_config(RetryConfig::disabled())
            // The attempt timeout covers a stream that stalls, and one that never began.
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .load()
            .await;
        Self { config, settings }
    }

    /// Asks this endpoint, with credentials that mean nothing: for a simulator. Nothing is read
    /// from the environment.
    #[must_use]
    pub fn at_endpoint(endpoint: &str, settings: Settings) -> Self {
        let credentials = Credentials::new("simulated", "simulated", None, None, "simulator");
        let config = SdkConfig::builder()
            .behavior_version(BehaviorVersion::latest())
            .http_client(https())
            .endpoint_url(endpoint)
            .credentials_provider(SharedCredentialsProvider::new(credentials))
            .retry_config(RetryConfig::disabled())
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .build();
        Self { config, settings }
    }

    /// The region of the environment or the profile, where it has the form of one.
    #[must_use]
    pub fn default_region(&self) -> Option<Region> {
        Region::parse(self.config.region()?.as_ref()).ok()
    }

    /// Makes the way to each scope's EC2.
    #[must_use]
    pub fn make_upstream(self) -> MakeUpstream {
        Arc::new(move |scope| self.upstream(scope))
    }

    fn upstream(&self, scope: &Scope) -> Upstream {
        let Settings { attempt_timeout, retry, rate } = &self.settings;
        BoxCloneSyncService::new(
            ServiceBuilder::new()
                .layer(retry::layer(retry))
                .layer(budget::RateBudgetLayer::new(rate))
                .map_err(error::from_layer)
                .timeout(*attempt_timeout)
                .service(client::Client::new(&self.config, &scope.region)),
        )
    }
}

/// The HTTP client: ring for TLS, which builds with a C compiler alone.
#[must_use]
pub fn https() -> SharedHttpClient {
    aws_smithy_http_client::Builder::new()
        .tls_provider(Provider::Rustls(CryptoMode::Ring))
        .build_https()
}
