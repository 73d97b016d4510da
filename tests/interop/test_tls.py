"""TLS of the port: openssl, grpcurl, grpcio and the gateway's own clients, with and without client certificates."""

import json
import re
import ssl
import subprocess
import threading
import time

import grpc
import pytest
from certificates import Ca
from conftest import SERVICE, Gateway
from test_commands import run
from test_grpcurl import GRPCURL

REFUSED = "a TLS client is refused"


def serve(simulator, *flags):
    return Gateway(simulator, "127.0.0.1:0", *map(str, flags))


@pytest.fixture(scope="module")
def ca(tmp_path_factory):
    return Ca(tmp_path_factory.mktemp("tls") / "ca")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory):
    """A client certificate of a CA that the gateway does not know."""
    return Ca(tmp_path_factory.mktemp("tls") / "other", "another CA").sign("stranger")


@pytest.fixture(scope="module")
def server(ca):
    """The flags of a gateway with a certificate."""
    certificate, key = ca.sign("gateway")
    return ["--tls-cert", str(certificate), "--tls-key", str(key)]


@pytest.fixture(scope="module")
def tls(simulator, server):
    gateway = serve(simulator, *server)
    yield gateway
    gateway.stop()


@pytest.fixture
def mutual(simulator, server, ca):
    """A gateway that requires client certificates. Each test has its own, and reads its log."""
    return serve(simulator, *server, "--tls-client-ca", ca.certificate)


def channel(gateway, ca, pair=None, **options):
    """A channel with a connection of its own."""
    certificate, key = (path.read_bytes() for path in pair) if pair else (None, None)
    credentials = grpc.ssl_channel_credentials(ca.certificate.read_bytes(), key, certificate)
    options = {"grpc.use_local_subchannel_pool": 1, "grpc.enable_retries": 0, **options}
    return grpc.secure_channel(gateway.address, credentials, options=list(options.items()))


def call(gateway, stubs, ca, pair=None):
    messages, services = stubs
    with channel(gateway, ca, pair) as connection:
        return services.StoreImageTaskServiceStub(connection).ListStoreImageTasks(
            messages.ListStoreImageTasksRequest(page_size=1), timeout=10)


def refusals(log):
    """The reason, and the certificate if there was one, of each client that was refused."""
    lines = [line for line in log.splitlines() if REFUSED in line]
    assert all(re.search(r"peer=127\.0\.0\.1:\d+ ", line) for line in lines), log
    return [(re.search(r'reason="([^"]*)"', line)[1], (re.search(r'certificate="([^"]*)"', line) or [None, None])[1])
            for line in lines]


def s_client(gateway, *flags):
    done = subprocess.run(["openssl", "s_client", "-connect", gateway.address, *map(str, flags)],
                          input="", capture_output=True, text=True, timeout=30)
    return done.stdout + done.stderr


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
@pytest.mark.parametrize("protocol", ["h2", "http/1.1"])
def test_openssl_verifies_the_certificate_and_chooses_a_protocol(tls, ca, version, protocol):
    output = s_client(tls, version, "-alpn", protocol, "-CAfile", ca.certificate, "-verify_return_error")
    assert "Verify return code: 0 (ok)" in output and f"ALPN protocol: {protocol}" in output, output


def test_openssl_finds_neither_old_versions_nor_other_protocols(tls, ca):
    assert "alert no application protocol" in s_client(tls, "-alpn", "spdy/3", "-CAfile", ca.certificate).lower()
    # Level 0 lets openssl offer what it forbids by itself.
    old = s_client(tls, "-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0", "-CAfile", ca.certificate)
    assert "Cipher is (NONE)" in old, old


