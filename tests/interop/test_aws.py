"""The simulator serves boto3 and the AWS CLI as EC2 does."""

import json
import subprocess

import botocore.config
import botocore.exceptions
import pytest

from conftest import BIN, Simulator, clean_environment, ec2_client

NO_RETRIES = botocore.config.Config(retries={"max_attempts": 0})


@pytest.fixture(scope="module")
def own():
    """A simulator for this module: its tasks are quick, and EC2 shows a new one 300 ms late."""
    simulator = Simulator("--speed", "60", "--burst", "1000", "--appear-after", "300ms", "--tasks", "450")
    yield simulator
    simulator.stop()


@pytest.fixture(scope="module")
def ec2(own):
    return ec2_client(own, config=NO_RETRIES)


def code_of(call, **parameters):
    with pytest.raises(botocore.exceptions.ClientError) as raised:
        call(**parameters)
    return raised.value.response["Error"]["Code"]


def test_the_paginator_returns_each_task_once(ec2):
    pages = list(ec2.get_paginator("describe_store_image_tasks").paginate(PaginationConfig={"PageSize": 100}))
    tasks = [task for page in pages for task in page["StoreImageTaskResults"]]
    assert len(pages) == 5 and len(tasks) == 454
    assert len({(task["AmiId"], task["Bucket"]) for task in tasks}) == 454


def test_filters_by_state_and_bucket(ec2):
    filters = [{"Name": "task-state", "Values": ["Failed"]}, {"Name": "bucket", "Values": ["golden-images"]}]
    tasks = ec2.describe_store_image_tasks(Filters=filters)["StoreImageTaskResults"]
    assert tasks
    assert {(task["StoreTaskState"], task["Bucket"]) for task in tasks} == {("Failed", "golden-images")}
    assert all(task["StoreTaskFailureReason"] for task in tasks)


def test_filters_beside_image_ids_are_ignored(ec2):
    image = ec2.describe_store_image_tasks(MaxResults=1)["StoreImageTaskResults"][0]["AmiId"]
    filters = [{"Name": "bucket", "Values": ["no-such-bucket"]}]
    assert len(ec2.describe_store_image_tasks(ImageIds=[image], Filters=filters)["StoreImageTaskResults"]) == 1


def test_the_waiter_follows_a_new_task_to_its_end(ec2, own):
    image = own.idle["us-east-1"][0]
    answer = ec2.create_store_image_task(ImageId=image, Bucket="golden-images")
    assert answer["ObjectKey"] == f"{image}.bin"
    ec2.get_waiter("store_image_task_complete").wait(ImageIds=[image], WaiterConfig={"Delay": 1, "MaxAttempts": 30})
    task = ec2.describe_store_image_tasks(ImageIds=[image])["StoreImageTaskResults"][0]
    assert (task["StoreTaskState"], task["ProgressPercentage"]) == ("Completed", 100)


def test_bad_requests_get_the_error_codes_of_ec2(ec2, own):
    image = own.idle["us-east-1"][1]
    describe, create = ec2.describe_store_image_tasks, ec2.create_store_image_task
    assert code_of(describe, ImageIds=["ami-nothex"]) == "InvalidAMIID.Malformed"
    assert code_of(describe, ImageIds=["ami-0000000000000dead"]) == "InvalidAMIID.NotFound"
    assert code_of(describe, ImageIds=[image], MaxResults=5) == "InvalidParameterCombination"
    assert code_of(describe, ImageIds=[image] * 21) == "InvalidParameterValue"
    assert code_of(describe, MaxResults=201) == "InvalidParameterValue"
    assert code_of(describe, NextToken="nonsense") == "InvalidNextToken"
    assert code_of(describe, Filters=[{"Name": "colour", "Values": ["red"]}]) == "InvalidParameterValue"
    assert code_of(describe, DryRun=True) == "DryRunOperation"
    assert code_of(create, ImageId="ami-0000000000000dead", Bucket="golden-images") == "InvalidAMIID.NotFound"
    assert code_of(create, ImageId=image, Bucket="NO") == "InvalidBucketName"
    assert code_of(ec2.describe_images) == "InvalidAction"


def test_calls_over_the_quota_are_throttled():
    simulator = Simulator("--burst", "5")
    try:
        client = ec2_client(simulator, config=NO_RETRIES)
        for _ in range(5):
            client.describe_store_image_tasks()
        assert code_of(client.describe_store_image_tasks) == "RequestLimitExceeded"
    finally:
        simulator.stop()


def test_the_cli_starts_a_task_and_follows_it(own):
    def aws(*arguments):
        command = [BIN / "aws", "ec2", "--output", "json", *arguments]
        environment = clean_environment(**own.environment)
        return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)

    image = own.idle["us-east-1"][2]
    started = aws("create-store-image-task", "--image-id", image, "--bucket", "golden-images")
    assert started.returncode == 0, started.stderr
    waited = aws("wait", "store-image-task-complete", "--image-ids", image)
    assert waited.returncode == 0, waited.stderr
    tasks = json.loads(aws("describe-store-image-tasks", "--image-ids", image).stdout)["StoreImageTaskResults"]
    assert tasks[0]["StoreTaskState"] == "Completed"
    refused = aws("describe-store-image-tasks", "--image-ids", "ami-0000000000000dead")
    assert refused.returncode != 0 and "InvalidAMIID.NotFound" in refused.stderr
