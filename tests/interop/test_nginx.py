"""The gateway behind nginx: 4 KiB for the headers of an answer by default, and here 20 s of silence."""

import shutil
import socket
import subprocess
import time

import grpc
import pytest
from google.protobuf import duration_pb2

from test_errors import GATEWAY_ROWS, refused

CONFIG = """
daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log;
events {{ }}
http {{
  access_log off;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  server {{ listen 127.0.0.1:{port} http2; location / {{ grpc_pass grpc://{address}; grpc_read_timeout 20s; }} }}
}}
"""


@pytest.fixture
def nginx(gateway, tmp_path):
    """The address of nginx in front of the gateway."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = tmp_path / "nginx.conf"
    config.write_text(CONFIG.format(folder=tmp_path, port=port, address=gateway.address))
    program = shutil.which("nginx") or "/usr/sbin/nginx"
    process = subprocess.Popen([program, "-e", tmp_path / "start.log", "-c", config])
    yield f"127.0.0.1:{port}"
    process.terminate()
    process.wait(timeout=10)


@pytest.fixture
def client(nginx, stubs):
    with grpc.insecure_channel(nginx) as channel:
        grpc.channel_ready_future(channel).result(timeout=30)
        yield stubs[1].StoreImageTaskServiceStub(channel)


@pytest.mark.parametrize("bad", ['"x"', '"' * 64, "é漢😀" * 20])
@pytest.mark.parametrize("count", [1, 20, 1000])
def test_a_status_with_many_details_passes_through(client, stubs, bad, count):
    request = stubs[0].ListStoreImageTasksRequest(image_ids=[bad] * count)
    refused(client.ListStoreImageTasks, request).assert_is(GATEWAY_ROWS["INVALID_ARGUMENT"])


def test_heartbeats_keep_a_silent_watch_open(client, stubs):
    """The image is unknown, so the stream has nothing but heartbeats."""
    request = stubs[0].WatchStoreImageTaskRequest(
        image_id="ami-00000000000000000", wait_for_task=duration_pb2.Duration(seconds=28),
        heartbeat_interval=duration_pb2.Duration(seconds=8),
    )
    began = time.monotonic()
    refused(client.WatchStoreImageTask, request, timeout=120).assert_is(GATEWAY_ROWS["NO_TASK"])
    assert 25 < time.monotonic() - began < 60
    # Without them nginx cuts the stream, and its status has no details.
    request.heartbeat_interval.seconds = 60
    with pytest.raises(grpc.RpcError) as cut:
        list(client.WatchStoreImageTask(request, timeout=120))
    assert "grpc-status-details-bin" not in dict(cut.value.trailing_metadata() or ())