def test_openssl_gets_a_session_only_where_clients_have_no_certificates(tls, mutual, ca):
    certificate, key = ca.sign("session")
    for gateway, has_session in ((tls, True), (mutual, False)):
        # TLS 1.2 gives a session in the handshake, and so before openssl leaves.
        output = s_client(gateway, "-tls1_2", "-CAfile", ca.certificate, "-cert", certificate, "-key", key)
        assert "Verify return code: 0 (ok)" in output, output
        assert bool(re.search(r"Session-ID: [0-9A-F]+", output)) == has_session, output
    mutual.stop()


def test_grpcurl_with_the_ca(tls, mutual, ca):
    listed = subprocess.run([GRPCURL, "-cacert", ca.certificate, tls.address, "list"],
                            capture_output=True, text=True, timeout=60)
    assert listed.returncode == 0 and SERVICE in listed.stdout.split(), listed.stderr
    certificate, key = ca.sign("grpcurl")
    listed = subprocess.run(
        [GRPCURL, "-cacert", ca.certificate, "-cert", certificate, "-key", key, "-d", '{"page_size": 1}',
         mutual.address, f"{SERVICE}/ListStoreImageTasks"], capture_output=True, text=True, timeout=60)
    assert listed.returncode == 0 and len(json.loads(listed.stdout)["tasks"]) == 1, listed.stderr
    assert refusals(mutual.stop()) == []


def test_grpcio_is_served_with_a_client_certificate_and_refused_without(mutual, ca, stranger, stubs):
    assert len(call(mutual, stubs, ca, ca.sign("good")).tasks) == 1
    for pair in (None, stranger, ca.expired("old")):
        with pytest.raises(grpc.RpcError) as refused:
            call(mutual, stubs, ca, pair)
        assert refused.value.code() == grpc.StatusCode.UNAVAILABLE
    # A library may connect more than once.
    seen = list(dict.fromkeys(refusals(mutual.stop())))
    assert seen == [("no client certificate", None), ("client certificate of an unknown CA", "CN=stranger"),
                    ("expired client certificate", "CN=old")]


def test_the_commands_are_served_over_tls(tls, mutual, ca):
    for gateway, more in ((tls, []), (mutual, client_flags(ca.sign("command")))):
        flags = ["--server", f"https://{gateway.address}", "--ca", str(ca.certificate), *more]
        assert run("probe", *flags).stdout == "SERVING\n"
        listed = run("list", *flags, "--state", "completed", "--output", "json")
        assert listed.returncode == 0, listed.stderr
        image = json.loads(listed.stdout)["tasks"][0]["imageId"]
        watched = run("watch", *flags, "--image", image)
        assert watched.returncode == 0, watched.stderr
    mutual.stop()


def client_flags(pair):
    return ["--client-cert", str(pair[0]), "--client-key", str(pair[1])]


def test_the_commands_say_what_to_do(tls, mutual, ca, stranger, gateway, tmp_path):
    # A CA of the same name, as after it was made anew, and one of another name.
    again = Ca(tmp_path / "again").certificate
    other = Ca(tmp_path / "other", "another CA").certificate
    trust = ["--ca", str(ca.certificate)]
    # A client of TLS 1.3 learns only after the handshake that it is refused, and may lose the reason.
    unread = "if it has refused the certificate of --client-cert, its log says why"
    for address, flags, advice in [
        (f"https://{tls.address}", [], "give the file of its CA with --ca"),
        (f"https://{tls.address}", ["--ca", str(again)], "give the file of its CA with --ca"),
        (f"https://{tls.address}", ["--ca", str(other)], "give the file of its CA with --ca"),
        (f"https://{gateway.address}", trust, "the server speaks no TLS; use http:// in --server"),
        (tls.address, [], "use https:// in --server"),
        (tls.address, trust, "--ca: expected an address with https:// in --server"),
        (f"https://{mutual.address}", trust, "--client-cert and --client-key"),
        (f"https://{mutual.address}", [*trust, *client_flags(stranger)],
         f"does not know the CA of the certificate|{unread}"),
        (f"https://{mutual.address}", [*trust, *client_flags(ca.expired("late"))], f"has expired|{unread}"),
        (f"https://{tls.address}", [*trust, "--client-cert", "x"], "expected --client-key beside it"),
        (f"https://{tls.address}", ["--ca", "no-such-file"], "the CA certificates in no-such-file: cannot be read"),
    ]:
        done = run("list", "--server", address, *flags)
        assert done.returncode == 2 and re.search(advice, done.stderr), (address, flags, done.stderr)
        assert done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1, done.stderr
    mutual.stop()


