"""What the gateway makes of answers that EC2 never gives: those of proxies, emulators and worse."""

import grpc
import pytest

from fake_aws import EMPTY, ERROR, Server, gateway, listed

PHANTOM = "<item><amiId>ami-00000009</amiId><bucket>b-1</bucket><taskStartTime>2026-11-20T10:00:00Z</taskStartTime></item>"
KEY = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}


@pytest.mark.parametrize("junk", [
    f"<![CDATA[{PHANTOM}]]>", f"<!-- {PHANTOM} -->", "text", f"<more>{PHANTOM}</more>", PHANTOM, "<?pi x?>", "\0",
])
def test_what_follows_the_root_makes_an_answer_malformed(stubs, junk):
    endpoint = Server(lambda *_: (200, EMPTY + junk))
    with gateway(AWS_ENDPOINT_URL_EC2=endpoint.url, **KEY) as (channel, _):
        code, text = listed(channel, stubs)
        assert code == "UNAVAILABLE" and text.startswith("MalformedAnswer"), (code, text)
    endpoint.stop()


def test_a_body_of_200_mb_is_not_read_to_its_end(stubs):
    huge = EMPTY.replace("</storeImageTaskResultSet>", "x" * (200 << 20) + "</storeImageTaskResultSet>")
    endpoint = Server(lambda *_: (200, huge))
    with gateway("--max-attempts", "1", AWS_ENDPOINT_URL_EC2=endpoint.url, **KEY) as (channel, process):
        code, text = listed(channel, stubs)
        assert code == "UNAVAILABLE" and text.startswith("MalformedAnswer") and "8 MiB" in text, (code, text)
        with open(f"/proc/{process.pid}/status") as status:
            peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
        assert peak < 120 << 10, f"{peak} KiB"


@pytest.mark.parametrize("status, body, code", [
    (403, "<html>", "UNAVAILABLE"), (404, "<html>", "UNAVAILABLE"), (408, "<html>", "UNAVAILABLE"),
    (408, ERROR.format("SlowRequest"), "UNAVAILABLE"), (429, "<html>", "RESOURCE_EXHAUSTED"),
    (502, "<html>", "UNAVAILABLE"),
])
def test_an_answer_of_a_proxy_ends_no_watch(stubs, status, body, code):
    messages, services = stubs
    page = EMPTY.replace("<storeImageTaskResultSet>", "<storeImageTaskResultSet>" + PHANTOM.replace(
        "</item>", "<progressPercentage>50</progressPercentage><storeTaskState>InProgress</storeTaskState></item>"))
    pages = [page]
    endpoint = Server(lambda *_: (200, pages.pop()) if pages else (status, body))
    flags = ["--watch-min-interval", "1s", "--watch-max-interval", "1s", "--max-attempts", "1"]
    with gateway(*flags, AWS_ENDPOINT_URL_EC2=endpoint.url, **KEY) as (channel, _):
        watch = services.StoreImageTaskServiceStub(channel).WatchStoreImageTask(
            messages.WatchStoreImageTaskRequest(image_id="ami-00000009"), timeout=30)
        degraded = next(message.degraded.code for message in watch if message.HasField("degraded"))
        assert degraded == getattr(grpc.StatusCode, code).value[0]
        watch.cancel()


@pytest.mark.parametrize("code", ["InternalFailure", "NotImplemented"])
def test_what_an_emulator_lacks_is_unimplemented_after_one_call(stubs, code):
    endpoint = Server(lambda *_: (501, ERROR.format(code)))
    with gateway(AWS_ENDPOINT_URL_EC2=endpoint.url, **KEY) as (channel, _):
        assert listed(channel, stubs)[0] == "UNIMPLEMENTED"
    assert len(endpoint.requests) == 1


@pytest.mark.parametrize("delay, shortest, longest", [
    ("0", 1_000, 2_000), ("20", 20_000, 40_000), ("50", 50_000, 60_000), ("86400", 60_000, 60_000),
    (str(2**64 - 1), 60_000, 60_000),
    # What cannot be read is no delay, so the table's counts.
    (str(2**80), 5_000, 10_000), ("-1", 5_000, 10_000), ("Wed, 21 Oct 2099 07:28:00 GMT", 5_000, 10_000),
    ("soon", 5_000, 10_000),
])
def test_a_delay_that_ec2_asks_for_is_drawn_up_to_twice_of_it_and_at_most_a_minute(stubs, delay, shortest, longest):
    messages, services = stubs
    endpoint = Server(lambda *_: (503, ERROR.format("RequestLimitExceeded"), {"Retry-After": delay}))
    with gateway("--max-attempts", "1", AWS_ENDPOINT_URL_EC2=endpoint.url, **KEY) as (channel, _):
        with pytest.raises(grpc.RpcError) as raised:
            services.StoreImageTaskServiceStub(channel).ListStoreImageTasks(messages.ListStoreImageTasksRequest())
        pushback = int(dict(raised.value.trailing_metadata())["grpc-retry-pushback-ms"])
        assert raised.value.code().name == "RESOURCE_EXHAUSTED" and shortest <= pushback <= longest, pushback


def test_a_code_with_control_characters_is_no_code_of_ec2(stubs):
    endpoint = Server(lambda *_: (403, ERROR.format("Fake&#10;WARN code")))
    with gateway("--max-attempts", "1", AWS_ENDPOINT_URL_EC2=endpoint.url, **KEY) as (channel, _):
        code, text = listed(channel, stubs)
        assert code == "UNAVAILABLE" and text.startswith("UnknownError"), (code, text)
