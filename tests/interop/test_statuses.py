"""Statuses as grpcio reads them: small enough, compressed requests, and a pushback where a retry helps."""

import contextlib
import time

import grpc
import pytest
from google.protobuf import duration_pb2
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from conftest import ROOT, Gateway, Simulator


@pytest.fixture
def messages(stubs):
    return stubs[0]


@contextlib.contextmanager
def client_of(gateway, stubs, **options):
    with grpc.insecure_channel(gateway.address, **options) as channel:
        yield stubs[1].StoreImageTaskServiceStub(channel)


def refused(call, *arguments, **options):
    """The error of a call that must fail."""
    with pytest.raises(grpc.RpcError) as raised:
        call(*arguments, **options)
    return raised.value


def detail(error, kind):
    """The one detail of a kind, or None."""
    found = []
    for packed in rpc_status.from_call(error).details:
        if packed.Is(kind.DESCRIPTOR):
            message = kind()
            packed.Unpack(message)
            found.append(message)
    assert len(found) <= 1
    return found[0] if found else None


def reason(error):
    info = detail(error, error_details_pb2.ErrorInfo)
    return info.domain, info.reason


def pushback(error):
    """The delay in `RetryInfo`, in milliseconds; the same as the pushback."""
    retry = detail(error, error_details_pb2.RetryInfo)
    trailer = dict(error.trailing_metadata()).get("grpc-retry-pushback-ms")
    delay = None if retry is None else retry.retry_delay.ToMilliseconds()
    assert delay == (None if trailer is None else int(trailer))
    return delay


@pytest.mark.parametrize("bad", ['"x"', '"' * 64, "é漢😀" * 20, "%"])
@pytest.mark.parametrize("count", [1, 20, 1000])
def test_many_bad_image_ids(gateway, stubs, messages, bad, count):
    with client_of(gateway, stubs) as client:
        error = refused(client.ListStoreImageTasks, messages.ListStoreImageTasksRequest(image_ids=[bad] * count))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    fields = [wrong.field for wrong in detail(error, error_details_pb2.BadRequest).field_violations]
    assert fields == [f"image_ids[{index}]" for index in range(len(fields))] and fields
    if len(fields) < count and not error.details().endswith("…"):
        assert error.details().endswith(f"; and {count - len(fields)} more")
    assert reason(error) == ("amistore", "INVALID_ARGUMENT")


def test_a_compressed_request_is_accepted(gateway, stubs, messages):
    with client_of(gateway, stubs, compression=grpc.Compression.Gzip) as client:
        answer, call = client.ListStoreImageTasks.with_call(messages.ListStoreImageTasksRequest(page_size=5))
        assert len(answer.tasks) == 5
        assert "grpc-encoding" not in dict(call.initial_metadata())
        # 4 MiB that compress to 4 KiB.
        huge = messages.ListStoreImageTasksRequest(page_token="x" * (4 << 20))
        error = refused(client.ListStoreImageTasks, huge)
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert reason(error) == ("amistore", "REQUEST_TOO_LARGE")


def test_an_unknown_method(gateway):
    with grpc.insecure_channel(gateway.address) as channel:
        for method in ["/amistore.v1.StoreImageTaskService/No", "/no.such.Service/List"]:
            error = refused(channel.unary_unary(method), b"")
            assert error.code() == grpc.StatusCode.UNIMPLEMENTED
            assert reason(error) == ("amistore", "UNKNOWN_METHOD")


