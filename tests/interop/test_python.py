"""grpcio with stubs that grpcio-tools generates from the contract."""

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2
from grpc_status import rpc_status


@pytest.fixture
def client(gateway, stubs):
    with grpc.insecure_channel(gateway.address) as channel:
        yield stubs[1].StoreImageTaskServiceStub(channel)


@pytest.fixture
def messages(stubs):
    return stubs[0]


def details_of(error):
    """The details of an error status, by the name of their type."""
    found = {}
    for detail in rpc_status.from_call(error).details:
        for kind in (error_details_pb2.ErrorInfo, error_details_pb2.BadRequest, error_details_pb2.RetryInfo):
            if detail.Is(kind.DESCRIPTOR):
                message = kind()
                detail.Unpack(message)
                found[kind.__name__] = message
    return found


def test_pages_return_each_task_once(client, messages):
    request = messages.ListStoreImageTasksRequest(page_size=7, region="eu-west-1")
    tasks = []
    while True:
        page = client.ListStoreImageTasks(request)
        tasks.extend(page.tasks)
        request.page_token = page.next_page_token
        if not page.next_page_token:
            break
    # 40 tasks from the simulator's start, and those that other tests started.
    assert len(tasks) >= 40 and len({(task.image_id, task.bucket) for task in tasks}) == len(tasks)
    starts = [task.start_time.ToMilliseconds() for task in tasks]
    assert starts == sorted(starts, reverse=True)


def test_a_list_of_failed_tasks_with_metadata(client, messages):
    request = messages.ListStoreImageTasksRequest(states=[messages.StoreImageTask.STATE_FAILED])
    answer, call = client.ListStoreImageTasks.with_call(request)
    assert answer.tasks and all(task.failure_reason for task in answer.tasks)
    assert dict(call.initial_metadata())["cache-status"].startswith("amistore-gateway; ")


def test_a_watch_streams_to_the_end(client, messages, ec2, simulator):
    image = simulator.idle["us-east-1"][1]
    ec2.create_store_image_task(ImageId=image, Bucket="golden-images")
    request = messages.WatchStoreImageTaskRequest(image_id=image, wait_for_task=Duration(seconds=600))
    stream = client.WatchStoreImageTask(request, timeout=120)
    seen = [message.task for message in stream if message.HasField("task")]
    progress = [task.progress_percentage for task in seen]
    assert progress == sorted(progress) and seen[-1].state == messages.StoreImageTask.STATE_COMPLETED


def test_error_details_of_a_bad_field(client, messages):
    with pytest.raises(grpc.RpcError) as raised:
        client.ListStoreImageTasks(messages.ListStoreImageTasksRequest(page_size=-1))
    assert raised.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    details = details_of(raised.value)
    assert [violation.field for violation in details["BadRequest"].field_violations] == ["page_size"]
    assert (details["ErrorInfo"].domain, details["ErrorInfo"].reason) == ("amistore", "INVALID_ARGUMENT")


def test_error_details_of_an_ec2_error(client, messages):
    with pytest.raises(grpc.RpcError) as raised:
        client.ListStoreImageTasks(messages.ListStoreImageTasksRequest(region="ap-south-1"))
    assert raised.value.code() == grpc.StatusCode.UNAUTHENTICATED
    info = details_of(raised.value)["ErrorInfo"]
    assert (info.domain, info.reason) == ("ec2.amazonaws.com", "AuthFailure")
    assert info.metadata["region"] == "ap-south-1" and info.metadata["requestId"]
