//! Certificates for tests, and folders for their files.

use std::{
    env, fs,
    path::PathBuf,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, SystemTime},
};

use amistore_gateway::{
    domain::wall_clock,
    server::tls::{ClientAuth, ClientCertificates, Settings},
};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, SanType,
};

pub(crate) const DAY: Duration = Duration::from_hours(24);

/// A certificate authority.
pub(crate) struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) pem: String,
}

/// A certificate and its key, in PEM.
#[derive(Clone)]
pub(crate) struct Pair {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

/// What a certificate says. By default it is for clients, and valid from yesterday to tomorrow.
pub(crate) struct Holder {
    pub(crate) common_name: String,
    pub(crate) names: Vec<SanType>,
    pub(crate) valid: (SystemTime, SystemTime),
    pub(crate) purpose: ExtendedKeyUsagePurpose,
}

impl Default for Holder {
    fn default() -> Self {
        let now = wall_clock();
        Self {
            common_name: "client".to_owned(),
            names: Vec::new(),
            valid: (now - DAY, now + DAY),
            purpose: ExtendedKeyUsagePurpose::ClientAuth,
        }
    }
}

impl Holder {
    pub(crate) fn named(common_name: &str) -> Self {
        Self { common_name: common_name.to_owned(), ..Self::default() }
    }

    /// A server at the loopback.
    pub(crate) fn server(common_name: &str) -> Self {
        Self {
            names: vec![dns("localhost"), SanType::IpAddress([127, 0, 0, 1].into())],
            purpose: ExtendedKeyUsagePurpose::ServerAuth,
            ..Self::named(common_name)
        }
    }

    pub(crate) fn expired(self) -> Self {
        let now = wall_clock();
        Self { valid: (now - 3 * DAY, now - 2 * DAY), ..self }
    }
}

/// A DNS name of a certificate.
pub(crate) fn dns(name: &str) -> SanType {
    SanType::DnsName(name.try_into().expect("ASCII"))
}

/// A URI of a certificate.
pub(crate) fn uri(uri: &str) -> SanType {
    SanType::URI(uri.try_into().expect("ASCII"))
}

impl Ca {
    pub(crate) fn new(common_name: &str) -> Self {
        let mut params = params(&Holder::named(common_name));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.extended_key_usages.clear();
        let key = KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("signed").pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    pub(crate) fn sign(&self, holder: &Holder) -> Pair {
        self.sign_params(&params(holder))
    }

    pub(crate) fn sign_params(&self, params: &CertificateParams) -> Pair {
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("signed");
        Pair { certificate: certificate.pem(), key: key.serialize_pem() }
    }
}

pub(crate) fn params(holder: &Holder) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    if !holder.common_name.is_empty() {
        params.distinguished_name.push(DnType::CommonName, holder.common_name.as_str());
    }
    params.subject_alt_names.clone_from(&holder.names);
    params.not_before = holder.valid.0.into();
    params.not_after = holder.valid.1.into();
    params.extended_key_usages = vec![holder.purpose.clone()];
    params
}

/// The files of a server's TLS, in a folder that is removed in the end.
pub(crate) struct TlsFiles {
    folder: PathBuf,
    pub(crate) ca: Ca,
}

impl TlsFiles {
    /// A server's certificate with this common name, signed by a new CA.
    pub(crate) fn new(common_name: &str) -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder = env::temp_dir().join(format!("amistore-tls-{}-{number}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        let files = Self { folder, ca: Ca::new("server CA") };
        files.write_pair(&files.ca.sign(&Holder::server(common_name)));
        files
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).expect("written");
    }

    pub(crate) fn write_pair(&self, pair: &Pair) {
        self.write("tls.crt", &pair.certificate);
        self.write("tls.key", &pair.key);
    }

    /// Settings with these files, and no certificates of clients.
    pub(crate) fn settings(&self) -> Settings {
        Settings {
            certificate: self.path("tls.crt"),
            key: self.path("tls.key"),
            clients: None,
            reload_interval: Settings::DEFAULT_RELOAD_INTERVAL,
        }
    }

    /// Settings with these files, and certificates of clients that this CA signs.
    pub(crate) fn mutual(&self, client_ca: &Ca, auth: ClientAuth) -> Settings {
        self.write("ca.crt", &client_ca.pem);
        let clients = Some(ClientCertificates { ca: self.path("ca.crt"), auth });
        Settings { clients, ..self.settings() }
    }
}

impl Drop for TlsFiles {
    fn drop(&mut self) {
        // The system removes what is left.
        let _ = fs::remove_dir_all(&self.folder);
    }
}
