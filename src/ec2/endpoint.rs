//! The host that a client's requests go to. The gateway's errors name it, since the SDK's do not. An
//! endpoint of AWS that is configured serves one region.

use std::sync::{Arc, OnceLock};

use aws_config::SdkConfig;
use aws_sdk_ec2::{
    config::{ConfigBag, Intercept, RuntimeComponents},
    error::BoxError,
};
use aws_smithy_runtime_api::client::interceptors::context::BeforeTransmitInterceptorContextRef;
use aws_types::service_config::ServiceConfigKey;
use http::Uri;

use super::start_error::StartError;
use crate::domain::Region;

/// Domains of AWS (EC2 service endpoints of all partitions).
const AWS_DOMAINS: [&str; 4] =
    [".amazonaws.com", ".amazonaws.com.cn", ".api.aws", ".api.amazonwebservices.com.cn"];

/// The host and port of a client's endpoint, from the first request that the SDK sends. It is the
/// same for all requests of a client, since a client has one region.
#[derive(Clone, Debug, Default)]
pub(super) struct EndpointHost(Arc<OnceLock<String>>);

impl EndpointHost {
    /// The host and port. None before the first request.
    pub(super) fn get(&self) -> Option<&str> {
        self.0.get().map(String::as_str)
    }
}

#[aws_smithy_runtime_api::client::interceptors::dyn_dispatch_hint]
impl Intercept for EndpointHost {
    fn name(&self) -> &'static str {
        "EndpointHost"
    }

    fn read_before_transmit(
        &self,
        context: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if self.0.get().is_none()
            && let Some(host) = host_of(context.request().uri())
        {
            // If another request came first, it has set the same host.
            let _ = self.0.set(host);
        }
        Ok(())
    }
}

/// Host and port without the user and password that a configured endpoint may have.
fn host_of(uri: &str) -> Option<String> {
    let uri: Uri = uri.parse().ok()?;
    let host = uri.host()?;
    Some(match uri.port_u16() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    })
}

/// Checks that the configured endpoint, if there is one, serves these regions. EC2 refuses a signature
/// for another region as bad credentials.
pub(super) fn check_regions<'a>(
    config: &SdkConfig,
    mut regions: impl Iterator<Item = &'a Region>,
) -> Result<(), StartError> {
    let Some(endpoint) = configured(config).and_then(|url| host_of(&url)) else { return Ok(()) };
    let Some(endpoint_region) = region_of(&endpoint) else { return Ok(()) };
    match regions.find(|region| **region != endpoint_region) {
        None => Ok(()),
        Some(region) => {
            Err(StartError::EndpointRegion { endpoint, endpoint_region, region: region.clone() })
        }
    }
}

/// The endpoint of the environment or the profile: that for EC2, else that for all services.
fn configured(config: &SdkConfig) -> Option<String> {
    let key = ServiceConfigKey::builder()
        .service_id("EC2")
        .env("AWS_ENDPOINT_URL")
        .profile("endpoint_url")
        .build()
        .ok()?;
    let for_ec2 = config.service_config().and_then(|services| services.load_config(key));
    for_ec2.or_else(|| config.endpoint_url().map(str::to_owned))
}

/// The region in the name of a host of AWS, such as `ec2.us-east-1.amazonaws.com`.
fn region_of(host: &str) -> Option<Region> {
    let (name, _) = host.split_once(':').unwrap_or((host, ""));
    let domain = AWS_DOMAINS.iter().find(|domain| name.ends_with(**domain))?;
    name.strip_suffix(domain)?.split('.').find_map(|label| Region::parse(label).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_of_aws_names_its_region() {
        for (host, region) in [
            ("ec2.us-east-1.amazonaws.com", Some("us-east-1")),
            ("vpce-0123-abcd.ec2.us-east-1.vpce.amazonaws.com:443", Some("us-east-1")),
            ("vpce-0123-abcd-us-east-1a.ec2.us-east-1.vpce.amazonaws.com", Some("us-east-1")),
            ("ec2.cn-north-1.amazonaws.com.cn", Some("cn-north-1")),
            ("ec2.eu-west-1.api.aws", Some("eu-west-1")),
            ("ec2.amazonaws.com", None),
            ("my-host-1.internal", None),
            ("127.0.0.1:5000", None),
        ] {
            assert_eq!(region_of(host).as_ref().map(Region::as_str), region, "{host}");
        }
    }

    #[test]
    fn an_endpoint_of_one_region_serves_no_other() {
        let region = |name| Region::parse(name).expect("valid");
        let config = SdkConfig::builder()
            .endpoint_url("https://vpce-0123-abcd.ec2.us-east-1.vpce.amazonaws.com")
            .build();
        assert!(check_regions(&config, [region("us-east-1")].iter()).is_ok());
        let both = [region("us-east-1"), region("eu-west-1")];
        let error = check_regions(&config, both.iter()).expect_err("another").to_string();
        assert!(error.contains("vpce-0123-abcd") && error.contains("eu-west-1"), "{error}");
        let local = SdkConfig::builder().endpoint_url("http://127.0.0.1:5000").build();
        assert!(check_regions(&local, both.iter()).is_ok());
        assert!(check_regions(&SdkConfig::builder().build(), both.iter()).is_ok());
    }

    #[test]
    fn a_host_has_its_port_and_no_password() {
        for (uri, host) in [
            ("https://ec2.us-east-1.amazonaws.com/", "ec2.us-east-1.amazonaws.com"),
            ("http://127.0.0.1:5000", "127.0.0.1:5000"),
            ("http://user:secret@example.com:80/?Action=x", "example.com:80"),
        ] {
            assert_eq!(host_of(uri).as_deref(), Some(host), "{uri}");
        }
        assert_eq!(host_of("no uri"), None);
    }
}