def test_a_wrong_name_is_an_error_with_both_names(simulator, ca):
    certificate, key = ca.sign("elsewhere", ["subjectAltName=DNS:gateway.example"])
    gateway = serve(simulator, "--tls-cert", certificate, "--tls-key", key)
    done = run("probe", "--server", f"https://{gateway.address}", "--ca", str(ca.certificate))
    assert done.returncode == 1 and "127.0.0.1" in done.stderr and "gateway.example" in done.stderr, done.stderr
    assert "use that name in --server" in done.stderr
    gateway.stop()


def test_the_client_variables_are_not_those_of_the_server(tls, ca, server):
    variables = {"AMISTORE_TLS_CERT": server[1], "AMISTORE_TLS_KEY": server[3]}
    address = {"AMISTORE_SERVER": f"https://{tls.address}"}
    assert run("probe", **variables, **address).returncode == 1
    assert run("probe", **variables, **address, AMISTORE_CLIENT_CA=str(ca.certificate)).returncode == 0


def test_a_probe_in_the_container_needs_no_certificate(simulator, server, ca):
    """kubelet and HEALTHCHECK have none, so they ask the admin listener, which is plaintext."""
    gateway = serve(simulator, *server, "--tls-client-ca", ca.certificate, "--admin-listen", "127.0.0.1:0")
    admin = re.search(r'admin_listen="?([^\s"]+)', gateway.start_line)[1]
    done = run("probe", AMISTORE_ADMIN_LISTEN=admin, AMISTORE_LISTEN=gateway.address, AMISTORE_TLS_CERT=server[1])
    assert done.returncode == 0, done.stderr
    assert refusals(gateway.stop()) == []


def test_a_gateway_does_not_start_with_files_that_do_not_fit(ca, tmp_path):
    certificate, key = ca.sign("starts")
    other = ca.sign("does-not")
    empty = tmp_path / "empty.pem"
    empty.touch()
    encrypted = tmp_path / "encrypted.key"
    subprocess.run(["openssl", "pkcs8", "-topk8", "-in", key, "-out", encrypted, "-passout", "pass:x"], check=True)
    for flags, words in [
        (["--tls-cert", certificate], ["--tls-cert", "--tls-key"]),
        (["--tls-key", key], ["--tls-key", "--tls-cert"]),
        (["--tls-client-ca", ca.certificate], ["--tls-client-ca", "--tls-cert"]),
        (["--tls-cert", certificate, "--tls-key", key, "--tls-client-auth", "optional"], ["--tls-client-ca"]),
        (["--tls-cert", certificate, "--tls-key", other[1]], [str(other[1]), str(certificate), "found another"]),
        (["--tls-cert", empty, "--tls-key", key], [str(empty), "at least one certificate"]),
        (["--tls-cert", certificate, "--tls-key", empty], [str(empty), "expected a private key"]),
        (["--tls-cert", certificate, "--tls-key", encrypted], [str(encrypted), "without a password"]),
        (["--tls-cert", tmp_path / "none", "--tls-key", key], [str(tmp_path / "none"), "cannot be read"]),
        (["--tls-cert", tmp_path, "--tls-key", key], [str(tmp_path), "expected a file"]),
        (["--tls-cert", certificate, "--tls-key", key, "--tls-client-ca", empty], [str(empty), "CA certificates"]),
    ]:
        done = run("serve", "--listen", "127.0.0.1:0", *map(str, flags), AWS_REGION="us-east-1")
        assert done.returncode == 2 and all(word in done.stderr for word in words), (flags, done.stderr)
        assert len(done.stderr.splitlines()) == 1, done.stderr


