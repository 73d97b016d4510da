"""Every row of docs/errors.md through real clients, grpcio and grpc-java: code, `ErrorInfo`, `RetryInfo`,
pushback, and the size of the trailers. Tests in Rust provoke the rows that only a bug of the gateway shows."""

import base64
import contextlib
import http.server
import json
import pathlib
import re
import socket
import subprocess
import tempfile
import threading
import time
import urllib.parse

import grpc
import pytest
from google.protobuf import duration_pb2
from google.rpc import error_details_pb2, status_pb2

from conftest import ROOT, SERVICE, Gateway, Simulator
from java_client import Java, JavaCallable, JavaChannel, JavaStub

HERE = pathlib.Path(__file__).resolve().parent
# Less than 3 KiB, so that nginx's buffer of 4 KiB holds them with the other headers.
MAX_TRAILERS = 3 << 10
DETAILS = (error_details_pb2.ErrorInfo, error_details_pb2.RetryInfo, error_details_pb2.BadRequest)
BY_A_BUG = {"REQUEST_LOST", "INTERNAL"}
# No configuration that passes the checks of the start is known to produce it. A test of src/ec2/error.rs does.
OF_THE_ENVIRONMENT = {"RequestNotSent"}
CALLABLES = (grpc.UnaryUnaryMultiCallable, grpc.UnaryStreamMultiCallable, JavaCallable)


class Row:
    """What docs/errors.md says of a reason."""

    def __init__(self, domain, reason, code, delay):
        self.domain, self.reason, self.code = domain, reason, code
        self.delay = None if delay == "no" else tuple(map(int, re.fullmatch(r"(\d+) to (\d+) s", delay).groups()))


