"""Where the gateway listens, and more connections than it may have."""

import fcntl
import os
import pathlib
import resource
import socket
import subprocess
import tempfile
import threading
import time

import pytest

from conftest import GATEWAY, Gateway, clean_environment
from test_commands import run

LOWERED = "the limit of open files lowers the bound of connections"
BOUND = "the bound of connections is reached; further ones wait until others end"
NO_ACCEPT = "connections cannot be accepted; trying again"


class Log:
    """The lines that a gateway logs from now on."""

    def __init__(self, gateway):
        self.lines = []
        self.changed = threading.Condition()
        threading.Thread(target=self._read, args=[gateway.process.stderr], daemon=True).start()

    def _read(self, stderr):
        for line in stderr:
            with self.changed:
                self.lines.append(line)
                self.changed.notify_all()

    def wait_for(self, text, timeout=10):
        with self.changed:
            assert self.changed.wait_for(lambda: any(text in line for line in self.lines), timeout), self.lines
            return next(line for line in self.lines if text in line)

    def count(self, text):
        return sum(text in line for line in self.lines)


def stop(gateway):
    """Ends a gateway whose standard error a `Log` reads."""
    gateway.process.terminate()
    assert gateway.process.wait(timeout=40) == 0


def connect(address, count):
    host, port = address.rsplit(":", 1)
    return [socket.create_connection((host, int(port)), timeout=10) for _ in range(count)]


