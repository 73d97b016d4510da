"""The admin listener of a running gateway, and who asks it."""

import re
import resource
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request

import pytest

from conftest import GATEWAY, Gateway, Simulator, clean_environment
from test_commands import run
from test_listening import BOUND, Log, connect, stop

DEFAULT = "127.0.0.1:9464"
NO_ADMIN = "there is no admin listener; choose its address with --admin-listen"


def admin_of(line):
    return re.search(r"admin_listen=(\S+)", line)[1]


def get(address, path="/readyz"):
    """The status and the text of a page. None if nothing listens there, or the process has just ended."""
    try:
        with urllib.request.urlopen(f"http://{address}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except urllib.error.URLError as error:
        assert isinstance(error.reason, ConnectionRefusedError | ConnectionResetError), error
        return None
    except ConnectionResetError:
        return None


class AdminGateway(Gateway):
    """A gateway with an admin listener on a free port, which is the default one in its environment."""

    def __init__(self, simulator, *flags, admin="127.0.0.1:0", **options):
        super().__init__(simulator, "127.0.0.1:0", *flags, environment={"AMISTORE_ADMIN_LISTEN": admin}, **options)
        self.admin = admin_of(self.start_line)


def test_the_pages_of_a_gateway_that_serves(simulator):
    gateway = AdminGateway(simulator)
    assert get(gateway.admin) == (200, "ready\n")
    assert get(gateway.admin, "/livez") == (200, "ok\n")
    assert get(gateway.admin, "/metricz")[0] == 404
    gateway.stop()
    assert get(gateway.admin) is None


def test_probe_asks_the_admin_listener_unless_there_is_none_or_a_server_is_named(simulator):
    gateway = AdminGateway(simulator)
    asked = run("probe", AMISTORE_ADMIN_LISTEN=gateway.admin)
    assert asked.returncode == 0 and asked.stdout == "ready\n", asked
    port = gateway.admin.rsplit(":", 1)[1]
    for listen in (f"0.0.0.0:{port}", f"[::]:{port}", f"localhost:{port}"):
        assert run("probe", "--admin-listen", listen).stdout == "ready\n", listen
    for arguments, variables in (
        (["--server", gateway.address], {}),
        (["--server", gateway.address], {"AMISTORE_ADMIN_LISTEN": "127.0.0.1:1"}),
        ([], {"AMISTORE_ADMIN_LISTEN": "none", "AMISTORE_LISTEN": gateway.address}),
        (["--service", "amistore.v1.StoreImageTaskService"],
         {"AMISTORE_ADMIN_LISTEN": gateway.admin, "AMISTORE_LISTEN": gateway.address}),
    ):
        asked = run("probe", *arguments, **variables)
        assert asked.returncode == 0 and asked.stdout == "SERVING\n", (arguments, variables, asked)
    nobody = run("probe", "--admin-listen", "127.0.0.1:1", AMISTORE_LISTEN=gateway.address)
    assert nobody.returncode == 1 and "127.0.0.1:1: Connection refused" in nobody.stderr, nobody
    no_page = run("probe", "--admin-listen", gateway.address)
    assert no_page.returncode == 1 and gateway.address in no_page.stderr, no_page
    wrong = run("probe", "--admin-listen", "9464")
    assert wrong.returncode == 2 and "or none" in wrong.stderr, wrong
    with socket.create_server(("127.0.0.1", 0)) as silent:
        started = time.monotonic()
        waited = run("probe", "--admin-listen", f"127.0.0.1:{silent.getsockname()[1]}", "--timeout", "500ms")
        assert waited.returncode == 1 and "no answer within 500ms" in waited.stderr, waited
        assert time.monotonic() - started < 3
    gateway.stop()


def test_from_sigterm_on_a_gateway_is_not_ready_while_a_call_is_still_in_progress():
    simulator = Simulator(latency="3s")
    gateway = AdminGateway(simulator)
    answers = []
    call = threading.Thread(
        target=lambda: answers.append(run("list", "--server", gateway.address, "--limit", "1").returncode))
    call.start()
    time.sleep(1)  # The call is at EC2 for another two seconds.
    assert get(gateway.admin) == (200, "ready\n")
    gateway.process.terminate()
    seen = []
    while call.is_alive() and (page := get(gateway.admin)):
        if page[0] == 503 and not seen:
            probed = run("probe", AMISTORE_ADMIN_LISTEN=gateway.admin)
            assert (probed.returncode, probed.stderr) == (1, "not ready: the gateway shuts down\n"), probed
            assert get(gateway.admin, "/livez") == (200, "ok\n")
        seen.append(page)
        time.sleep(0.02)
    call.join()
    # The first page may have been asked for before the signal was taken.
    assert seen[1:] and set(seen[1:]) == {(503, "not ready: the gateway shuts down\n")}, seen
    assert answers[0] in (0, 1), "the call was answered"
    assert gateway.process.wait(timeout=40) == 0
    assert get(gateway.admin) is None
    simulator.stop()


def test_checks_are_answered_while_no_place_for_a_connection_is_free(simulator):
    few = lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    gateway = AdminGateway(simulator, preexec_fn=few)
    log = Log(gateway)
    silent, checks = connect(gateway.address, 90), connect(gateway.admin, 90)
    log.wait_for(BOUND)
    for _ in range(10):
        assert get(gateway.admin) == (200, "ready\n")
    for one in silent + checks:
        one.close()
    stop(gateway)


def test_while_the_region_is_searched_a_gateway_is_not_ready(simulator):
    with socket.create_server(("127.0.0.1", 0)) as metadata:
        search = dict(simulator.environment, AWS_EC2_METADATA_SERVICE_ENDPOINT=f"http://127.0.0.1:{metadata.getsockname()[1]}")
        search.pop("AWS_REGION"), search.pop("AWS_DEFAULT_REGION")
        process = subprocess.Popen(
            [GATEWAY, "serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"], stderr=subprocess.PIPE,
            text=True, env=clean_environment(**search))
        line = process.stderr.readline()
        admin, address = admin_of(line), re.search(r" listen=(\S+)", line)[1]
        assert get(admin) == (503, "not ready: the default region is searched for\n")
        assert get(admin, "/livez") == (200, "ok\n")
        probed = run("probe", "--server", address)
        assert probed.returncode == 1 and "NOT_SERVING" in probed.stderr, probed
        process.kill()
        process.wait()


@pytest.fixture
def default_taken():
    try:
        taken = socket.create_server(("127.0.0.1", 9464))
    except OSError as error:
        pytest.skip(f"another process has the default address: {error}")
    with taken:
        yield taken


def test_a_default_address_that_is_taken_is_a_warning(simulator, default_taken):
    gateway = AdminGateway(simulator, admin="")
    assert gateway.admin == "none"
    warning = gateway.process.stderr.readline()
    assert "WARN" in warning and NO_ADMIN in warning and f"address={DEFAULT}" in warning, warning
    assert run("probe", "--server", gateway.address).returncode == 0
    gateway.stop()


def test_the_default_address(simulator, default_taken):
    default_taken.close()
    gateway = AdminGateway(simulator, admin="")
    assert gateway.admin == DEFAULT
    assert run("probe", AMISTORE_ADMIN_LISTEN="").stdout == "ready\n"
    gateway.stop()


def test_an_address_that_was_asked_for_and_is_taken_is_an_error(simulator, default_taken, tmp_path):
    (tmp_path / "gateway.toml").write_text(f'[serve]\nadmin-listen = "{DEFAULT}"\n')
    serve = ["serve", "--listen", "127.0.0.1:0"]
    for arguments, variables in (
        ([*serve, "--admin-listen", DEFAULT], {}),
        (serve, {"AMISTORE_ADMIN_LISTEN": DEFAULT}),
        ([*serve, "--config", str(tmp_path / "gateway.toml")], {"AMISTORE_ADMIN_LISTEN": ""}),
        (["demo", "--listen", "127.0.0.1:0", "--simulator-listen", "127.0.0.1:0", "--admin-listen", DEFAULT], {}),
    ):
        done = run(*arguments, **simulator.environment, **variables)
        assert done.returncode == 2 and f"cannot listen on {DEFAULT}" in done.stderr, (arguments, done)
        assert "--admin-listen" in done.stderr, done


def test_without_an_admin_listener_nothing_listens_there(simulator, default_taken):
    default_taken.close()
    gateway = AdminGateway(simulator, admin="none")
    assert gateway.admin == "none" and get(DEFAULT) is None
    gateway.stop()


def test_the_demo_has_an_admin_listener_only_if_asked(default_taken):
    default_taken.close()
    demo = [GATEWAY, "demo", "--listen", "127.0.0.1:0", "--simulator-listen", "127.0.0.1:0", "--clients", "1"]
    for variables, expected in (({}, None), ({"AMISTORE_DEMO_ADMIN_LISTEN": DEFAULT}, (200, "ready\n"))):
        process = subprocess.Popen(demo, stdout=subprocess.PIPE, text=True,
                                   env=clean_environment(AMISTORE_ADMIN_LISTEN="", **variables))
        assert process.stdout.readline()
        assert get(DEFAULT) == expected
        if expected:
            assert run("probe", AMISTORE_ADMIN_LISTEN="").returncode == 0, "as the image's HEALTHCHECK"
        process.terminate()
        process.communicate(timeout=40)
        assert process.returncode == 0


def test_a_unix_socket(simulator, tmp_path_factory):
    path = tmp_path_factory.mktemp("a") / "admin.sock"
    gateway = AdminGateway(simulator, admin=f"unix:{path}")
    assert run("probe", AMISTORE_ADMIN_LISTEN=f"unix:{path}").stdout == "ready\n"
    gateway.stop()
    assert not path.exists()
    assert run("probe", AMISTORE_ADMIN_LISTEN=f"unix:{path}").returncode == 1