@pytest.mark.parametrize("fault, code, expected, shortest, longest", [
    ("throttling", "RESOURCE_EXHAUSTED", ("ec2.amazonaws.com", "RequestLimitExceeded"), 5_000, 10_000),
    ("unavailable", "UNAVAILABLE", ("ec2.amazonaws.com", "Unavailable"), 2_000, 4_000),
    ("html", "UNAVAILABLE", ("amistore", "ServiceUnavailable"), 2_000, 4_000),
    ("reset", "UNAVAILABLE", ("amistore", "ConnectionFailure"), 2_000, 4_000),
    ("malformed", "UNAVAILABLE", ("amistore", "MalformedAnswer"), 2_000, 4_000),
])
def test_a_status_to_retry_on_has_a_pushback(stubs, messages, fault, code, expected, shortest, longest):
    simulator = Simulator("--fault-rate", "1", "--faults", fault)
    gateway = Gateway(simulator)
    with client_of(gateway, stubs) as client:
        error = refused(client.ListStoreImageTasks, messages.ListStoreImageTasksRequest())
    assert error.code() == grpc.StatusCode[code]
    assert reason(error) == expected
    assert shortest <= pushback(error) <= longest
    gateway.stop()
    simulator.stop()


def test_a_final_status_has_no_pushback(stubs, messages):
    # Other tests store the idle images of the simulator that all share.
    simulator = Simulator()
    gateway = Gateway(simulator)
    image = simulator.idle["us-east-1"][0]
    with client_of(gateway, stubs) as client:
        watch = client.WatchStoreImageTask(messages.WatchStoreImageTaskRequest(image_id=image))
        no_task = refused(next, watch)
        invalid = refused(client.ListStoreImageTasks, messages.ListStoreImageTasksRequest(page_size=-1))
    assert (no_task.code(), pushback(no_task)) == (grpc.StatusCode.NOT_FOUND, None)
    assert (invalid.code(), pushback(invalid)) == (grpc.StatusCode.INVALID_ARGUMENT, None)
    gateway.stop()
    simulator.stop()


def test_grpcio_retries_by_itself_after_the_pushback(stubs, messages):
    """Of 20 calls at once that each need EC2, all but one find no room. grpcio waits as it is told, and none fails."""
    simulator = Simulator()
    simulator.environment["AMISTORE_MAX_WAITING"] = "1"
    gateway = Gateway(simulator)
    policy = ('{"methodConfig": [{"name": [{"service": "amistore.v1.StoreImageTaskService"}], "retryPolicy": '
              '{"maxAttempts": 5, "initialBackoff": "0.01s", "maxBackoff": "0.1s", "backoffMultiplier": 2, '
              '"retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED"]}}]}')
    request = messages.ListStoreImageTasksRequest(page_size=1, max_staleness=duration_pb2.Duration())
    with client_of(gateway, stubs, options=[("grpc.service_config", policy)]) as client:
        began = time.monotonic()
        calls = [client.ListStoreImageTasks.future(request) for _ in range(20)]
        assert all(len(call.result().tasks) == 1 for call in calls)
        took = time.monotonic() - began
    # The pushback of TOO_MANY_WAITING is drawn between 1 and 2 s; grpcio's own backoff would be over sooner.
    assert took >= 1, took
    gateway.stop()
    simulator.stop()


def test_grpcio_retries_a_watch_that_is_refused_before_its_first_message(stubs, messages):
    """No headers precede the first message: libraries retry only calls that have got none."""
    simulator = Simulator()
    simulator.environment["AMISTORE_MAX_WATCHES"] = "1"
    gateway = Gateway(simulator)
    policy = (ROOT / "proto" / "service_config.json").read_text()
    with client_of(gateway, stubs, options=[("grpc.service_config", policy)]) as client:
        running = messages.ListStoreImageTasksRequest(states=[messages.StoreImageTask.STATE_IN_PROGRESS])
        task = client.ListStoreImageTasks(running).tasks[0]
        request = messages.WatchStoreImageTaskRequest(task_id=task.task_id)
        first = client.WatchStoreImageTask(request)
        next(first)
        began = time.monotonic()
        second = client.WatchStoreImageTask(request, timeout=60)
        time.sleep(1)
        first.cancel()
        assert next(second).task.task_id == task.task_id
        # The pushback of TOO_MANY_WATCHES is drawn between 10 and 20 s.
        assert 10 <= time.monotonic() - began < 30
        second.cancel()
    gateway.stop()
    simulator.stop()
