"""A watch goes on whatever breaks its stream: the command calls again until its task has ended."""

import signal
import socket
import struct
import subprocess
import threading
import time

import pytest

from conftest import GATEWAY, Gateway, Simulator, clean_environment, ec2_client

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, GOAWAY = 0, 1, 3, 4, 7
END_STREAM, END_HEADERS = 1, 4


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def status(code, *more):
    """A header block: `:status` and content-type, as literals without indexing."""
    block = b"\x08" + bytes([len(code)]) + code.encode()
    for name, value in more:
        block += b"\x00" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
    return block


GRPC = ("content-type", "application/grpc")
HTML = ("content-type", "text/html")
ANSWERS = {
    "FIN": lambda stream: b"",
    "GOAWAY": lambda stream: frame(GOAWAY, 0, 0, struct.pack(">II", 0, 0)),
    "GOAWAY of calm": lambda stream: frame(GOAWAY, 0, 0, struct.pack(">II", 0, 11)),
    "no trailers": lambda stream: frame(HEADERS, END_HEADERS, stream, status("200", GRPC)) + frame(DATA, END_STREAM, stream),
    "half a message": lambda stream: frame(HEADERS, END_HEADERS, stream, status("200", GRPC))
    + frame(DATA, END_STREAM, stream, b"\x00\x00\x00\x00\x09\x01"),
} | {
    f"RST_STREAM {code}": lambda stream, code=code: frame(RST_STREAM, 0, stream, struct.pack(">I", code))
    for code in range(14)
} | {
    f"HTTP {code}": lambda stream, code=code: frame(HEADERS, END_HEADERS | END_STREAM, stream, status(code, HTML))
    for code in ("400", "401", "403", "404", "429", "500", "502", "503", "504")
}


class Proxy:
    """Breaks the first connection as a test says, and passes the others on."""

    def __init__(self, target, answer, reset=False):
        self.target, self.answer, self.reset = target, answer, reset
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.listener.getsockname()[1]}"
        self.broken = 0
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            connection, _ = self.listener.accept()
            serve = self.pass_on if self.broken else self.break_it
            self.broken += 1
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    def break_it(self, connection):
        stream = connection.makefile("rb")
        assert stream.read(len(PREFACE)) == PREFACE
        connection.sendall(frame(SETTINGS, 0, 0))
        while True:
            head = stream.read(9)
            stream.read(int.from_bytes(head[:3], "big"))
            if head[3] == HEADERS:
                break
        connection.sendall(self.answer(int.from_bytes(head[5:9], "big")))
        if self.reset:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        time.sleep(0.2)
        stream.close()
        connection.close()

    def pass_on(self, connection):
        host, port = self.target.split(":")
        upstream = socket.create_connection((host, int(port)))
        threading.Thread(target=pump, args=(upstream, connection), daemon=True).start()
        pump(connection, upstream)


def pump(source, sink):
    try:
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        pass


@pytest.fixture(scope="module")
def completed(gateway):
    listed = subprocess.run([GATEWAY, "list", "--server", gateway.address, "--state", "completed", "--limit", "1"],
                            capture_output=True, text=True, env=clean_environment())
    return listed.stdout.split("ami-")[1].split()[0]


def watch(address, image):
    return subprocess.run([GATEWAY, "watch", "--server", address, "--image", image], capture_output=True, text=True,
                          timeout=60, env=clean_environment())


@pytest.mark.parametrize("trouble", ANSWERS)
def test_a_broken_stream_is_called_again(gateway, completed, trouble):
    proxy = Proxy(gateway.address, ANSWERS[trouble])
    done = watch(proxy.address, f"ami-{completed}")
    assert done.returncode == 0 and "100 % Completed" in done.stdout, done
    assert proxy.broken >= 2 and "calling again" in done.stdout, done


def test_a_reset_connection_is_called_again(gateway, completed):
    proxy = Proxy(gateway.address, lambda stream: b"", reset=True)
    assert watch(proxy.address, f"ami-{completed}").returncode == 0 and proxy.broken >= 2


def test_a_refusal_of_the_gateway_ends_a_watch(gateway):
    began = time.monotonic()
    assert watch(gateway.address, "ami-nothex").returncode == 2
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGSTOP])
def test_a_watch_survives_a_gateway_that_dies_or_falls_silent(stop):
    simulator = Simulator("--speed", "1")
    region = "us-east-1"
    image = simulator.idle[region][0]
    first = Gateway(simulator)
    ec2_client(simulator, region).create_store_image_task(ImageId=image, Bucket="golden-images")
    process = subprocess.Popen(
        [GATEWAY, "watch", "--server", first.address, "--region", region, "--image", image, "--wait"],
        stdout=subprocess.PIPE, text=True, env=clean_environment(),
    )
    assert process.stdout.readline()
    first.process.send_signal(stop)
    if stop == signal.SIGKILL:
        first.process.wait()
        second = Gateway(simulator, first.address)
    for line in process.stdout:
        if "calling again" in line:
            break
    if stop == signal.SIGSTOP:
        first.process.send_signal(signal.SIGCONT)
        second = first
    assert process.wait(timeout=150) == 0
    second.stop()
    simulator.stop()
