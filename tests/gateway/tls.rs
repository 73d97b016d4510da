//! TLS of the port: who is served, who is refused and why, and files that change meanwhile.

use std::{fs, io, os::unix::fs::symlink, sync::Arc, time::Duration};

use amistore_gateway::{
    domain::{NameField, PeerIdentity},
    server::tls::{ClientAuth, Settings, TlsAcceptor},
};
use rcgen::ExtendedKeyUsagePurpose;
use rustls::{
    ClientConfig, HandshakeKind, RootCertStore, SupportedProtocolVersion,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex},
    net::{TcpListener, TcpStream},
    time::{Instant, advance, sleep},
};
use tokio_rustls::{TlsConnector, client};
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};
use tracing::Level;

use crate::{
    certificates::{Ca, DAY, Holder, Pair, TlsFiles, dns, params, uri},
    logs::Log,
    support::{Client, Rig, Setup, all, finished, images_of},
};

const SECOND: Duration = Duration::from_secs(1);
/// Longer than the time in which changed files are used: the interval, and a second to settle.
const RELOADED: Duration = Duration::from_secs(32);
const REFUSED: &str = "a TLS client is refused";
const IN_FORCE: &str = "TLS files are in force";
const UNUSABLE: &str = "changed TLS files cannot be used; those before stay in force";

fn load(settings: Settings) -> TlsAcceptor {
    TlsAcceptor::load(settings).expect("good files")
}

/// A client that trusts this CA, with this certificate.
fn client_config(ca: &Ca, pair: Option<&Pair>) -> Arc<ClientConfig> {
    client_of_versions(ca, pair, rustls::DEFAULT_VERSIONS)
}

fn client_of_versions(
    ca: &Ca,
    pair: Option<&Pair>,
    versions: &[&'static SupportedProtocolVersion],
) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    let ca = CertificateDer::from_pem_slice(ca.pem.as_bytes()).expect("PEM");
    roots.add(ca).expect("a CA");
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(versions)
        .expect("versions of ring")
        .with_root_certificates(roots);
    let config = match pair {
        None => builder.with_no_client_auth(),
        Some(Pair { certificate, key }) => {
            let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).expect("PEM");
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("PEM");
            builder.with_client_auth_cert(vec![certificate], key).expect("a pair")
        }
    };
    Arc::new(config)
}

/// What both sides have of a handshake.
struct Handshake {
    server: io::Result<Option<PeerIdentity>>,
    client: io::Result<client::TlsStream<DuplexStream>>,
}

impl Handshake {
    /// Performs a handshake, and sends a word each way after it.
    async fn of(acceptor: &TlsAcceptor, config: Arc<ClientConfig>) -> Self {
        let (server_end, client_end) = duplex(1 << 16);
        let serving = async {
            let (mut stream, identity) = acceptor.accept(server_end, &"192.0.2.1:7").await?;
            stream.write_all(b"hello").await?;
            stream.flush().await?;
            Ok(identity)
        };
        let calling = async {
            let name = ServerName::try_from("localhost").expect("a name");
            let mut stream = TlsConnector::from(config).connect(name, client_end).await?;
            let mut word = [0; 5];
            stream.read_exact(&mut word).await?;
            assert_eq!(&word, b"hello");
            Ok(stream)
        };
        let (server, client) = tokio::join!(serving, calling);
        Self { server, client }
    }

    fn identity(self) -> Option<PeerIdentity> {
        self.client.expect("the client is served");
        self.server.expect("the client is accepted")
    }

    /// What the client is told.
    fn refusal(self) -> String {
        self.server.expect_err("the client is refused");
        self.client.expect_err("the client is refused").to_string()
    }

    /// The common name of the server's certificate.
    fn server_certificate(&self) -> Vec<u8> {
        let stream = self.client.as_ref().expect("the client is served");
        stream.get_ref().1.peer_certificates().expect("a certificate")[0].to_vec()
    }
}

fn der(pair: &Pair) -> Vec<u8> {
    CertificateDer::from_pem_slice(pair.certificate.as_bytes()).expect("PEM").to_vec()
}

/// The fields of the lines with a message.
fn lines(log: &Log, level: &str, message: &str) -> Vec<Value> {
    log.lines(level).into_iter().filter(|line| line["message"] == message).collect()
}

