//! The HTTP client of the SDK: TLS by ring, and the proxies and certificates of the environment.

use std::{
    env,
    ffi::{OsStr, OsString},
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use aws_config::profile;
use aws_runtime::env_config::file::EnvConfigFiles;
use aws_smithy_http_client::{
    Builder, Connector,
    proxy::ProxyConfig,
    tls::{Provider, TlsContext, TrustStore, rustls_provider::CryptoMode},
};
use aws_smithy_runtime_api::client::{
    http::{
        HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient,
        SharedHttpConnector,
    },
    orchestrator::HttpRequest,
    runtime_components::RuntimeComponents,
};
use aws_smithy_types::body::SdkBody;
use aws_types::os_shim_internal::{Env, Fs};
use http::Uri;
use http_body_util::Limited;
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject as _},
};

use super::start_error::StartError;

/// Hosts of the metadata and credentials endpoints, which only the machine itself can reach (EC2 user
/// guide, "Instance metadata"; ECS and EKS, "Container credential provider").
const LINK_LOCAL_HOSTS: [&str; 5] =
    ["169.254.169.254", "169.254.170.2", "169.254.170.23", "[fd00:ec2::254]", "[fd00:ec2::23]"];

/// Variables that name such an endpoint elsewhere.
const LOCAL_ENDPOINTS: [&str; 2] =
    ["AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_EC2_METADATA_SERVICE_ENDPOINT"];

/// The variable that names a file of certificates in place of the system's.
const BUNDLE: &str = "AWS_CA_BUNDLE";

/// The key of the AWS profile that does the same, unless the variable is set.
const PROFILE_BUNDLE: &str = "ca_bundle";

/// The variable that names the file in which the system's certificates are.
const SYSTEM_BUNDLE: &str = "SSL_CERT_FILE";

/// 8 MiB: the longest answer that is read. A page of 200 tasks has about 100 KiB.
const MAX_ANSWER_BYTES: usize = 8 << 20;

/// An HTTP client that reads nothing from the environment but the system's certificates.
#[must_use]
pub fn https() -> SharedHttpClient {
    client(ProxyConfig::disabled(), TlsContext::default())
}

/// An HTTP client that obeys `HTTPS_PROXY`, `NO_PROXY`, `AWS_CA_BUNDLE`, the profile's `ca_bundle` and the
/// like.
///
/// # Errors
/// If a file of certificates cannot be used.
pub(super) async fn of_environment() -> Result<SharedHttpClient, StartError> {
    let trust = trust_store().await?;
    // Fails for no trust store of today's crate.
    let tls = TlsContext::builder().with_trust_store(trust).build().unwrap_or_default();
    Ok(SharedHttpClient::new(ByHost {
        direct_hosts: direct_hosts(|name| env::var_os(name)),
        direct: client(ProxyConfig::disabled(), tls.clone()),
        proxied: client(ProxyConfig::from_env(), tls),
    }))
}

/// The certificates that are trusted: those of `AWS_CA_BUNDLE`, or else of the profile's `ca_bundle`, or
/// else the system's, as for boto3 and the AWS CLI.
async fn trust_store() -> Result<TrustStore, StartError> {
    if let Some(path) = path_of_variable(SYSTEM_BUNDLE) {
        read_bundle(SYSTEM_BUNDLE, &path)?;
    }
    let (origin, path) = match path_of_variable(BUNDLE) {
        Some(path) => (BUNDLE, path),
        None => match profile_bundle().await {
            Some(path) => ("ca_bundle of the AWS profile", path),
            None => return Ok(TrustStore::default()),
        },
    };
    Ok(TrustStore::empty().with_pem_certificate(read_bundle(origin, &path)?))
}

fn path_of_variable(name: &str) -> Option<PathBuf> {
    let path = env::var_os(name)?;
    if path.is_empty() { None } else { Some(path.into()) }
}

/// The path in the profile that `AWS_PROFILE` selects. The SDK itself does not read it. Profile files that
/// cannot be read name none: the SDK says so when it looks for credentials in them.
async fn profile_bundle() -> Option<PathBuf> {
    let files = EnvConfigFiles::default();
    let profiles = profile::load(&Fs::real(), &Env::real(), &files, None).await.ok()?;
    let path = profiles.get(PROFILE_BUNDLE)?;
    if path.is_empty() { None } else { Some(path.into()) }
}

fn client(proxy: ProxyConfig, tls: TlsContext) -> SharedHttpClient {
    let client = Builder::new().build_with_connector_fn(move |settings, components| {
        let mut connector = Connector::builder()
            .tls_provider(Provider::Rustls(CryptoMode::Ring))
            .tls_context(tls.clone())
            .proxy_config(proxy.clone());
        connector.set_connector_settings(settings.cloned());
        connector.set_sleep_impl(components.and_then(RuntimeComponents::sleep_impl));
        connector.build()
    });
    SharedHttpClient::new(Bounded(client))
}

/// A client whose answers have at most [`MAX_ANSWER_BYTES`].
#[derive(Debug)]
struct Bounded<T>(T);

