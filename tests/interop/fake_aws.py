"""A made-up EC2 and other endpoints of AWS, whose answers a test chooses, and a gateway in front of them."""

import contextlib
import http.server
import socket
import subprocess
import threading
import time
import urllib.parse

import grpc

from conftest import GATEWAY, clean_environment

EMPTY = """<?xml version="1.0" encoding="UTF-8"?>
<DescribeStoreImageTasksResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/">
    <requestId>7e2f5a9c-0000-4000-8000-000000000001</requestId><storeImageTaskResultSet></storeImageTaskResultSet>
</DescribeStoreImageTasksResponse>"""
ERROR = """<?xml version="1.0" encoding="UTF-8"?>
<Response><Errors><Error><Code>{}</Code><Message>no</Message></Error></Errors><RequestID>1</RequestID></Response>"""
STS = """<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
<AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>web-key</AccessKeyId><SecretAccessKey>secret</SecretAccessKey>
<SessionToken>token</SessionToken><Expiration>2099-01-01T00:00:00Z</Expiration></Credentials>
</AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"""


class Server:
    """An HTTP server whose answers a test chooses: `answer(path, body, headers)` gives a status, a text, and
    perhaps headers."""

    def __init__(self, answer, tls=None):
        outer = self
        self.requests = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def handle_any(self):
                body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
                outer.requests.append((self.command, self.path, self.headers))
                status, text, *headers = answer(self.path, body, self.headers)
                headers = headers[0] if headers else {}
                self.send_response(status)
                self.send_header("Content-Length", str(len(text.encode())))
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(text.encode())

            do_GET = do_POST = do_PUT = do_CONNECT = handle_any

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        if tls:
            self.server.socket = tls.wrap_socket(self.server.socket, server_side=True)
        self.port = self.server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self):
        self.server.shutdown()
        self.server.server_close()


def ec2(refused=(), code="ExpiredToken"):
    """An EC2 that has no tasks, and refuses some access keys."""
    def answer(_, body, headers):
        assert urllib.parse.parse_qs(body)["Action"] == ["DescribeStoreImageTasks"]
        key = headers["Authorization"].split("Credential=")[1].split("/")[0]
        return (400, ERROR.format(code)) if key in refused else (200, EMPTY)
    return Server(answer)


def keys(server):
    return [headers["Authorization"].split("Credential=")[1].split("/")[0] for _, _, headers in server.requests]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for_listener(address):
    """Waits until the gateway listens: within a second, whatever the SDK waits for."""
    host, port = address.split(":")
    end = time.monotonic() + 1
    while True:
        try:
            return socket.create_connection((host, int(port))).close()
        except ConnectionRefusedError:
            assert time.monotonic() < end, "the gateway does not listen"
            time.sleep(0.01)


@contextlib.contextmanager
def gateway(*flags, **environment):
    """A gateway on a free port, with an empty chain of credential providers beside `environment`."""
    address = f"127.0.0.1:{free_port()}"
    defaults = {"AWS_EC2_METADATA_DISABLED": "true", "AWS_REGION": "us-east-1"}
    environment = {k: v for k, v in (defaults | environment).items() if v is not None}
    process = subprocess.Popen([GATEWAY, "serve", "--listen", address, *flags], stderr=subprocess.PIPE, text=True,
                               env=clean_environment(**environment))
    try:
        wait_for_listener(address)
        with grpc.insecure_channel(address) as channel:
            yield channel, process
    finally:
        process.kill()
        process.wait()


def listed(channel, stubs, **fields):
    """The code of a List that rests on a new EC2 call, and the message of its error."""
    messages, services = stubs
    fields.setdefault("max_staleness", messages.ListStoreImageTasksRequest().max_staleness)
    try:
        services.StoreImageTaskServiceStub(channel).ListStoreImageTasks(
            messages.ListStoreImageTasksRequest(**fields), timeout=30)
        return "OK", ""
    except grpc.RpcError as error:
        return error.code().name, error.details()
