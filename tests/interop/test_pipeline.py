"""The programs of README.md in Python and Go as pipelines: tries that fail, tasks that appear late, trouble
with EC2, and a gateway that is stopped or killed in the middle."""

import contextlib
import time

import pytest

from conftest import Gateway, Simulator, ec2_client
from programs import BUCKET, Program

# Trouble lasts for minutes.
pytestmark = pytest.mark.slow

READY = "store the image now"


@pytest.fixture(scope="module")
def programs():
    built = [Program("Python"), Program("Go")]
    yield built
    for program in built:
        program.remove()


@contextlib.contextmanager
def started(programs, gateway, image, bucket=BUCKET):
    """All programs with the same arguments, once each has listed the image."""
    runs = [program.start(gateway, image, bucket) for program in programs]
    try:
        for run in runs:
            run.wait_for(READY)
        yield runs
    finally:
        for run in runs:
            run.kill()


def store(ec2, image, bucket=BUCKET):
    """Stores an image. Returns the start time of the new task, which is EC2's latest one."""
    ec2.create_store_image_task(ImageId=image, Bucket=bucket)
    return tasks_of(ec2, image)[0]["TaskStartTime"]


def store_and_see(ec2, image, runs):
    """Stores an image, and waits until all programs have seen the task. Returns its start time."""
    start = store(ec2, image)
    for run in runs:
        run.wait_for(r"\S+Z InProgress")
    return start


def tasks_of(ec2, image):
    """EC2's listing of an image, newest first. EC2 itself would show only the latest task by image ID."""
    tasks = []
    for page in ec2.get_paginator("describe_store_image_tasks").paginate():
        tasks += [task for task in page["StoreImageTaskResults"] if task["AmiId"] == image]
    return sorted(tasks, key=lambda task: task["TaskStartTime"], reverse=True)


def starts(run):
    return {start for start, _, _ in run.tasks()}


def restart(gateway, simulator, how):
    """Stops the gateway by SIGTERM or kills it, and starts another one at the same address."""
    gateway.stop() if how == "SIGTERM" else gateway.kill()
    return Gateway(simulator, gateway.address)


@pytest.mark.parametrize("how", ["SIGTERM", "SIGKILL"])
def test_a_second_try_hears_its_own_end(programs, how):
    """The first store fails after 2 s, is repaired, and is tried again within a minute."""
    simulator = Simulator("--speed", "6", "--failing-buckets", f"{BUCKET}=2s@0s+25s")
    broken_until = time.monotonic() + 25
    gateway = Gateway(simulator)
    ec2 = ec2_client(simulator)
    image = simulator.idle["us-east-1"][0]
    with started(programs, gateway, image) as runs:
        first = store(ec2, image)
        assert [run.end() for run in runs] == [1, 1], runs[0].output
    assert all(starts(run) == {first} for run in runs), runs[0].output
    time.sleep(max(0, broken_until - time.monotonic()))
    with started(programs, gateway, image) as runs:
        second = store_and_see(ec2, image, runs)
        gateway = restart(gateway, simulator, how)
        assert [run.end() for run in runs] == [0, 0], runs[0].output
    for run in runs:
        assert starts(run) == {second}, run.output
        assert run.tasks()[-1][1:] == ("Completed", 100)
    gateway.stop()
    simulator.stop()


def test_another_store_of_the_image_is_not_mixed_up(programs):
    """One store of the image comes before the pipeline's own, into another bucket, and one after it."""
    simulator = Simulator("--speed", "4", "--failing-buckets", "other-images=1s")
    gateway = Gateway(simulator)
    ec2 = ec2_client(simulator)
    image = simulator.idle["us-east-1"][0]
    with started(programs, gateway, image) as runs:
        store(ec2, image, "other-images")
        own = store_and_see(ec2, image, runs)
        store(ec2, image, "other-images")
        gateway = restart(gateway, simulator, "SIGKILL")
        assert [run.end() for run in runs] == [0, 0], runs[0].output
    assert all(starts(run) == {own} for run in runs), runs[0].output
    gateway.stop()
    simulator.stop()


@pytest.mark.parametrize("how", ["SIGTERM", "SIGKILL"])
def test_a_task_and_an_image_that_appear_late_are_waited_for(programs, how):
    """EC2 knows the image only 15 s after the start, and its task 10 s after the store."""
    simulator = Simulator("--speed", "8", "--image-appear-after", "15s", "--appear-after", "10s")
    gateway = Gateway(simulator)
    image = simulator.idle["us-east-1"][0]
    known = time.monotonic() + 15
    with started(programs, gateway, image) as runs:
        for run in runs:
            run.wait_for("no task yet InvalidAMIID.NotFound")
        gateway = restart(gateway, simulator, how)
        time.sleep(max(0, known - time.monotonic()))
        ec2_client(simulator).create_store_image_task(ImageId=image, Bucket=BUCKET)
        assert [run.end() for run in runs] == [0, 0], runs[0].output
    assert all(len(starts(run)) == 1 for run in runs)
    gateway.stop()
    simulator.stop()


