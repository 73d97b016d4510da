//! Checks the credentials of each provider before the SDK signs with them.

use std::time::Duration;

use aws_credential_types::{
    Credentials,
    provider::{ProvideCredentials, SharedCredentialsProvider, error::CredentialsError, future},
};
use tokio::time::timeout;

/// 5 s: the time that a provider has, as the SDK itself gives it. The SDK's own limit has no type by
/// which a time-out could be told from a wrong configuration.
const PROVIDER_TIMEOUT: Duration = Duration::from_secs(5);

/// Credentials that cannot be sent: the SDK would panic when it puts them into a header.
#[derive(Debug, thiserror::Error)]
#[error(
    "the {0} of the gateway's AWS credentials has characters that no header takes, perhaps a line end"
)]
pub(super) struct UnfitCredentials(&'static str);

/// A provider whose credentials are checked.
#[derive(Debug)]
pub(super) struct CheckedProvider(pub(super) SharedCredentialsProvider);

impl ProvideCredentials for CheckedProvider {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(async {
            match timeout(PROVIDER_TIMEOUT, self.0.provide_credentials()).await {
                Ok(provided) => check(provided?),
                Err(_) => Err(CredentialsError::provider_timed_out(PROVIDER_TIMEOUT)),
            }
        })
    }

    fn fallback_on_interrupt(&self) -> Option<Credentials> {
        self.0.fallback_on_interrupt()
    }
}

fn check(credentials: Credentials) -> Result<Credentials, CredentialsError> {
    let parts = [
        ("access key ID", Some(credentials.access_key_id())),
        ("secret access key", Some(credentials.secret_access_key())),
        ("session token", credentials.session_token()),
    ];
    for (name, part) in parts {
        if part.is_some_and(|part| !part.bytes().all(|byte| byte.is_ascii_graphic())) {
            return Err(CredentialsError::invalid_configuration(UnfitCredentials(name)));
        }
    }
    Ok(credentials)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_visible_ascii_can_be_sent() {
        let made = |key: &str, secret: &str, token: Option<&str>| {
            Credentials::new(key, secret, token.map(str::to_owned), None, "test")
        };
        assert!(check(made("AKID", "a/b+c=", Some("token=="))).is_ok());
        assert!(check(made("AKID", "secret", None)).is_ok());
        for bad in [
            made("AKID\n", "secret", None),
            made("AKID", " secret", None),
            made("AKID", "secret", Some("to\rken")),
            made("é", "secret", None),
        ] {
            assert!(matches!(check(bad), Err(CredentialsError::InvalidConfiguration(_))));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_provider_that_does_not_answer_times_out() {
        #[derive(Debug)]
        struct Silent;
        impl ProvideCredentials for Silent {
            fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
            where
                Self: 'a,
            {
                future::ProvideCredentials::new(std::future::pending())
            }
        }
        let provider = CheckedProvider(SharedCredentialsProvider::new(Silent));
        let timed_out = provider.provide_credentials().await;
        assert!(matches!(timed_out, Err(CredentialsError::ProviderTimedOut(_))), "{timed_out:?}");
    }
}