impl HttpClient for Bounded<SharedHttpClient> {
    fn http_connector(
        &self,
        settings: &HttpConnectorSettings,
        components: &RuntimeComponents,
    ) -> SharedHttpConnector {
        SharedHttpConnector::new(Bounded(self.0.http_connector(settings, components)))
    }
}

impl HttpConnector for Bounded<SharedHttpConnector> {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let answer = self.0.call(request);
        HttpConnectorFuture::new(async {
            let limit = |body| SdkBody::from_body_1_x(Limited::new(body, MAX_ANSWER_BYTES));
            Ok(answer.await?.map(limit))
        })
    }
}

/// Reads certificates, and checks each: the SDK panics at one that it cannot read.
fn read_bundle(origin: &'static str, path: &Path) -> Result<Vec<u8>, StartError> {
    let path_buf = || PathBuf::from(path);
    let pem = match fs::read(path) {
        Ok(pem) => pem,
        Err(error) => {
            return Err(StartError::UnreadableBundle { origin, path: path_buf(), error });
        }
    };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let added = certificate.ok().and_then(|certificate| roots.add(certificate).ok());
        if added.is_none() {
            return Err(StartError::BadBundle { origin, path: path_buf() });
        }
    }
    if roots.is_empty() {
        return Err(StartError::BadBundle { origin, path: path_buf() });
    }
    Ok(pem)
}

/// Hosts that no proxy can reach for the gateway.
fn direct_hosts(variable: impl Fn(&str) -> Option<OsString>) -> Arc<[String]> {
    let mut hosts: Vec<String> = LINK_LOCAL_HOSTS.map(str::to_owned).into();
    for name in LOCAL_ENDPOINTS {
        let value = variable(name).unwrap_or_default();
        if let Some(authority) = authority_of(&value) {
            hosts.push(authority);
        }
    }
    hosts.into()
}

fn authority_of(uri: &OsStr) -> Option<String> {
    let uri: Uri = uri.to_str()?.parse().ok()?;
    Some(uri.authority()?.to_string())
}

/// A client that asks some hosts directly, and the others by the proxy that the environment names.
#[derive(Debug)]
struct ByHost {
    direct_hosts: Arc<[String]>,
    direct: SharedHttpClient,
    proxied: SharedHttpClient,
}

/// The connectors of [`ByHost`] with the settings of one client.
#[derive(Debug)]
struct ConnectorByHost {
    direct_hosts: Arc<[String]>,
    direct: SharedHttpConnector,
    proxied: SharedHttpConnector,
}

impl HttpClient for ByHost {
    fn http_connector(
        &self,
        settings: &HttpConnectorSettings,
        components: &RuntimeComponents,
    ) -> SharedHttpConnector {
        SharedHttpConnector::new(ConnectorByHost {
            direct_hosts: self.direct_hosts.clone(),
            direct: self.direct.http_connector(settings, components),
            proxied: self.proxied.http_connector(settings, components),
        })
    }
}

impl HttpConnector for ConnectorByHost {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        if is_direct(&self.direct_hosts, request.uri()) {
            return self.direct.call(request);
        }
        self.proxied.call(request)
    }
}

/// Returns whether the host of a URI, or the host and port, are among those.
fn is_direct(hosts: &[String], uri: &str) -> bool {
    let Ok(uri) = uri.parse::<Uri>() else { return false };
    let authority = uri.authority().map(http::uri::Authority::as_str);
    hosts.iter().any(|host| uri.host() == Some(host) || authority == Some(host))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_and_container_endpoints_are_asked_directly() {
        let hosts = direct_hosts(|name| match name {
            "AWS_CONTAINER_CREDENTIALS_FULL_URI" => Some("http://127.0.0.1:51679/v2/x".into()),
            _ => None,
        });
        for direct in [
            "http://169.254.169.254/latest/api/token",
            "http://169.254.170.2/v2/credentials",
            "http://[fd00:ec2::254]/latest",
            "http://127.0.0.1:51679/v2/x",
        ] {
            assert!(is_direct(&hosts, direct), "{direct}");
        }
        for proxied in ["http://127.0.0.1:5000/", "https://ec2.us-east-1.amazonaws.com/"] {
            assert!(!is_direct(&hosts, proxied), "{proxied}");
        }
    }

    #[test]
    fn a_bundle_without_a_certificate_is_refused() {
        let folder = env::temp_dir();
        let path = folder.join(format!("amistore-{}-bundle.pem", std::process::id()));
        for bad in
            ["", "no certificate", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
        {
            fs::write(&path, bad).expect("a temporary file");
            let refused = read_bundle("AWS_CA_BUNDLE", &path);
            assert!(matches!(refused, Err(StartError::BadBundle { .. })), "{bad:?}");
        }
        fs::remove_file(&path).expect("removed");
        let missing = read_bundle("AWS_CA_BUNDLE", &path);
        assert!(matches!(missing, Err(StartError::UnreadableBundle { .. })));
    }
}