def test_a_wrong_bucket_is_not_found_after_the_wait_and_says_what_was_waited_for():
    waits = {"Duration(seconds=600)": "Duration(seconds=8)", "10 * time.Minute": "8 * time.Second"}

    def shorten(text):
        for long, short in waits.items():
            text = text.replace(long, short)
        return text

    programs = [Program("Python", shorten), Program("Go", shorten)]
    simulator = Simulator()
    gateway = Gateway(simulator)
    image = simulator.idle["us-east-1"][0]
    with started(programs, gateway, image, "wrong-bucket") as runs:
        began = time.monotonic()
        ec2_client(simulator).create_store_image_task(ImageId=image, Bucket=BUCKET)
        assert [run.end() for run in runs] == [1, 1], runs[0].output
    assert 5 <= time.monotonic() - began < 30
    for run in runs:
        assert f"no store-image task in default/us-east-1 of {image}" in run.output, run.output
        assert "wrong-bucket" in run.output and not run.tasks(), run.output
    for program in programs:
        program.remove()
    gateway.stop()
    simulator.stop()


@pytest.mark.parametrize("how", ["SIGTERM", "SIGKILL"])
def test_the_end_falls_between_two_streams_and_a_newer_task_exists(programs, how):
    simulator = Simulator("--speed", "8", "--failing-buckets", "other-images=1s")
    gateway = Gateway(simulator)
    ec2 = ec2_client(simulator)
    image = simulator.idle["us-east-1"][0]
    with started(programs, gateway, image) as runs:
        own = store_and_see(ec2, image, runs)
        gateway.stop() if how == "SIGTERM" else gateway.kill()
        give_up = time.monotonic() + 60
        while tasks_of(ec2, image)[0]["StoreTaskState"] == "InProgress" and time.monotonic() < give_up:
            time.sleep(2)
        # The same bucket: only the task ID tells the two apart.
        newer = store(ec2, image)
        assert newer > own
        gateway = Gateway(simulator, gateway.address)
        assert [run.end() for run in runs] == [0, 0], runs[0].output
    for run in runs:
        assert starts(run) == {own} and run.tasks()[-1][1:] == ("Completed", 100), run.output
    gateway.stop()
    simulator.stop()


@pytest.mark.parametrize("kind, reason, length, how", [
    ("throttling", "RequestLimitExceeded", 60, "SIGTERM"),
    ("throttling", "RequestLimitExceeded", 60, "SIGKILL"),
    ("stall", "EC2_IS_SLOW", 60, "SIGTERM"),
    ("stall", "EC2_IS_SLOW", 60, "SIGKILL"),
    # A watch that begins while EC2 refuses the whole scope is told so at once: no restart.
    ("AuthFailure", "AuthFailure", 30, None),
])
def test_trouble_with_ec2_ends_no_watch(programs, kind, reason, length, how):
    begins_after = 15
    simulator = Simulator("--trouble", f"{kind}@{begins_after}s+{length}s")
    begins = time.time() + begins_after
    gateway = Gateway(simulator)
    ec2 = ec2_client(simulator)
    image = simulator.idle["us-east-1"][0]
    with started(programs, gateway, image) as runs:
        own = store_and_see(ec2, image, runs)
        assert time.time() < begins, "the trouble has begun too early"
        seen = [len(run.lines) for run in runs]
        for run, lines in zip(runs, seen):
            run.wait_for("degraded: ", after=lines)
        first = [run.degraded()[0] for run in runs]
        for came, _, since in first:
            # The watch's interval is 2.5 to 30 s. A second is for the clocks of the processes.
            assert begins - 1 <= since <= begins + 31, (begins, first)
            assert came - since <= 4, first
        if how:
            time.sleep(max(0, begins + length / 2 - time.time()))
            gateway = restart(gateway, simulator, how)
            for run in runs:
                run.wait_for("degraded: ", after=len(run.lines))
        assert [run.end(300) for run in runs] == [0, 0], runs[0].output
    for run in runs:
        assert reason in [word for _, word, _ in run.degraded()], run.output
        assert ("call again: " in run.output) == bool(how), run.output
        assert starts(run) == {own} and run.tasks()[-1][1:] == ("Completed", 100), run.output
    gateway.stop()
    simulator.stop()
