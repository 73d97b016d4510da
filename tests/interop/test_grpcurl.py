"""grpcurl knows the contract from reflection alone."""

import json
import shutil
import subprocess

from conftest import BIN, SERVICE

GRPCURL = shutil.which("grpcurl", path=BIN)


def grpcurl(*arguments, expect=0):
    done = subprocess.run([GRPCURL, "-plaintext", *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == expect, done.stderr
    return done.stdout if expect == 0 else done.stderr


def objects(text):
    """The JSON objects that grpcurl prints, one after the other."""
    decoder, found = json.JSONDecoder(), []
    while text := text.lstrip():
        value, end = decoder.raw_decode(text)
        found.append(value)
        text = text[end:]
    return found


def test_reflection_lists_the_services(gateway):
    services = grpcurl(gateway.address, "list").split()
    assert SERVICE in services and "grpc.health.v1.Health" in services


def test_reflection_describes_the_service_with_its_comments(gateway):
    output = grpcurl(gateway.address, "describe", SERVICE)
    assert "rpc ListStoreImageTasks" in output and "rpc WatchStoreImageTask" in output
    assert "Lists store-image tasks. The request selects tasks in three steps" in output, "reflection serves the comments too"


def test_health_of_the_service(gateway):
    output = grpcurl("-d", json.dumps({"service": SERVICE}), gateway.address, "grpc.health.v1.Health/Check")
    assert objects(output) == [{"status": "SERVING"}]


def test_a_list_with_its_cache_status(gateway):
    output = grpcurl("-v", "-d", '{"page_size": 3}', gateway.address, f"{SERVICE}/ListStoreImageTasks")
    assert "cache-status: amistore-gateway; " in output
    answer = objects(output[output.index("{"):output.rindex("}") + 1])[0]
    assert len(answer["tasks"]) == 3 and answer["nextPageToken"]


def test_a_watch_streams_to_the_end(gateway, running):
    request = json.dumps({"image_id": running, "wait_for_task": "600s"})
    messages = objects(grpcurl("-d", request, gateway.address, f"{SERVICE}/WatchStoreImageTask"))
    assert len(messages) >= 2
    assert messages[-1]["task"]["state"] == "STATE_COMPLETED"


def test_an_error_with_its_details(gateway):
    request = json.dumps({"image_ids": ["ami-nothex"]})
    output = grpcurl("-d", request, gateway.address, f"{SERVICE}/ListStoreImageTasks", expect=64 + 3)
    assert "Code: InvalidArgument" in output and "image_ids[0]" in output and "INVALID_ARGUMENT" in output