/// The reasons in the log for which clients were refused.
fn reasons(log: &Log) -> Vec<String> {
    let lines = lines(log, "WARN", REFUSED);
    lines.iter().map(|line| line["reason"].as_str().expect("a reason").to_owned()).collect()
}

/// A gRPC client over TLS, with a connection of its own.
fn grpc_client(rig: &Rig, ca: &Ca, pair: Option<&Pair>) -> Client {
    let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&ca.pem));
    if let Some(Pair { certificate, key }) = pair {
        tls = tls.identity(Identity::from_pem(certificate, key));
    }
    let endpoint = Endpoint::from_shared(format!("https://{}", rig.address)).expect("valid");
    Client::over(endpoint.tls_config(tls).expect("good certificates").connect_lazy())
}

async fn rig(settings: Settings) -> Rig {
    let mut setup = Setup::default();
    setup.gateway.tls = Some(load(settings));
    let rig = setup.start().await;
    rig.add(finished(3));
    rig
}

#[tokio::test]
async fn a_gateway_with_a_certificate_serves_clients_that_know_its_ca() {
    let files = TlsFiles::new("gateway");
    let rig = rig(files.settings()).await;
    let listed = rig.until(grpc_client(&rig, &files.ca, None).list(all())).await;
    assert_eq!(images_of(&listed.expect("served").into_inner().tasks).len(), 3);
    let stranger = grpc_client(&rig, &Ca::new("another CA"), None);
    let status = rig.until(stranger.list(all())).await.expect_err("the client refuses");
    assert!(format!("{status:?}").contains("UnknownIssuer"), "{status:?}");
}

#[tokio::test]
async fn a_plaintext_client_of_a_tls_port_is_refused_and_holds_up_nobody() {
    let log = Log::capture();
    let files = TlsFiles::new("gateway");
    let rig = rig(files.settings()).await;
    rig.until(rig.client().list(all())).await.expect_err("no TLS");
    assert_eq!(reasons(&log)[0], "no TLS");
    let peer = lines(&log, "WARN", REFUSED)[0]["peer"].as_str().expect("a peer").to_owned();
    assert!(peer.starts_with("127.0.0.1:"), "{peer}");
    rig.until(grpc_client(&rig, &files.ca, None).list(all())).await.expect("served");
}

#[tokio::test]
async fn under_mutual_tls_only_clients_with_a_good_certificate_are_served() {
    let log = Log::capture();
    let (files, clients) = (TlsFiles::new("gateway"), Ca::new("client CA"));
    let rig = rig(files.mutual(&clients, ClientAuth::Required)).await;
    let good = clients.sign(&Holder::named("good"));
    rig.until(grpc_client(&rig, &files.ca, Some(&good)).list(all())).await.expect("served");
    assert!(reasons(&log).is_empty());

    let stranger = Ca::new("another CA").sign(&Holder::named("stranger"));
    let expired = clients.sign(&Holder::named("old").expired());
    for (pair, reason, alert, subject) in [
        (None, "no client certificate", "CertificateRequired", None),
        (Some(stranger), "client certificate of an unknown CA", "UnknownCA", Some("CN=stranger")),
        (Some(expired), "expired client certificate", "CertificateExpired", Some("CN=old")),
    ] {
        let client = grpc_client(&rig, &files.ca, pair.as_ref());
        let status = rig.until(client.list(all())).await.expect_err("refused");
        assert!(format!("{status:?}").contains(alert), "{status:?}");
        let refusals = lines(&log, "WARN", REFUSED);
        let line = refusals.last().expect("a line");
        assert_eq!(line["reason"], reason);
        assert_eq!(line["certificate"].as_str(), subject, "{line}");
    }
}

