//! The calls to EC2: one client per scope behind a tower stack, and the classification of errors.
//! No other module uses `aws_sdk_ec2`.
//!
//! The stack, outermost first: trouble log → retry (transient failures only) → memory of a host that
//! is not found → rate budget (counts attempts) → record of attempts → attempt timeout → client. The
//! SDK's own retries are off, so that one place retries.

mod attempts;
mod budget;
mod cause;
mod client;
mod codes;
mod credentials;
mod endpoint;
mod environment;
mod error;
mod http_client;
mod response_integrity;
mod retry;
mod sdk;
mod settings;
mod sign;
mod start_error;
mod text_bounds;
mod trouble;
mod unknown_words;
mod unresolved;

use std::{collections::BTreeSet, sync::Arc};

use aws_config::{
    BehaviorVersion, SdkConfig, retry::RetryConfig,
    stalled_stream_protection::StalledStreamProtectionConfig,
};
use aws_credential_types::{
    Credentials,
    provider::{ProvideCredentials as _, SharedCredentialsProvider},
};
use tower::{ServiceBuilder, util::BoxCloneSyncService};

pub use budget::RateSettings;
pub use codes::{KNOWN_CODES, kind_of_code};
pub use http_client::https;
pub use retry::RetrySettings;
pub use settings::Settings;
pub use start_error::StartError;

use crate::domain::{MakeUpstream, Region, Scope, Upstream, UpstreamError};
use environment::Environment;
use sdk::Sdk;
use unknown_words::UnknownWords;

/// The configuration of the SDK and of the calls.
#[derive(Clone, Debug)]
pub struct Ec2 {
    sdk: Arc<Sdk>,
    settings: Settings,
    unknown_words: UnknownWords,
}

impl Ec2 {
    /// Checks the environment for the SDK's standard configuration: environment, profile files, and the
    /// chain of credential providers. [`Self::load`] reads it, and the credentials are read when a call
    /// needs them.
    ///
    /// # Errors
    /// If the environment or the profile has values that the SDK cannot use.
    pub async fn from_environment(settings: Settings) -> Result<Self, StartError> {
        Environment::OF_PROCESS.check()?;
        let sdk = Sdk::of_environment(http_client::of_environment().await?);
        Ok(Self::new(sdk, settings))
    }

    /// The configuration for a simulator at this endpoint, with made-up credentials. It reads
    /// nothing from the environment.
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
        Self::new(Sdk::fixed(config), settings)
    }

    fn new(sdk: Sdk, settings: Settings) -> Self {
        Self { sdk: Arc::new(sdk), settings, unknown_words: UnknownWords::default() }
    }

    /// The region of `AWS_REGION` or `AWS_DEFAULT_REGION`.
    ///
    /// # Errors
    /// If the text is no region.
    pub fn region_of_environment() -> Result<Option<Region>, StartError> {
        Environment::OF_PROCESS.region()
    }

    /// Searches the profile files and the instance metadata for a region. That takes seconds where there
    /// is no instance metadata.
    ///
    /// # Errors
    /// If the text that is found is no region.
    pub async fn search_region(&self) -> Result<Option<Region>, StartError> {
        match self.sdk.search_region().await {
            Some(text) => environment::parse_region(&text, "the AWS profile or metadata").map(Some),
            None => Ok(None),
        }
    }

    /// Loads the configuration with this region. Calls wait for it.
    ///
    /// # Errors
    /// If the configured endpoint does not serve this region and all that are allowed.
    pub async fn load(
        &self,
        region: &Region,
        allowed: &BTreeSet<Region>,
    ) -> Result<(), StartError> {
        self.sdk.load(region).await;
        let regions = allowed.iter().chain([region]);
        endpoint::check_regions(&self.sdk.get().await.config, regions)
    }

    /// The access key ID of the credentials with which calls are signed.
    ///
    /// # Errors
    /// If there are no credentials.
    pub async fn access_key_id(&self) -> Result<String, UpstreamError> {
        let config = self.sdk.get().await.config;
        let Some(provider) = config.credentials_provider() else {
            return Err(error::no_credentials());
        };
        match provider.provide_credentials().await {
            Ok(credentials) => Ok(credentials.access_key_id().to_owned()),
            Err(failed) => Err(error::of_credentials(&failed, false)),
        }
    }

    /// The function that makes a scope's client.
    #[must_use]
    pub fn make_upstream(self) -> MakeUpstream {
        Arc::new(move |scope| self.upstream(scope))
    }

    fn upstream(&self, scope: &Scope) -> Upstream {
        let Settings { attempt_timeout, retry, rate } = &self.settings;
        BoxCloneSyncService::new(
            ServiceBuilder::new()
                .layer(trouble::TroubleLogLayer::new(scope))
                .layer(retry::layer(retry))
                .layer(unresolved::UnresolvedLayer::default())
                .layer(budget::RateBudgetLayer::new(rate, scope))
                .layer(attempts::AttemptsLayer)
                .map_err(error::from_layer)
                .timeout(*attempt_timeout)
                .service(client::Client::new(
                    self.sdk.clone(),
                    &scope.region,
                    self.unknown_words.clone(),
                )),
        )
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;
    use tower::ServiceExt as _;

    use super::*;
    use crate::domain::log_capture::LogCapture;
    use crate::domain::{AccountName, DescribeRequest, DescribeTarget, ErrorKind, ListingFilter};

    #[tokio::test]
    async fn the_log_names_the_host_that_refuses_connections() {
        let log = LogCapture::start();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        drop(listener);
        let retry = RetrySettings { max_attempts: 1, ..RetrySettings::default() };
        let settings = Settings { retry, ..Settings::default() };
        let make_upstream =
            Ec2::at_endpoint(&format!("http://{address}"), settings).make_upstream();
        let region = Region::parse("us-east-1").expect("valid");
        let scope = Scope { account: AccountName::default(), region };
        let target = DescribeTarget::Listing { filter: ListingFilter::default(), next: None };
        let request = DescribeRequest::new(target, false);
        let failed = make_upstream(&scope).oneshot(request).await;
        assert_eq!(failed.expect_err("refused").kind, ErrorKind::Unavailable);
        let lines = log.lines();
        assert_eq!(lines.len(), 1, "{lines:#?}");
        assert!(lines[0].contains(&format!(": {address}: ")), "{lines:#?}");
        assert!(lines[0].contains("Connection refused"), "{lines:#?}");
    }
}