def documented():
    """The rows of EC2's codes, and those of the gateway's reasons."""
    text = (ROOT / "docs" / "errors.md").read_text().split("## Codes that refuse one image")[0]
    by_ec2, by_gateway = {}, {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|") or len(cells) != 4 or "`" not in line:
            continue
        if cells[0].startswith("`"):
            row = Row("amistore", cells[0].strip("`"), *cells[2:])
            by_gateway[row.reason] = row
        else:
            for code in re.findall(r"`(\w+)`", cells[1]):
                by_ec2[code] = Row("ec2.amazonaws.com", code, *cells[2:])
    return by_ec2, by_gateway


EC2_ROWS, GATEWAY_ROWS = documented()


class Refusal:
    """A status with what its trailers say."""

    def __init__(self, code, message, trailers):
        self.code, self.message = code, message
        packed = status_pb2.Status.FromString(trailers["grpc-status-details-bin"])
        assert packed.code == code.value[0] and packed.message == message
        self.details = {}
        for detail in packed.details:
            kind = next(kind for kind in DETAILS if detail.Is(kind.DESCRIPTOR))
            assert kind not in self.details, f"two {kind.__name__}"
            self.details[kind] = kind()
            detail.Unpack(self.details[kind])
        self.info = self.details[error_details_pb2.ErrorInfo]
        self.pushback = trailers.get("grpc-retry-pushback-ms")
        encoded = trailers | {
            "grpc-status": str(code.value[0]),
            "grpc-message": urllib.parse.quote(message, safe=" "),
            "grpc-status-details-bin": base64.b64encode(trailers["grpc-status-details-bin"]).decode(),
        }
        self.size = sum(len(name) + len(value) + 4 for name, value in encoded.items())

    @classmethod
    def of(cls, error):
        return cls(error.code(), error.details(), dict(error.trailing_metadata()))

    @classmethod
    def of_raw(cls, headers):
        code = next(code for code in grpc.StatusCode if code.value[0] == int(headers["grpc-status"]))
        details = headers["grpc-status-details-bin"]
        trailers = {"grpc-status-details-bin": base64.b64decode(details + "=" * (-len(details) % 4))}
        if "grpc-retry-pushback-ms" in headers:
            trailers["grpc-retry-pushback-ms"] = headers["grpc-retry-pushback-ms"]
        return cls(code, urllib.parse.unquote(headers["grpc-message"]), trailers)

    def assert_is(self, row):
        assert (self.info.domain, self.info.reason, self.code.name) == (row.domain, row.reason, row.code), self.message
        assert self.message and self.size < MAX_TRAILERS
        retry = self.details.get(error_details_pb2.RetryInfo)
        assert (retry is None) == (self.pushback is None) == (row.delay is None), self.details
        assert (row.delay is not None) == (row.code in ("UNAVAILABLE", "RESOURCE_EXHAUSTED"))
        if row.delay:
            shortest, longest = row.delay
            assert retry.retry_delay.ToMilliseconds() == int(self.pushback)
            assert shortest * 1000 <= int(self.pushback) <= longest * 1000


def refused(call, *arguments, **options):
    """The refusal of a call that must fail. A stream fails at one of its messages."""
    if isinstance(call, CALLABLES):
        options = {"timeout": 60} | options
    with pytest.raises(grpc.RpcError) as raised:
        answer = call(*arguments, **options)
        for _ in answer if hasattr(answer, "__next__") else []:
            pass
    return Refusal.of(raised.value)


class Endpoint:
    """An EC2-compatible endpoint that answers each call with `reply`: a status and a body, or None for no answer."""

    def __init__(self):
        endpoint = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                self.rfile.read(int(self.headers["Content-Length"] or 0))
                if endpoint.reply is None:
                    time.sleep(60)
                    return
                status, body = endpoint.reply
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.send_header("x-amzn-RequestId", "request-1")
                self.end_headers()
                self.wfile.write(body.encode())

            do_GET = do_POST

            def log_message(self, *_):
                pass

        self.reply = 500, ""
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        # The endpoint grants far more calls than EC2.
        self.environment = {
            "AWS_ENDPOINT_URL_EC2": self.url, "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret",
            "AMISTORE_CALL_BURST": "1000", "AMISTORE_CALL_RATE": "1000",
            "AMISTORE_MAX_ATTEMPTS": "1",
        }

    def refuse(self, code, status=400):
        self.reply = status, (
            f'<?xml version="1.0" encoding="UTF-8"?><Response><Errors><Error><Code>{code}</Code>'
            f"<Message>EC2 says so.</Message></Error></Errors><RequestID>request-1</RequestID></Response>"
        )

    def list(self, *items):
        tasks = "".join(
            f"<item><amiId>{image}</amiId><bucket>golden-images</bucket><progressPercentage>5</progressPercentage>"
            f"<s3objectKey>{image}.bin</s3objectKey><storeTaskState>InProgress</storeTaskState>"
            f"<taskStartTime>{start}</taskStartTime></item>" for image, start in items
        )
        self.reply = 200, (
            '<?xml version="1.0" encoding="UTF-8"?>'
            '<DescribeStoreImageTasksResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/">'
            "<requestId>request-1</requestId>"
            f"<storeImageTaskResultSet>{tasks}</storeImageTaskResultSet></DescribeStoreImageTasksResponse>"
        )


class Environment:
    """Replaces an endpoint for a gateway with another environment."""

    def __init__(self, environment, **more):
        self.environment = environment | more


class PythonClients:
    """Clients of grpcio."""

    def __init__(self, stubs):
        self.stub = stubs[1].StoreImageTaskServiceStub

    def channel(self, address, is_deflating=False):
        return grpc.insecure_channel(address, compression=grpc.Compression.Deflate if is_deflating else None)


class JavaClients:
    """Clients of grpc-java."""

    def __init__(self, stubs, java):
        self.messages, self.java = stubs[0], java

    def channel(self, address, is_deflating=False):
        return JavaChannel(self.java, address, "deflate" if is_deflating else None)

    def stub(self, channel):
        service = self.messages.DESCRIPTOR.services_by_name["StoreImageTaskService"]
        return JavaStub(channel, service, self.messages)


@pytest.fixture(scope="module")
def java():
    java = Java()
    yield java
    java.stop()


@pytest.fixture(params=["Python", "Java"])
def clients(request, stubs):
    if request.param == "Python":
        return PythonClients(stubs)
    return JavaClients(stubs, request.getfixturevalue("java"))


@contextlib.contextmanager
def serving(backend, clients, **settings):
    """A gateway in front of a simulator or an endpoint, and a client of it."""
    backend.environment = backend.environment | settings
    gateway = Gateway(backend)
    with clients.channel(gateway.address) as channel:
        yield gateway, clients.stub(channel), channel
    gateway.stop()


@pytest.fixture
def endpoint():
    endpoint = Endpoint()
    yield endpoint
    endpoint.server.shutdown()


@pytest.fixture
def newest(stubs):
    """A List that EC2 must be asked for."""
    return stubs[0].ListStoreImageTasksRequest(max_staleness=duration_pb2.Duration())


def seen(reasons, row_of):
    """Keeps the reasons that a test has provoked, each as its row says."""
    def check(reason, refusal):
        refusal.assert_is(row_of[reason])
        reasons.add(reason)
    return check


def test_every_code_of_ec2(endpoint, stubs, clients, newest):
    provoked = set()
    check = seen(provoked, EC2_ROWS)
    watch = stubs[0].WatchStoreImageTaskRequest(image_id="ami-00000001")
    unavailable = {code for code, row in EC2_ROWS.items() if row.code == "UNAVAILABLE"}
    with serving(endpoint, clients) as (_, client, _):
        for code in EC2_ROWS:
            endpoint.refuse(code, 503 if code in unavailable else 400)
            refusal = refused(client.ListStoreImageTasks, newest)
            if refusal.info.reason == "CredentialsRenewed":
                # The credentials were read again. EC2 refuses the new ones, too.
                refusal = refused(client.ListStoreImageTasks, newest)
            check(code, refusal)
            metadata = {"account": "default", "region": "us-east-1", "requestId": "request-1"}
            assert dict(refusal.info.metadata) == metadata, code
            if EC2_ROWS[code].code in ("PERMISSION_DENIED", "UNAUTHENTICATED"):
                # A Watch that begins is told so at once.
                check(code, refused(client.WatchStoreImageTask, watch))
        for code, status, kind in [("NoSuchCodeYet", 400, "FAILED_PRECONDITION"), ("NoSuchCodeYet", 500, "UNAVAILABLE"),
                                   ("RequestTimedOut", 408, "UNAVAILABLE"), ("NoSuchCodeYet", 501, "UNIMPLEMENTED")]:
            endpoint.refuse(code, status)
            delay = "2 to 4 s" if kind == "UNAVAILABLE" else "no"
            refused(client.ListStoreImageTasks, newest).assert_is(Row("ec2.amazonaws.com", code, kind, delay))
    assert provoked == EC2_ROWS.keys() and len(provoked) > 50


def test_every_reason_of_the_gateway(endpoint, stubs, clients, newest):
    provoked = set()
    check = seen(provoked, GATEWAY_ROWS)
    calls_without_an_error_of_ec2(endpoint, clients, newest, check)
    credentials(endpoint, clients, newest, check)
    bad_requests(endpoint, stubs[0], clients, check)
    raw_requests(endpoint, clients, check)
    ends_of_watches(endpoint, stubs[0], clients, check)
    bounds(stubs[0], clients, newest, check)
    assert provoked == GATEWAY_ROWS.keys() - BY_A_BUG - OF_THE_ENVIRONMENT


def calls_without_an_error_of_ec2(endpoint, clients, newest, check):
    with serving(endpoint, clients) as (_, client, _):
        for reason, reply in [
            ("ServiceUnavailable", (502, "<html>")), ("UnknownError", (404, "<html>")),
            ("RequestThrottled", (429, "<html>")), ("MalformedAnswer", (200, "<html>")),
        ]:
            endpoint.reply = reply
            check(reason, refused(client.ListStoreImageTasks, newest))
        endpoint.refuse("DryRunOperation", 412)
        check("UnexpectedDryRun", refused(client.ListStoreImageTasks, newest))
        endpoint.refuse("ExpiredToken")
        check("CredentialsRenewed", refused(client.ListStoreImageTasks, newest))
    endpoint.reply = None
    silent = Environment(endpoint.environment, AMISTORE_ATTEMPT_TIMEOUT="1s")
    with serving(silent, clients) as (_, client, _):
        check("RequestTimeout", refused(client.ListStoreImageTasks, newest))
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    unreachable = Environment(endpoint.environment, AWS_ENDPOINT_URL_EC2=f"http://127.0.0.1:{port}")
    with serving(unreachable, clients) as (_, client, _):
        check("ConnectionFailure", refused(client.ListStoreImageTasks, newest))
    nowhere = Environment(endpoint.environment, AWS_ENDPOINT_URL_EC2="http://ec2.us-nowhere-1.invalid")
    with serving(nowhere, clients) as (_, client, _):
        check("HostNotFound", refused(client.ListStoreImageTasks, newest))
    without_region = {name: value for name, value in endpoint.environment.items() if name != "AWS_REGION"}
    with socket.create_server(("127.0.0.1", 0)) as silent:
        metadata = f"http://127.0.0.1:{silent.getsockname()[1]}"
        searching = Environment(without_region, AWS_EC2_METADATA_SERVICE_ENDPOINT=metadata)
        with serving(searching, clients) as (_, client, _):
            check("REGION_UNKNOWN", refused(client.ListStoreImageTasks, newest))


def credentials(endpoint, clients, newest, check):
    provider = Endpoint()
    without_keys = {name: value for name, value in endpoint.environment.items() if "KEY" not in name}
    without_keys |= {"AWS_EC2_METADATA_DISABLED": "true", "AMISTORE_ATTEMPT_TIMEOUT": "20s"}
    from_url = {"AWS_CONTAINER_CREDENTIALS_FULL_URI": provider.url}
    for reason, reply, more in [
        ("NoCredentials", None, {}),
        ("CredentialsFailure", (500, "no"), from_url),
        ("CredentialsTimedOut", None, from_url),
    ]:
        provider.reply = reply
        with serving(Environment(without_keys, **more), clients) as (_, client, _):
            check(reason, refused(client.ListStoreImageTasks, newest, timeout=60))
    provider.server.shutdown()


def bad_requests(endpoint, messages, clients, check):
    endpoint.list()
    with serving(endpoint, clients) as (gateway, client, channel):
        check("INVALID_ARGUMENT", refused(client.ListStoreImageTasks, messages.ListStoreImageTasksRequest(page_size=-1)))
        # With quotes, which the percent-encoding of the message makes three times as long.
        many = messages.ListStoreImageTasksRequest(image_ids=['"' * 64] * 20)
        check("INVALID_ARGUMENT", refused(client.ListStoreImageTasks, many))
        huge = messages.ListStoreImageTasksRequest(page_token="x" * (1 << 20))
        check("REQUEST_TOO_LARGE", refused(client.ListStoreImageTasks, huge))
        call = channel.unary_unary(f"/{SERVICE}/ListStoreImageTasks")
        check("REQUEST_UNREADABLE", refused(call, b"\xff" * 9))
        check("HEADERS_TOO_LARGE", refused(call, b"", metadata=[("x", "x" * (17 << 10))]))
        check("UNKNOWN_METHOD", refused(channel.unary_unary(f"/{SERVICE}/No"), b""))
        check("UNKNOWN_METHOD", refused(client.WatchStoreImageTasks, messages.WatchStoreImageTasksRequest()))
        # A HealthCheckRequest of the service "no".
        check("UNKNOWN_NAME", refused(channel.unary_unary("/grpc.health.v1.Health/Check"), b"\n\x02no"))
        with clients.channel(gateway.address, is_deflating=True) as deflating:
            list_call = clients.stub(deflating).ListStoreImageTasks
            page = messages.ListStoreImageTasksRequest(page_token="x" * 10_000)
            check("UNSUPPORTED_ENCODING", refused(list_call, page))


def raw_requests(endpoint, clients, check):
    """What a gRPC library never sends, or answers by itself."""
    with serving(endpoint, clients) as (gateway, _, _):
        for reason, headers in [
            ("INVALID_TIMEOUT", {"grpc-timeout": "soon"}),
            ("UNSUPPORTED_CONTENT_TYPE", {"content-type": "application/json"}),
            ("DEADLINE_EXCEEDED", {"grpc-timeout": "1n"}),
        ]:
            done = subprocess.run(["node", HERE / "raw.mjs", gateway.address, json.dumps(headers)],
                                  capture_output=True, text=True, timeout=60, check=True)
            check(reason, Refusal.of_raw(json.loads(done.stdout)))


def ends_of_watches(endpoint, messages, clients, check):
    a_month_ago = time.time() - 31 * 24 * 3600 + 6
    start = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(a_month_ago))
    endpoint.list(("ami-00000001", start))
    with serving(endpoint, clients) as (gateway, client, _):
        watch = client.WatchStoreImageTask
        check("NO_TASK", refused(watch, messages.WatchStoreImageTaskRequest(image_id="ami-00000002")))
        [task] = client.ListStoreImageTasks(messages.ListStoreImageTasksRequest()).tasks
        time.sleep(max(0, a_month_ago + 31 * 24 * 3600 + 1 - time.time()))
        endpoint.list()
        check("TASK_GONE", refused(watch, messages.WatchStoreImageTaskRequest(task_id=task.task_id)))
        running = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(time.time() - 60))
        endpoint.list(("ami-00000003", running))
        stream = watch(messages.WatchStoreImageTaskRequest(image_id="ami-00000003"))
        assert next(stream).task.image_id == "ami-00000003"
        gateway.terminate()
        check("SHUTTING_DOWN", refused(list, stream))


