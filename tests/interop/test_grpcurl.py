"""grpcurl through reflection: no contract at hand."""

import json
import shutil
import subprocess
import sys
import pathlib

from conftest import SERVICE

GRPCURL = shutil.which("grpcurl", path=pathlib.Path(sys.executable).parent)


def grpcurl(*arguments, expect=0):
    done = subprocess.run([GRPCURL, "-plaintext", *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == expect, done.stderr
    return done.stdout if expect == 0 else done.stderr


def objects(text):
    """The JSON objects that grpcurl prints one after the other."""
    decoder, found = json.JSONDecoder(), []
    while text := text.lstrip():
        value, end = decoder.raw_decode(text)
        found.append(value)
        text = text[end:]
    return found


def test_list(gateway):
    services = grpcurl(gateway.address, "list").split()
    assert SERVICE in services and "grpc.health.v1.Health" in services


def test_describe(gateway):
    said = grpcurl(gateway.address, "describe", SERVICE)
    assert "rpc ListStoreImageTasks" in said and "rpc WatchStoreImageTask" in said
    assert "Lists store-image tasks, newest first" in said, "the comments are served, too"


def test_health(gateway):
    said = grpcurl("-d", json.dumps({"service": SERVICE}), gateway.address, "grpc.health.v1.Health/Check")
    assert objects(said) == [{"status": "SERVING"}]


def test_a_list(gateway):
    said = grpcurl("-v", "-d", '{"page_size": 3}', gateway.address, f"{SERVICE}/ListStoreImageTasks")
    assert "cache-status: amistore-gateway; " in said
    answer = objects(said[said.index("{"):said.rindex("}") + 1])[0]
    assert len(answer["tasks"]) == 3 and answer["nextPageToken"]


def test_a_watch_streams_to_the_end(gateway, running):
    question = json.dumps({"image_id": running, "wait_for_task": True})
    messages = objects(grpcurl("-d", question, gateway.address, f"{SERVICE}/WatchStoreImageTask"))
    assert len(messages) >= 2
    assert messages[-1]["task"]["state"] == "STORE_IMAGE_TASK_STATE_COMPLETED"


def test_an_error_with_its_details(gateway):
    question = json.dumps({"image_ids": ["ami-nothex"]})
    said = grpcurl("-d", question, gateway.address, f"{SERVICE}/ListStoreImageTasks", expect=64 + 3)
    assert "Code: InvalidArgument" in said and "image_ids[0]" in said and "INVALID_ARGUMENT" in said