#[tokio::test]
async fn each_call_of_a_client_carries_its_identity() {
    let log = Log::capture_from(Level::DEBUG);
    let (files, clients) = (TlsFiles::new("gateway"), Ca::new("client CA"));
    let rig = rig(files.mutual(&clients, ClientAuth::Optional)).await;
    let names = vec![uri("spiffe://example.org/a")];
    let pair = clients.sign(&Holder { names, ..Holder::named("a") });
    let known = grpc_client(&rig, &files.ca, Some(&pair));
    for _ in 0..2 {
        rig.until(known.list(all())).await.expect("served");
    }
    rig.until(grpc_client(&rig, &files.ca, None).list(all())).await.expect("served");
    let calls = lines(&log, "DEBUG", "a call");
    assert_eq!(calls.len(), 2, "{calls:#?}");
    for call in calls {
        assert_eq!(call["identity"], "URI:spiffe://example.org/a");
        assert_eq!(call["path"], "/amistore.v1.StoreImageTaskService/ListStoreImageTasks");
    }
}

#[tokio::test]
async fn a_handshake_that_is_not_finished_is_closed_after_ten_seconds() {
    let files = TlsFiles::new("gateway");
    let rig = rig(files.settings()).await;
    let mut socket = half_a_handshake(&rig).await;
    rig.run_for(9 * SECOND).await;
    let mut byte = [0];
    assert!(socket.try_read(&mut byte).is_err(), "closed too soon");
    let closed = rig.until(socket.read(&mut byte)).await;
    assert!(matches!(closed, Ok(0)), "{closed:?}");
    rig.until(grpc_client(&rig, &files.ca, None).list(all())).await.expect("served");
}

#[tokio::test]
async fn a_handshake_that_is_not_finished_holds_up_no_drain() {
    let files = TlsFiles::new("gateway");
    let mut rig = rig(files.settings()).await;
    let mut socket = half_a_handshake(&rig).await;
    rig.stop.cancel();
    let began = Instant::now();
    let served = rig.served.take().expect("not yet taken");
    rig.until(served).await.expect("no panic").expect("drained");
    assert!(began.elapsed() < 2 * SECOND, "{:?}", began.elapsed());
    assert!(matches!(rig.until(socket.read(&mut [0])).await, Ok(0) | Err(_)));
}

/// A connection that has sent the header of its first TLS record, and nothing of the record.
async fn half_a_handshake(rig: &Rig) -> TcpStream {
    let mut socket = rig.until(TcpStream::connect(rig.address)).await.expect("connected");
    socket.write_all(&[0x16, 3, 1, 2, 0, 1]).await.expect("written");
    rig.run_for(SECOND).await;
    socket
}

#[tokio::test(start_paused = true)]
async fn each_refusal_is_logged_with_its_reason_and_told_to_the_client() {
    let (files, clients) = (TlsFiles::new("gateway"), Ca::new("client CA"));
    let acceptor = load(files.mutual(&clients, ClientAuth::Required));
    let tomorrow = Holder::named("early");
    let early = Holder { valid: (tomorrow.valid.1, tomorrow.valid.1 + DAY), ..tomorrow };
    let purpose = ExtendedKeyUsagePurpose::ServerAuth;
    let server = Holder { purpose, ..Holder::named("server") };
    // The same name as that of the CA, and another key.
    let impostor = Ca::new("client CA").sign(&Holder::named("impostor"));
    for (pair, reason, alert) in [
        (None, "no client certificate", "CertificateRequired"),
        (Some(impostor), "client certificate of an unknown CA", "DecryptError"),
        (
            Some(clients.sign(&Holder::named("old").expired())),
            "expired client certificate",
            "CertificateExpired",
        ),
        (
            Some(clients.sign(&early)),
            "client certificate that is not valid yet",
            "CertificateExpired",
        ),
        (
            Some(clients.sign(&server)),
            "certificate that is not for clients",
            "UnsupportedCertificate",
        ),
    ] {
        let log = Log::capture();
        let config = client_config(&files.ca, pair.as_ref());
        let told = Handshake::of(&acceptor, config).await.refusal();
        assert!(told.contains(alert), "{reason}: {told}");
        assert_eq!(reasons(&log), [reason]);
        assert_eq!(lines(&log, "WARN", REFUSED)[0]["peer"], "192.0.2.1:7");
    }
}

