"""The gateway in front of an EC2-compatible endpoint that shares no code with the simulator."""

import http.server
import threading
import urllib.parse

import grpc
import pytest

from conftest import Gateway

PAGE = """<?xml version="1.0" encoding="UTF-8"?>
<DescribeStoreImageTasksResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/">
    <requestId>7e2f5a9c-0000-4000-8000-000000000001</requestId>
    <storeImageTaskResultSet>
        <item>
            <amiId>{image}</amiId>
            <bucket>their-bucket</bucket>
            <progressPercentage>{progress}</progressPercentage>
            <s3objectKey>{image}.bin</s3objectKey>
            <storeTaskState>{state}</storeTaskState>
            <taskStartTime>{start}</taskStartTime>
        </item>
    </storeImageTaskResultSet>
    {next}
</DescribeStoreImageTasksResponse>"""
ERROR = """<?xml version="1.0" encoding="UTF-8"?>
<Response><Errors><Error><Code>UnauthorizedOperation</Code><Message>You are not authorized to perform this
operation.</Message></Error></Errors><RequestID>7e2f5a9c-0000-4000-8000-000000000002</RequestID></Response>"""


class Endpoint(http.server.BaseHTTPRequestHandler):
    """Serves two pages of one task each. The first task is at 50 % in the first call, and completed afterwards."""

    head_page_calls = 0

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        form = dict(urllib.parse.parse_qsl(body))
        assert form["Action"] == "DescribeStoreImageTasks" and form["Version"] == "2016-11-15"
        assert self.headers["Authorization"].startswith("AWS4-HMAC-SHA256 Credential=their-key/")
        if form.get("DryRun") == "true":
            return self.answer(403, ERROR)
        if form.get("NextToken") == "page two":
            values = {"image": "ami-00000002", "progress": 100, "state": "Completed", "next": ""}
            return self.answer(200, PAGE.format(start="2026-11-20T10:00:00.000Z", **values))
        Endpoint.head_page_calls += 1
        done = Endpoint.head_page_calls > 1
        values = {"progress": 100 if done else 50, "state": "Completed" if done else "InProgress"}
        page = PAGE.format(image="ami-00000001", start="2026-11-23T10:00:00.000Z",
                           next="<nextToken>page two</nextToken>", **values)
        self.answer(200, page)

    def answer(self, status, body):
        self.send_response(status)
        self.send_header("Content-Type", "text/xml;charset=UTF-8")
        self.send_header("Content-Length", str(len(body.encode())))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_):
        pass


@pytest.fixture
def foreign():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    class Foreign:
        """Replaces a Simulator in the fixture of the gateway, which reads only `environment`."""

        environment = {
            "AWS_ENDPOINT_URL_EC2": f"http://127.0.0.1:{server.server_address[1]}",
            "AWS_ACCESS_KEY_ID": "their-key",
            "AWS_SECRET_ACCESS_KEY": "their-secret",
            "AWS_REGION": "us-west-2",
        }

    gateway = Gateway(Foreign)
    yield gateway
    gateway.stop()
    server.shutdown()


def test_list_watch_and_an_error(foreign, stubs):
    messages, services = stubs
    with grpc.insecure_channel(foreign.address) as channel:
        client = services.StoreImageTaskServiceStub(channel)
        tasks = client.ListStoreImageTasks(messages.ListStoreImageTasksRequest()).tasks
        assert [(task.image_id, task.region) for task in tasks] == [
            ("ami-00000001", "us-west-2"), ("ami-00000002", "us-west-2"),
        ]
        assert tasks[0].start_time.ToJsonString() == "2026-11-23T10:00:00Z"
        watch = client.WatchStoreImageTask(messages.WatchStoreImageTaskRequest(image_id="ami-00000001"), timeout=60)
        assert [message.task.progress_percentage for message in watch] == [50, 100]
        with pytest.raises(grpc.RpcError) as raised:
            client.ListStoreImageTasks(messages.ListStoreImageTasksRequest(dry_run=True))
        assert raised.value.code() == grpc.StatusCode.PERMISSION_DENIED
