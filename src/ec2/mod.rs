//! The calls to EC2: one client per scope behind a tower stack, and the classification of errors.
//! No other module uses `aws_sdk_ec2`.
//!
//! The stack, outermost first: trouble log → retry (transient failures only) → rate budget (counts
//! attempts) → record of attempts → attempt timeout → client. The SDK's own retries are off, so that one place retries.

mod attempts;
mod budget;
mod cause;
mod client;
mod codes;
mod endpoint;
mod error;
mod response_integrity;
mod retry;
mod settings;
mod sign;
mod trouble;
mod unknown_words;

use std::sync::Arc;

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
pub use settings::Settings;

use unknown_words::UnknownWords;

use crate::domain::{MakeUpstream, Region, Scope, Upstream};

/// The configuration of the SDK and of the calls, read once at the start.
#[derive(Clone, Debug)]
pub struct Ec2 {
    config: SdkConfig,
    settings: Settings,
    unknown_words: UnknownWords,
}

impl Ec2 {
    /// Reads the SDK's standard configuration: environment, profile files, and the chain of
    /// credential providers. The credentials themselves are read when a call needs them.
    pub async fn from_environment(settings: Settings) -> Self {
        let config = aws_config::defaults(BehaviorVersion::latest())
            .http_client(https())
            .retry_config(RetryConfig::disabled())
            // The attempt timeout covers stalled streams, also those that never began.
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .load()
            .await;
        Self { config, settings, unknown_words: UnknownWords::default() }
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
        Self { config, settings, unknown_words: UnknownWords::default() }
    }

    /// The region of the environment or the profile. None if its form is not that of a region.
    #[must_use]
    pub fn default_region(&self) -> Option<Region> {
        Region::parse(self.config.region()?.as_ref()).ok()
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
                .layer(budget::RateBudgetLayer::new(rate, scope))
                .layer(attempts::AttemptsLayer)
                .map_err(error::from_layer)
                .timeout(*attempt_timeout)
                .service(client::Client::new(
                    &self.config,
                    &scope.region,
                    self.unknown_words.clone(),
                )),
        )
    }
}

/// The HTTP client. It uses ring for TLS, which builds with a C compiler alone.
#[must_use]
pub fn https() -> SharedHttpClient {
    aws_smithy_http_client::Builder::new()
        .tls_provider(Provider::Rustls(CryptoMode::Ring))
        .build_https()
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
