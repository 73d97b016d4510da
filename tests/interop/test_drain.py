"""How watches hear that their gateway stops."""

import grpc
from google.rpc import error_details_pb2, status_pb2

from conftest import Gateway, Simulator

# Many, since each connection has a race of its own: between its last status and its end.
CONNECTIONS = 1_000


def reason(call):
    """The reason in a call's status. None if the gateway did not make the status."""
    trailers = dict(call.trailing_metadata())
    if "grpc-status-details-bin" not in trailers:
        return None
    info = error_details_pb2.ErrorInfo()
    details = status_pb2.Status.FromString(trailers["grpc-status-details-bin"]).details
    [packed] = [detail for detail in details if detail.Is(info.DESCRIPTOR)]
    packed.Unpack(info)
    return info.reason


def test_each_of_a_thousand_connections_gets_the_status_of_its_watch(stubs):
    messages, services = stubs
    simulator = Simulator("--running", "2")
    gateway = Gateway(simulator, "127.0.0.1:0", "--drain-spread", "1s")
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
    channels = [grpc.insecure_channel(gateway.address, options) for _ in range(CONNECTIONS)]
    running = messages.ListStoreImageTasksRequest(states=[messages.StoreImageTask.STATE_IN_PROGRESS])
    image = services.StoreImageTaskServiceStub(channels[0]).ListStoreImageTasks(running).tasks[0].image_id
    request = messages.WatchStoreImageTaskRequest(image_id=image)
    watches = [services.StoreImageTaskServiceStub(channel).WatchStoreImageTask(request) for channel in channels]
    for watch in watches:
        assert next(watch).task.image_id == image
    gateway.stop()
    ends = []
    for watch in watches:
        try:
            for _ in watch:
                pass
            ends.append("OK")
        except grpc.RpcError as error:
            ends.append(reason(error))
    for channel in channels:
        channel.close()
    simulator.stop()
    assert ends == ["SHUTTING_DOWN"] * CONNECTIONS