/// A client of TLS 1.3 sends its first request before it knows that it is refused. If the server closed the
/// connection at once, the client's writes would fail before it reads why.
#[tokio::test]
async fn a_refused_client_that_goes_on_sending_reads_why() {
    let (files, clients) = (TlsFiles::new("gateway"), Ca::new("client CA"));
    let acceptor = load(files.mutual(&clients, ClientAuth::Required));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let serving = tokio::spawn(async move {
        let (socket, peer) = listener.accept().await.expect("a connection");
        acceptor.accept(socket, &peer).await.map(|_| ())
    });
    let socket = TcpStream::connect(address).await.expect("connected");
    let connector = TlsConnector::from(client_config(&files.ca, None));
    let name = ServerName::try_from("localhost").expect("a name");
    let mut stream = connector.connect(name, socket).await.expect("the client's side is done");
    stream.get_ref().0.readable().await.expect("the alert has come");
    for _ in 0..10 {
        stream.write_all(&[0; 1_000]).await.expect("the server reads on");
        stream.flush().await.expect("the server reads on");
    }
    let told = stream.read(&mut [0]).await.expect_err("refused").to_string();
    assert!(told.contains("CertificateRequired"), "{told}");
    drop(stream);
    serving.await.expect("no panic").expect_err("refused");
}

#[tokio::test(start_paused = true)]
async fn the_line_of_an_expired_certificate_has_its_subject_and_dates() {
    let log = Log::capture();
    let (files, clients) = (TlsFiles::new("gateway"), Ca::new("client CA"));
    let acceptor = load(files.mutual(&clients, ClientAuth::Optional));
    let holder = Holder::named("old\nfake line").expired();
    let expired = clients.sign(&holder);
    Handshake::of(&acceptor, client_config(&files.ca, Some(&expired))).await.refusal();
    let refusals = lines(&log, "WARN", REFUSED);
    assert_eq!(refusals.len(), 1, "{refusals:#?}");
    assert_eq!(refusals[0]["certificate"], "CN=old\\nfake line");
    let valid = refusals[0]["valid"].as_str().expect("dates");
    let until = humantime_seconds(holder.valid.1);
    assert!(valid.ends_with(&format!(" to {until}")), "{valid} {until}");
}

fn humantime_seconds(time: std::time::SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}

#[tokio::test(start_paused = true)]
async fn optional_client_certificates_may_be_left_out_and_are_checked() {
    let (files, clients) = (TlsFiles::new("gateway"), Ca::new("client CA"));
    let acceptor = load(files.mutual(&clients, ClientAuth::Optional));
    let anonymous = Handshake::of(&acceptor, client_config(&files.ca, None)).await;
    assert_eq!(anonymous.identity(), None);
    let good = clients.sign(&Holder::named("good"));
    let known = Handshake::of(&acceptor, client_config(&files.ca, Some(&good))).await;
    assert_eq!(known.identity().expect("an identity").to_string(), "subject:CN=good");
    let stranger = Ca::new("another CA").sign(&Holder::named("stranger"));
    let refused = Handshake::of(&acceptor, client_config(&files.ca, Some(&stranger))).await;
    assert!(refused.refusal().contains("UnknownCA"));
}

#[tokio::test(start_paused = true)]
async fn a_client_certificate_expires_by_the_clock_of_the_gateway() {
    let (files, clients) = (TlsFiles::new("gateway"), Ca::new("client CA"));
    let acceptor = load(files.mutual(&clients, ClientAuth::Required));
    let config = client_config(&files.ca, Some(&clients.sign(&Holder::named("good"))));
    assert!(Handshake::of(&acceptor, config.clone()).await.identity().is_some());
    advance(2 * DAY).await;
    assert!(Handshake::of(&acceptor, config).await.refusal().contains("CertificateExpired"));
}