def cpu_share(gateway, seconds=3):
    """Share of a processor that a gateway takes."""
    def used():
        fields = pathlib.Path(f"/proc/{gateway.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    before = used()
    time.sleep(seconds)
    return (used() - before) / seconds


@pytest.fixture
def folder():
    # A path of a Unix socket has at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="amistore-", dir="/tmp") as folder:
        yield pathlib.Path(folder)


def test_with_few_open_files_connections_wait_until_others_end(simulator):
    few = lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    gateway = Gateway(simulator, preexec_fn=few)
    log = Log(gateway)
    assert "max_connections=32 asked=10000 open_files=64" in log.wait_for(LOWERED)
    silent = connect(gateway.address, 90)
    assert "limit=32" in log.wait_for(BOUND)
    assert cpu_share(gateway) < 0.05
    assert run("probe", "--server", gateway.address, "--timeout", "500ms").returncode == 1, "no place is free"
    for one in silent:
        one.close()
    assert run("probe", "--server", gateway.address, "--timeout", "5s").returncode == 0
    assert run("list", "--server", gateway.address).returncode in (0, 1), "a call to EC2 needs a descriptor, too"
    assert log.count(BOUND) == 1 and log.count(NO_ACCEPT) == 0, log.lines
    stop(gateway)


def test_without_free_descriptors_accepting_pauses_and_goes_on_once_others_leave(simulator):
    gateway = Gateway(simulator)
    log = Log(gateway)
    open_now = len(os.listdir(f"/proc/{gateway.process.pid}/fd"))
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.prlimit(gateway.process.pid, resource.RLIMIT_NOFILE, (open_now + 20, hard))
    silent = connect(gateway.address, 90)
    assert "error=Too many open files (os error 24)" in log.wait_for(NO_ACCEPT)
    assert cpu_share(gateway) < 0.05
    for one in silent:
        one.close()
    assert run("probe", "--server", gateway.address, "--timeout", "5s").returncode == 0
    assert log.count(NO_ACCEPT) == 1, log.lines
    stop(gateway)


def test_several_addresses_and_a_unix_socket(simulator, folder):
    path = folder / "gateway.sock"
    gateway = Gateway(simulator, f"127.0.0.1:0,unix:{path}", "--listen", "[::]:0")
    first, unix, all_addresses = gateway.addresses
    assert unix == f"unix:{path}"
    port = all_addresses.rsplit(":", 1)[1]
    for server in (first, unix, f"127.0.0.1:{port}", f"[::1]:{port}"):
        assert run("probe", "--server", server).returncode == 0, server
    assert run("list", "--server", unix, "--limit", "1").returncode in (0, 1)
    assert run("probe", AMISTORE_LISTEN=f"{unix},127.0.0.1:1").returncode == 0, "the first one is asked"
    assert run("probe", AMISTORE_LISTEN=f"127.0.0.1:1,{unix}").returncode == 1
    gateway.stop()
    assert not path.exists()


def test_a_python_client_over_a_unix_socket(simulator, folder, stubs):
    import grpc

    messages, services = stubs
    gateway = Gateway(simulator, f"unix:{folder / 'gateway.sock'}")
    # Without this, the authority is the path of the socket, which Rust's HTTP/2 refuses.
    options = [("grpc.default_authority", "localhost")]
    with grpc.insecure_channel(gateway.address, options=options) as channel:
        listed = services.StoreImageTaskServiceStub(channel).ListStoreImageTasks(
            messages.ListStoreImageTasksRequest(), timeout=10)
    assert listed.tasks
    gateway.stop()


def test_the_socket_of_a_dead_gateway_is_replaced_and_that_of_a_live_one_not(simulator, folder):
    listen = f"unix:{folder / 'gateway.sock'}"
    Gateway(simulator, listen).kill()
    assert (folder / "gateway.sock").exists()
    gateway = Gateway(simulator, listen)
    second = run("serve", "--listen", listen, **simulator.environment)
    assert second.returncode == 2 and f"cannot listen on {listen}" in second.stderr, second
    assert "in use" in second.stderr and "--listen unix:PATH" in second.stderr, second
    assert run("probe", "--server", listen).returncode == 0
    gateway.stop()
    (folder / "gateway.sock").write_text("precious")
    no_socket = run("serve", "--listen", listen, **simulator.environment)
    assert no_socket.returncode == 2 and (folder / "gateway.sock").read_text() == "precious", no_socket


def test_an_address_that_cannot_be_bound_is_an_error_that_names_it(simulator, gateway):
    for listen in (f"127.0.0.1:0,{gateway.address}", "127.0.0.1:0,unix:/no/such/folder/gateway.sock"):
        done = run("serve", "--listen", listen, **simulator.environment)
        assert done.returncode == 2 and f"cannot listen on {listen.split(',')[1]}" in done.stderr, done
    for listen in ("localhost", "unix:", "http://127.0.0.1:1"):
        done = run("serve", "--listen", listen, **simulator.environment)
        assert done.returncode == 2 and "unix:PATH" in done.stderr, done


def hand_over(sockets, pid="$$"):
    """The options that start a gateway with these sockets from descriptor 3 on, as systemd does."""
    # Out of the way of the descriptors that they become.
    kept = [fcntl.fcntl(one, fcntl.F_DUPFD, 100) for one in sockets]
    moves = " ".join(f"{3 + index}<&{fd} {fd}<&-" for index, fd in enumerate(kept))
    script = f'exec env LISTEN_FDS={len(kept)} LISTEN_PID={pid} "$0" "$@" {moves}'
    return {"command": ("bash", "-c", script, GATEWAY), "pass_fds": kept}


def test_sockets_that_a_service_manager_hands_over(simulator, folder):
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(folder / "gateway.sock"))
        unix.listen()
        gateway = Gateway(simulator, "127.0.0.1:1", **hand_over([tcp, unix]))
        expected = [f"127.0.0.1:{tcp.getsockname()[1]}", f"unix:{folder / 'gateway.sock'}"]
        assert gateway.addresses == expected, "instead of the addresses of --listen"
        for server in expected:
            assert run("probe", "--server", server).returncode == 0, server
        gateway.stop()
        assert (folder / "gateway.sock").exists(), "it is the service manager's"


def test_sockets_for_another_process_are_left_alone(simulator):
    with socket.create_server(("127.0.0.1", 0)) as tcp:
        gateway = Gateway(simulator, **hand_over([tcp], pid="1"))
        assert gateway.address != f"127.0.0.1:{tcp.getsockname()[1]}"
        assert run("probe", "--server", gateway.address).returncode == 0
        gateway.stop()


def test_a_descriptor_that_does_not_listen_is_an_error(simulator):
    one, other = socket.socketpair()
    unbound, datagrams = socket.socket(), socket.socket(type=socket.SOCK_DGRAM)
    with one, other, unbound, datagrams, open(os.devnull) as file, socket.create_server(("127.0.0.1", 0)) as tcp:
        for wrong in (one, unbound, datagrams, file):
            options = hand_over([tcp, wrong])
            done = subprocess.run(
                [*options["command"], "serve"], pass_fds=options["pass_fds"], capture_output=True, text=True,
                timeout=30, env=clean_environment(**simulator.environment),
            )
            assert done.returncode == 2 and "found something else in descriptor 4" in done.stderr, (wrong, done)
