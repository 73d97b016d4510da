"""The programs of README.md, as they stand there, through a stop and a crash of the gateway."""

import json

import pytest

from conftest import ROOT, Gateway, Simulator, ec2_client
from programs import BUCKET, LANGUAGES, Program


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_program_of_readme_follows_a_store_while_the_gateway_is_replaced(language):
    program = Program(language)
    simulator = Simulator("--speed", "4", "--appear-after", "2s")
    gateway = Gateway(simulator)
    image = simulator.idle["us-east-1"][0]
    run = program.start(gateway, image)
    try:
        run.wait_for("store the image now")
        ec2_client(simulator).create_store_image_task(ImageId=image, Bucket=BUCKET)
        run.wait_for(r"\S+Z InProgress")
        gateway.stop()
        gateway = Gateway(simulator, gateway.address)
        seen = len(run.lines)
        run.wait_for(r"\S+Z InProgress", after=seen)
        gateway.kill()
        gateway = Gateway(simulator, gateway.address)
        assert run.end() == 0, run.output
    finally:
        run.kill()
    assert "call again: " in run.output
    tasks = run.tasks()
    progress = [percent for _, _, percent in tasks]
    assert len(tasks) >= 3 and progress == sorted(progress), run.output
    assert len({start for start, _, _ in tasks}) == 1
    assert tasks[0][1] == "InProgress" and tasks[-1][1:] == ("Completed", 100)
    gateway.stop()
    simulator.stop()
    program.remove()


def test_the_service_config_is_what_the_contract_promises():
    config = json.loads((ROOT / "proto" / "service_config.json").read_text())
    assert config.keys() == {"loadBalancingConfig", "methodConfig"}, "among others no retryThrottling"
    assert config["loadBalancingConfig"] == [{"round_robin": {}}]
    waits = {}
    for method in config["methodConfig"]:
        policy = method["retryPolicy"]
        assert policy["maxAttempts"] == 5
        assert policy["retryableStatusCodes"] == ["UNAVAILABLE", "RESOURCE_EXHAUSTED"]
        assert "hedgingPolicy" not in method
        for name in method["name"]:
            assert name["service"] == "amistore.v1.StoreImageTaskService"
            waits[name.get("method")] = method.get("waitForReady", False)
    assert waits == {None: False, "WatchStoreImageTask": True, "WatchStoreImageTasks": True}