#[tokio::test(start_paused = true)]
async fn an_identity_is_the_first_uri_else_the_first_dns_name_else_the_subject() {
    let (files, clients) = (TlsFiles::new("gateway"), Ca::new("client CA"));
    let acceptor = load(files.mutual(&clients, ClientAuth::Required));
    let (id, other) = ("spiffe://example.org/ns/a/sa/b", "spiffe://example.org/other");
    for (names, expected) in [
        (vec![dns("a.example.org"), uri(id), uri(other)], format!("URI:{id}")),
        (vec![dns("A.example.org"), dns("b.example.org")], "DNS:a.example.org".to_owned()),
        (vec![], "subject:CN=a\\,O\\=b".to_owned()),
    ] {
        let pair = clients.sign(&Holder { names, ..Holder::named("a,O=b") });
        let known = Handshake::of(&acceptor, client_config(&files.ca, Some(&pair))).await;
        assert_eq!(known.identity().expect("an identity").to_string(), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_subject_has_the_form_of_rfc_4514() {
    use rcgen::{DnType, DnValue};
    let (files, clients) = (TlsFiles::new("gateway"), Ca::new("client CA"));
    let acceptor = load(files.mutual(&clients, ClientAuth::Required));
    let mut params = params(&Holder::named(" #a\"\\ "));
    params.distinguished_name.push(DnType::OrganizationName, "Ex+ample; <é>");
    params.distinguished_name.push(DnType::CustomDnType(vec![1, 2, 3, 4]), "x");
    let of_utf_16 = DnValue::BmpString("c".try_into().expect("a letter"));
    params.distinguished_name.push(DnType::LocalityName, of_utf_16);
    let pair = clients.sign_params(&params);
    let known = Handshake::of(&acceptor, client_config(&files.ca, Some(&pair))).await;
    let identity = known.identity().expect("an identity");
    assert_eq!(identity.field(), NameField::Subject);
    assert_eq!(identity.name(), r#"L=#1e020063,1.2.3.4=#0c0178,O=Ex\+ample\; \<é\>,CN=\ #a\"\\\ "#);
}

#[tokio::test(start_paused = true)]
async fn a_certificate_whose_name_is_missing_or_too_long_is_refused() {
    let log = Log::capture();
    let (files, clients) = (TlsFiles::new("gateway"), Ca::new("client CA"));
    let acceptor = load(files.mutual(&clients, ClientAuth::Required));
    let long = format!("spiffe://example.org/{}", "x".repeat(2_048));
    for holder in [Holder::named(""), Holder { names: vec![uri(&long)], ..Holder::named("a") }] {
        let pair = clients.sign(&holder);
        let refused = Handshake::of(&acceptor, client_config(&files.ca, Some(&pair))).await;
        refused.refusal();
    }
    assert_eq!(reasons(&log), ["client certificate without a name"; 2]);
}

#[tokio::test(start_paused = true)]
async fn a_client_may_choose_h2_or_http_1_and_no_other_protocol() {
    let log = Log::capture();
    let files = TlsFiles::new("gateway");
    let acceptor = load(files.settings());
    for (offered, chosen) in
        [(vec!["http/1.1", "h2"], Some("h2")), (vec!["http/1.1"], Some("http/1.1")), (vec![], None)]
    {
        let mut config = ClientConfig::clone(&client_config(&files.ca, None));
        config.alpn_protocols = offered.iter().map(|name| name.as_bytes().to_vec()).collect();
        let handshake = Handshake::of(&acceptor, Arc::new(config)).await;
        let stream = handshake.client.expect("served");
        assert_eq!(stream.get_ref().1.alpn_protocol(), chosen.map(str::as_bytes));
    }
    let mut config = ClientConfig::clone(&client_config(&files.ca, None));
    config.alpn_protocols = vec![b"spdy/3".to_vec()];
    let told = Handshake::of(&acceptor, Arc::new(config)).await.refusal();
    assert!(told.contains("NoApplicationProtocol"), "{told}");
    assert_eq!(reasons(&log), ["no common version, cipher or protocol"]);
}

#[tokio::test(start_paused = true)]
async fn no_session_is_resumed_where_clients_have_certificates() {
    let (files, clients) = (TlsFiles::new("gateway"), Ca::new("client CA"));
    let pair = clients.sign(&Holder::named("good"));
    let mutual = load(files.mutual(&clients, ClientAuth::Optional));
    let plain = load(files.settings());
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        for (acceptor, second) in [(&plain, HandshakeKind::Resumed), (&mutual, HandshakeKind::Full)]
        {
            let config = client_of_versions(&files.ca, Some(&pair), &[version]);
            for expected in [HandshakeKind::Full, second] {
                let handshake = Handshake::of(acceptor, config.clone()).await;
                let stream = handshake.client.expect("served");
                assert_eq!(stream.get_ref().1.handshake_kind(), Some(expected), "{version:?}");
            }
        }
    }
}

/// A server's certificate that was signed at the start and one that is to replace it.
fn replacement(files: &TlsFiles) -> Pair {
    files.ca.sign(&Holder::server("replacement"))
}

/// The certificate that a server shows at the moment.
async fn shown(acceptor: &TlsAcceptor, ca: &Ca) -> Vec<u8> {
    Handshake::of(acceptor, client_config(ca, None)).await.server_certificate()
}

#[tokio::test(start_paused = true)]
async fn a_replaced_certificate_is_used_within_the_interval_and_logged_with_its_expiry() {
    let log = Log::capture();
    let files = TlsFiles::new("first");
    let acceptor = load(files.settings());
    sleep(RELOADED).await;
    let (before, pair) = (shown(&acceptor, &files.ca).await, replacement(&files));
    assert_eq!(lines(&log, "INFO", IN_FORCE).len(), 1, "the same files are not used again");
    files.write_pair(&pair);
    assert_eq!(shown(&acceptor, &files.ca).await, before);
    sleep(RELOADED).await;
    assert_eq!(shown(&acceptor, &files.ca).await, der(&pair));
    let told = lines(&log, "INFO", IN_FORCE);
    assert_eq!(told.len(), 2, "{told:#?}");
    assert_eq!(told[0]["certificate"], "CN=first");
    assert_eq!(told[1]["certificate"], "CN=replacement");
    let expires = Holder::default().valid.1;
    let text = told[1]["expires"].as_str().expect("a date").to_owned();
    let logged = humantime::parse_rfc3339(&text).expect("a date");
    let difference = expires.duration_since(logged).unwrap_or_else(|error| error.duration());
    assert!(difference < Duration::from_mins(10), "{text}");
    assert!(log.lines("WARN").is_empty(), "{:?}", log.lines("WARN"));
}

/// Kubernetes mounts a secret as links to files below a link, which it swaps.
#[tokio::test(start_paused = true)]
async fn a_folder_that_is_swapped_by_a_link_is_noticed() {
    let files = TlsFiles::new("first");
    let pairs = [files.ca.sign(&Holder::server("first")), replacement(&files)];
    for (version, pair) in ["..1", "..2"].into_iter().zip(&pairs) {
        fs::create_dir(files.path(version)).expect("a folder");
        files.write(&format!("{version}/tls.crt"), &pair.certificate);
        files.write(&format!("{version}/tls.key"), &pair.key);
    }
    symlink("..1", files.path("..data")).expect("a link");
    for name in ["tls.crt", "tls.key"] {
        fs::remove_file(files.path(name)).expect("removed");
        symlink(format!("..data/{name}"), files.path(name)).expect("a link");
    }
    let acceptor = load(files.settings());
    assert_eq!(shown(&acceptor, &files.ca).await, der(&pairs[0]));
    symlink("..2", files.path("..data_tmp")).expect("a link");
    fs::rename(files.path("..data_tmp"), files.path("..data")).expect("swapped");
    sleep(RELOADED).await;
    assert_eq!(shown(&acceptor, &files.ca).await, der(&pairs[1]));
}

#[tokio::test(start_paused = true)]
async fn broken_files_leave_the_old_ones_in_force_with_one_warning_each() {
    let log = Log::capture();
    let files = TlsFiles::new("first");
    let acceptor = load(files.settings());
    let before = shown(&acceptor, &files.ca).await;
    let pair = replacement(&files);
    let other = replacement(&files);
    let expired = files.ca.sign(&Holder::server("old").expired());
    let half = &pair.certificate[..pair.certificate.len() / 2];
    for (certificate, key, expected) in [
        ("", pair.key.as_str(), "at least one certificate in PEM"),
        (half, &pair.key, "a section without its END line"),
        (&pair.certificate, &other.key, "expected the key of the certificate"),
        (&pair.certificate, "no key", "expected a private key in PEM"),
        (&expired.certificate, &expired.key, "expired at"),
    ] {
        let warned = lines(&log, "WARN", UNUSABLE).len();
        files.write("tls.crt", certificate);
        files.write("tls.key", key);
        sleep(5 * RELOADED).await;
        assert_eq!(shown(&acceptor, &files.ca).await, before, "{expected}");
        let warnings = lines(&log, "WARN", UNUSABLE);
        assert_eq!(warnings.len(), warned + 1, "{warnings:#?}");
        let last = &warnings[warned];
        let error = last["error"].as_str().expect("an error");
        assert!(error.contains(expected), "{error}");
        assert!(error.contains("tls."), "no file is named: {error}");
        assert_eq!(last["certificate"], "CN=first");
        assert!(last["expires"].as_str().expect("a date").ends_with('Z'), "{last}");
    }
    fs::remove_file(files.path("tls.key")).expect("removed");
    sleep(5 * RELOADED).await;
    let warnings = lines(&log, "WARN", UNUSABLE);
    assert_eq!(warnings.len(), 6, "{warnings:#?}");
    assert!(warnings[5]["error"].as_str().expect("an error").contains("cannot be read"));

    files.write_pair(&pair);
    sleep(RELOADED).await;
    assert_eq!(shown(&acceptor, &files.ca).await, der(&pair));
    assert_eq!(lines(&log, "INFO", IN_FORCE).len(), 2);
}

#[tokio::test(start_paused = true)]
async fn files_that_are_written_one_after_the_other_are_used_together() {
    let log = Log::capture();
    let files = TlsFiles::new("first");
    let acceptor = load(files.settings());
    let pair = replacement(&files);
    // The file of the certificate changes just before it is read, and that of the key just after.
    sleep(Duration::from_millis(29_900)).await;
    files.write("tls.crt", &pair.certificate);
    sleep(Duration::from_millis(600)).await;
    files.write("tls.key", &pair.key);
    sleep(RELOADED).await;
    assert_eq!(shown(&acceptor, &files.ca).await, der(&pair));
    assert!(log.lines("WARN").is_empty(), "{:?}", log.lines("WARN"));
}

#[tokio::test(start_paused = true)]
async fn a_client_whose_ca_is_taken_away_is_refused_from_the_next_connection_on() {
    let (files, old, new) = (TlsFiles::new("gateway"), Ca::new("old CA"), Ca::new("new CA"));
    let acceptor = load(files.mutual(&old, ClientAuth::Required));
    let of_old = client_config(&files.ca, Some(&old.sign(&Holder::named("a"))));
    let of_new = client_config(&files.ca, Some(&new.sign(&Holder::named("b"))));
    Handshake::of(&acceptor, of_new.clone()).await.refusal();
    assert!(Handshake::of(&acceptor, of_old.clone()).await.identity().is_some());
    files.write("ca.crt", &new.pem);
    sleep(RELOADED).await;
    Handshake::of(&acceptor, of_old).await.refusal();
    assert!(Handshake::of(&acceptor, of_new).await.identity().is_some());
}

#[tokio::test(start_paused = true)]
async fn an_expired_certificate_is_served_with_one_warning_that_has_its_date() {
    let log = Log::capture();
    let files = TlsFiles::new("gateway");
    let _acceptor = load(files.settings());
    sleep(SECOND).await;
    assert!(log.lines("WARN").is_empty());
    // It expires tomorrow.
    advance(DAY).await;
    sleep(10 * RELOADED).await;
    let message = "the TLS certificate has expired; clients refuse it";
    let warnings = lines(&log, "WARN", message);
    assert_eq!(warnings.len(), 1, "{warnings:#?}");
    assert_eq!(warnings[0]["certificate"], "CN=gateway");
    assert!(warnings[0]["expired"].as_str().expect("a date").ends_with('Z'));

    files.write_pair(&files.ca.sign(&Holder::server("still old").expired()));
    let _at_the_start = load(files.settings());
    sleep(SECOND).await;
    let warnings = lines(&log, "WARN", message);
    assert_eq!(warnings.last().expect("a line")["certificate"], "CN=still old");
}

#[tokio::test(start_paused = true)]
async fn the_task_that_reads_the_files_ends_with_the_last_acceptor() {
    let files = TlsFiles::new("gateway");
    let tasks = tokio::runtime::Handle::current().metrics();
    let before = tasks.num_alive_tasks();
    let acceptor = load(files.settings());
    let clone = acceptor.clone();
    sleep(SECOND).await;
    drop(acceptor);
    sleep(SECOND).await;
    assert_eq!(tasks.num_alive_tasks(), before + 1);
    drop(clone);
    sleep(SECOND).await;
    assert_eq!(tasks.num_alive_tasks(), before);
}
