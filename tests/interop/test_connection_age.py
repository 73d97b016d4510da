"""Clients whose connections end every 10 s: their Lists all succeed, and their watches go on."""

import time

import grpc
import pytest

from conftest import ROOT, Gateway, Simulator, ec2_client
from programs import BUCKET, LANGUAGES, Program

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def aging():
    """A gateway that ends each connection after 10 to 16 s, and its simulator, whose stores take a minute."""
    simulator = Simulator("--speed", "1")
    simulator.environment |= {"AMISTORE_MAX_CONNECTION_AGE": "10s", "AMISTORE_MAX_CONNECTION_AGE_GRACE": "5s"}
    gateway = Gateway(simulator)
    yield gateway, simulator
    gateway.stop()
    simulator.stop()


@pytest.mark.parametrize("number, language", list(enumerate(LANGUAGES)))
def test_a_watch_goes_on_when_its_connection_has_ended(aging, number, language):
    gateway, simulator = aging
    program = Program(language)
    image = simulator.idle["us-east-1"][number]
    run = program.start(gateway, image)
    try:
        run.wait_for("store the image now")
        ec2_client(simulator).create_store_image_task(ImageId=image, Bucket=BUCKET)
        assert run.end() == 0, run.output
    finally:
        run.kill()
    assert "call again: " in run.output
    tasks = run.tasks()
    assert tasks[-1][1:] == ("Completed", 100)
    progress = [percent for _, _, percent in tasks]
    assert progress == sorted(progress), run.output
    program.remove()


def test_no_list_fails_while_connections_end(aging, stubs):
    gateway, _ = aging
    config = (ROOT / "proto" / "service_config.json").read_text()
    failed, lists = [], 0
    with grpc.insecure_channel(gateway.address, options=[("grpc.service_config", config)]) as channel:
        client = stubs[1].StoreImageTaskServiceStub(channel)
        end = time.monotonic() + 60
        while time.monotonic() < end:
            try:
                client.ListStoreImageTasks(stubs[0].ListStoreImageTasksRequest(), timeout=10)
                lists += 1
            except grpc.RpcError as error:
                failed.append(error)
            time.sleep(0.01)
    assert not failed and lists > 1_000, failed