def test_an_expired_certificate_is_a_warning_with_its_date(simulator, ca):
    certificate, key = ca.expired("expired")
    gateway = serve(simulator, "--tls-cert", certificate, "--tls-key", key)
    done = run("probe", "--server", f"https://{gateway.address}", "--ca", str(ca.certificate))
    assert done.returncode == 1 and "certificate expired" in done.stderr, done.stderr
    log = gateway.started + gateway.stop()
    expired = [line for line in log.splitlines() if "the TLS certificate has expired" in line]
    assert len(expired) == 1 and re.search(r'expired="\d{4}-\d\d-\d\dT', expired[0]), log


class Load:
    """Steady Lists over one connection, and as steady ones over a connection of their own each."""

    def __init__(self, gateway, stubs, ca, pair):
        self.messages, self.services = stubs
        self.connect = lambda: channel(gateway, ca, pair)
        self.counts, self.failures, self.over = [0, 0], [], threading.Event()
        self.threads = [threading.Thread(target=work) for work in (self.steady, self.afresh)]
        for thread in self.threads:
            thread.start()

    def list(self, connection, kind):
        try:
            self.services.StoreImageTaskServiceStub(connection).ListStoreImageTasks(
                self.messages.ListStoreImageTasksRequest(page_size=10), timeout=10)
            self.counts[kind] += 1
        except grpc.RpcError as error:
            self.failures.append(str(error))

    def steady(self):
        with self.connect() as connection:
            while not self.over.is_set():
                self.list(connection, 0)

    def afresh(self):
        while not self.over.is_set():
            with self.connect() as connection:
                self.list(connection, 1)

    def wait_for_more(self, number=20):
        """Waits until each kind has made so many calls more."""
        wanted, deadline = [count + number for count in self.counts], time.monotonic() + 60
        while any(count < goal for count, goal in zip(self.counts, wanted)):
            assert not self.failures and time.monotonic() < deadline, (self.counts, self.failures)
            time.sleep(0.01)

    def end(self):
        self.over.set()
        for thread in self.threads:
            thread.join(30)
        return self.failures


def test_a_certificate_is_replaced_under_load_without_a_failed_call(simulator, ca, stubs, tmp_path):
    """As Kubernetes replaces a secret: the files are links below a link, which is swapped."""
    versions = [ca.sign("first"), ca.sign("second"), ca.sign("third")]
    for number, pair in enumerate(versions):
        folder = tmp_path / f"..{number}"
        folder.mkdir()
        for path, name in zip(pair, ("tls.crt", "tls.key")):
            (folder / name).write_bytes(path.read_bytes())
    (tmp_path / "..data").symlink_to("..0")
    for name in ("tls.crt", "tls.key"):
        (tmp_path / name).symlink_to(f"..data/{name}")
    gateway = serve(
        simulator, "--tls-cert", tmp_path / "tls.crt", "--tls-key", tmp_path / "tls.key",
        "--tls-client-ca", ca.certificate, "--tls-client-auth", "optional", "--tls-reload-interval", "100ms",
    )
    host, port = gateway.address.split(":")
    load = Load(gateway, stubs, ca, ca.sign("load"))
    for number, (certificate, _) in enumerate(versions):
        if number:
            load.wait_for_more()
            (tmp_path / "..data_tmp").symlink_to(f"..{number}")
            (tmp_path / "..data_tmp").rename(tmp_path / "..data")
        deadline = time.monotonic() + 30
        while ssl.get_server_certificate((host, int(port))).split() != certificate.read_text().split():
            assert time.monotonic() < deadline, f"certificate {number} is not used"
        load.wait_for_more()
    assert load.end() == []
    log = gateway.started + gateway.stop()
    assert re.findall(r'TLS files are in force certificate="CN=(\w+)"', log) == ["first", "second", "third"], log
    assert REFUSED not in log
