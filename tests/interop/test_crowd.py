"""10,000 callers that are refused at once: when they come back. `pytest -s` shows the histogram."""

import asyncio
import collections
import time

import grpc
import pytest
from google.protobuf import duration_pb2

from conftest import Gateway, Simulator

pytestmark = pytest.mark.slow

CALLERS = 10_000
CHANNELS = 100
BINS = 10


async def call_twice(client, request):
    """Makes a call that is refused, and waits as its pushback says. Returns its code, and the pause in seconds."""
    try:
        await client.ListStoreImageTasks(request, timeout=120)
    except grpc.aio.AioRpcError as error:
        refused = time.monotonic()
        await asyncio.sleep(int(dict(error.trailing_metadata())["grpc-retry-pushback-ms"]) / 1000)
        return error.code().name, time.monotonic() - refused
    return "OK", 0


async def crowd(address, stubs):
    # The option keeps channels from sharing a connection.
    channels = [grpc.aio.insecure_channel(address, options=[("number", number)]) for number in range(CHANNELS)]
    clients = [stubs[1].StoreImageTaskServiceStub(channel) for channel in channels]
    request = stubs[0].ListStoreImageTasksRequest(max_staleness=duration_pb2.Duration())
    calls = [call_twice(clients[number % CHANNELS], request) for number in range(CALLERS)]
    results = await asyncio.gather(*calls)
    for channel in channels:
        await channel.close()
    return results


@pytest.mark.parametrize("cause, flags, settings, code, shortest, longest", [
    ("no room", (), {"AMISTORE_MAX_WAITING": "1"}, "UNAVAILABLE", 1, 2),
    ("EC2 throttles", ("--trouble", "throttling@0s+10m"), {}, "RESOURCE_EXHAUSTED", 5, 10),
])
def test_ten_thousand_refused_callers_do_not_come_back_together(stubs, cause, flags, settings, code, shortest, longest):
    # One attempt, long enough for all callers to arrive before it is answered.
    simulator = Simulator(*flags, latency="25s")
    simulator.environment |= settings | {
        "AMISTORE_MAX_ATTEMPTS": "1", "AMISTORE_ATTEMPT_TIMEOUT": "90s", "AMISTORE_REQUEST_TIMEOUT": "100s",
    }
    gateway = Gateway(simulator)
    results = asyncio.run(crowd(gateway.address, stubs))
    codes = collections.Counter(code for code, _ in results)
    assert codes[code] >= CALLERS - 1, codes
    width = (longest - shortest) / BINS
    counts = collections.Counter()
    for answered, pause in results:
        if answered == code:
            assert shortest <= pause, pause
            # asyncio may wake a caller late.
            counts[min(BINS - 1, int((pause - shortest) / width))] += 1
    print(f"\n{codes[code]} callers refused with {code}: {cause}")
    for number in range(BINS):
        begin = shortest + number * width
        print(f"{begin:5.2f} to {begin + width:5.2f} s  {counts[number]:5}  {'#' * (counts[number] // 25)}")
    assert all(0.5 <= counts[number] * BINS / CALLERS <= 1.5 for number in range(BINS)), counts
    gateway.stop()
    simulator.stop()