def preempted(simulator, messages, clients, check):
    """A caller at an address has both places for watches, and another one, over a Unix socket, needs one."""
    with tempfile.TemporaryDirectory() as folder:
        path = f"unix:{folder}/gateway"
        crowded = Environment(simulator.environment, AMISTORE_MAX_WATCHES="2")
        gateway = Gateway(crowded, "127.0.0.1:0", "--listen", path)
        with (
            clients.channel(gateway.address) as channel,
            grpc.insecure_channel(path, [("grpc.default_authority", "localhost")]) as other,
        ):
            client = clients.stub(channel)
            running = messages.ListStoreImageTasksRequest(states=[messages.StoreImageTask.STATE_IN_PROGRESS])
            image = client.ListStoreImageTasks(running).tasks[0].image_id
            request = messages.WatchStoreImageTaskRequest(image_id=image)
            held = []
            for _ in range(2):
                # The first has its place before the second is opened.
                held.append(client.WatchStoreImageTask(request))
                next(held[-1])
            newcomer = other.unary_stream(f"/{SERVICE}/WatchStoreImageTask")(request.SerializeToString())
            next(newcomer)
            check("PREEMPTED", refused(list, held[1]))
            newcomer.cancel()
            held[0].cancel()
        gateway.stop()


def varint(number):
    """A number in protobuf's encoding."""
    low, rest = number & 0x7F, number >> 7
    return bytes([low | 0x80]) + varint(rest) if rest else bytes([low])


