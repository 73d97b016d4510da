//! The host that a client's requests go to. The gateway's errors name it, since the SDK's do not.

use std::sync::{Arc, OnceLock};

use aws_sdk_ec2::{
    config::{ConfigBag, Intercept, RuntimeComponents},
    error::BoxError,
};
use aws_smithy_runtime_api::client::interceptors::context::BeforeTransmitInterceptorContextRef;
use http::Uri;

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

#[cfg(test)]
mod tests {
    use super::*;

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
