"""@grpc/grpc-js with @grpc/proto-loader, in plain JavaScript."""

import json
import pathlib
import subprocess

HERE = pathlib.Path(__file__).resolve().parent


def test_a_watch_streams_to_the_end(gateway, ec2, simulator):
    image = simulator.idle["us-east-1"][2]
    ec2.create_store_image_task(ImageId=image, Bucket="golden-images")
    done = subprocess.run(
        ["node", HERE / "watch.mjs", gateway.address, image], capture_output=True, text=True, timeout=120,
    )
    assert done.returncode == 0, done.stderr
    messages = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(messages) >= 2
    assert messages[-1]["task"]["state"] == "STATE_COMPLETED"