def bounds(messages, clients, newest, check):
    simulator = Simulator(latency="2s")
    with serving(simulator, clients, AMISTORE_MAX_WAITING="1", AMISTORE_REQUEST_TIMEOUT="1s") as (_, client, _):
        calls = [client.ListStoreImageTasks.future(newest) for _ in range(4)]
        reasons = [Refusal.of(call.exception()) for call in calls]
        for refusal in reasons:
            check(refusal.info.reason, refusal)
        assert {refusal.info.reason for refusal in reasons} == {"TOO_MANY_WAITING", "REQUEST_TIMED_OUT"}
    # Requests of almost 1 MiB each, by a field that the gateway does not know. EC2 keeps them waiting.
    padding = b"\xfa\x7f" + varint(900 << 10) + bytes(900 << 10)
    roomy = {"AMISTORE_MAX_WAITING": "100", "AMISTORE_REQUEST_TIMEOUT": "30s"}
    with serving(simulator, clients, **roomy, AMISTORE_MAX_INBOUND_BYTES="16MiB") as (_, _, channel):
        large = channel.unary_unary(f"/{SERVICE}/ListStoreImageTasks")
        calls = [large.future(newest.SerializeToString() + padding) for _ in range(12)]
        refusals = [Refusal.of(error) for call in calls if (error := call.exception())]
        assert refusals
        for refusal in refusals:
            check("TOO_MANY_BYTES", refusal)
    with serving(simulator, clients, **roomy, AMISTORE_MAX_REQUESTS="1") as (_, client, _):
        calls = [client.ListStoreImageTasks.future(newest) for _ in range(4)]
        refusals = [Refusal.of(error) for call in calls if (error := call.exception())]
        assert len(refusals) == 3
        for refusal in refusals:
            check("TOO_MANY_REQUESTS", refusal)
    simulator.stop()
    simulator = Simulator("--tasks", "3000", "--running", "2")
    preempted(simulator, messages, clients, check)
    with serving(simulator, clients, AMISTORE_MAX_TASKS="1000", AMISTORE_MAX_WATCHES="1") as (gateway, client, _):
        running = messages.ListStoreImageTasksRequest(states=[messages.StoreImageTask.STATE_IN_PROGRESS])
        image = client.ListStoreImageTasks(running).tasks[0].image_id
        request = messages.WatchStoreImageTaskRequest(image_id=image)
        open_watch = client.WatchStoreImageTask(request)
        next(open_watch)
        check("TOO_MANY_WATCHES", refused(client.WatchStoreImageTask, request))
        open_watch.cancel()
        with grpc.insecure_channel(gateway.address) as beside:
            watch_health = beside.unary_stream("/grpc.health.v1.Health/Watch")
            # grpcio cancels a call that nothing refers to.
            held = [watch_health(b"") for _ in range(1000)]
            for health_watch in held:
                next(health_watch)
            check("TOO_MANY_STREAMS", refused(watch_health, b""))

        def walk():
            page = messages.ListStoreImageTasksRequest(page_size=1000)
            while True:
                page.page_token = client.ListStoreImageTasks(page).next_page_token
                assert page.page_token, "not refused before the last page"
        check("TOO_MANY_TASKS", refused(walk))
    simulator.stop()
