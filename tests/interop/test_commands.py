"""The gateway's own commands, as scripts use them."""

import fcntl
import json
import os
import re
import signal
import struct
import subprocess
import termios
import time

import pytest

from conftest import GATEWAY, Gateway, Simulator, clean_environment, ec2_client
from fake_aws import EMPTY, Server


def run(*arguments, **environment):
    return subprocess.run(
        [GATEWAY, *arguments], capture_output=True, text=True, timeout=120, env=clean_environment(**environment),
    )


def tasks(gateway, *flags):
    done = run("list", "--server", gateway.address, "--output", "json", *flags)
    return done.returncode, json.loads(done.stdout)["tasks"]


def test_probe(gateway):
    assert run("probe", "--server", gateway.address).returncode == 0
    assert run("probe", "--server", "127.0.0.1:1").returncode == 1
    assert run("probe", AMISTORE_SERVER=gateway.address).returncode == 0


def test_list(gateway):
    code, completed = tasks(gateway, "--state", "completed", "--region", "eu-west-1")
    assert code == 0 and completed and {task["stateText"] for task in completed} == {"Completed"}
    code, failed = tasks(gateway, "--state", "failed")
    assert code == 1 and failed and all(task["failureReason"] for task in failed)
    table = run("list", "--server", gateway.address, "--limit", "3")
    assert table.returncode in (0, 1) and len(table.stdout.splitlines()) == 4, table.stdout
    assert table.stdout.split()[:3] == ["IMAGE", "BUCKET", "STATE"]


def test_watch_exit_codes(gateway):
    _, failed = tasks(gateway, "--state", "failed")
    _, completed = tasks(gateway, "--state", "completed")
    watch = ["watch", "--server", gateway.address, "--image"]
    good, bad = completed[0]["imageId"], failed[0]["imageId"]
    assert run(*watch, good).returncode == 0
    done = run(*watch, f"{good},{bad}", "--output", "json")
    assert done.returncode == 1
    last = [json.loads(line) for line in done.stdout.splitlines()]
    assert {message["task"]["imageId"] for message in last} == {good, bad}
    assert run(*watch, "ami-nothex").returncode == 2
    assert run("watch", "--server", gateway.address).returncode == 2


def test_a_watch_that_is_refused_ends_no_other():
    # Tasks of a simulator of its own are in progress, however long the tests before took.
    simulator = Simulator("--speed", "8")
    gateway = Gateway(simulator)
    _, running = tasks(gateway, "--state", "in-progress")
    _, failed = tasks(gateway, "--state", "failed")
    idle, image, bad = simulator.idle["us-east-1"][0], running[0]["imageId"], failed[0]["imageId"]
    for output in ("table", "json"):
        done = run("watch", "--server", gateway.address, "--image", f"{idle},{image},{bad}", "--output", output)
        assert done.returncode == 2 and done.stderr.splitlines() == [
            f"error: {idle}: NotFound: no store-image task in default/us-east-1 of {idle}"], done.stderr
        of_image = [line for line in done.stdout.splitlines() if image in line]
        assert "Completed" in of_image[-1] or "Failed" in of_image[-1], done.stdout
        assert failed[0]["failureReason"] in done.stdout
    gateway.stop()
    simulator.stop()


def test_the_line_of_a_retry_names_the_address():
    process = subprocess.Popen([GATEWAY, "watch", "--server", "127.0.0.1:1", "--image", "ami-01234567"],
                               stdout=subprocess.PIPE, text=True, env=clean_environment())
    line = process.stdout.readline()
    process.kill()
    process.wait()
    assert line.startswith("ami-01234567 127.0.0.1:1: Unavailable: ") and "Connection refused" in line, line
    assert line.endswith("; calling again\n"), line


def test_a_small_terminal_shows_each_end_in_full_and_counts_what_does_not_fit(simulator, gateway):
    ec2 = ec2_client(simulator)
    _, failed = tasks(gateway, "--state", "failed")
    _, completed = tasks(gateway, "--state", "completed")
    bad = failed[0]
    images = sorted({task["imageId"] for task in completed} - {bad["imageId"]})[:12]
    for image in images:
        ec2.create_store_image_task(ImageId=image, Bucket="golden-images")
    watch = ["watch", "--server", gateway.address, "--image", ",".join([*images, bad["imageId"]])]
    output, code = on_a_terminal(watch, size=(10, 80), TERM="xterm")
    assert code == 1, output
    # Three of ten lines are no bars.
    assert "13 of 13 tasks unfinished, 0 completed, 0 failed; 6 not shown" in output, output
    assert "% Failed" in output and f"  {bad['failureReason']}" in output, output
    for image in images:
        assert re.search(image + r" \[[=> ]{16}\] [ 0-9]{3} % (Completed|Failed)", output), (image, output)
    last = output.splitlines()[-1]
    assert "0 of 13 tasks unfinished, " in last and "not shown" not in last, last


def test_a_log_that_nobody_reads_holds_up_nothing(simulator):
    environment = clean_environment(**simulator.environment)
    process = subprocess.Popen([GATEWAY, "--log", "trace", "serve", "--listen", "127.0.0.1:0"],
                               stderr=subprocess.PIPE, env=environment)
    while b"listen=" not in (line := process.stderr.readline()):
        assert line, "the gateway did not log its address"
    address = re.sub(rb"\x1b\[[0-9;]*m", b"", line).split(b"listen=")[1].split()[0].decode()
    for _ in range(100):
        assert run("list", "--server", address, "--max-staleness", "1h").returncode in (0, 1)
    process.terminate()
    # The pipe is full: its 64 KiB are far less than what was logged.
    assert process.wait(timeout=30) == 0
    assert len(process.stderr.read()) > 60_000


def ends_without_an_answer(simulator, *arguments):
    """How a command ends whose gateway stands still: its exit code, its error, and after how many seconds."""
    gateway = Gateway(simulator)
    gateway.process.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    done = run(*arguments, AMISTORE_SERVER=gateway.address)
    took = time.monotonic() - began
    gateway.process.send_signal(signal.SIGCONT)
    gateway.stop()
    assert done.stdout == "", done
    return done.returncode, done.stderr.replace(gateway.address, "ADDRESS"), took


@pytest.mark.parametrize("arguments, code, error, limit", [
    (["probe"], 1, "ADDRESS: no answer within 2s\n", 2),
    (["probe", "--timeout", "500ms"], 1, "ADDRESS: no answer within 500ms\n", 0.5),
    (["list", "--timeout", "3s"], 2, "error: ADDRESS: no answer within 3s\n", 3),
    # An HTTP/2 ping after 20 s has no answer for 20 s.
    pytest.param(["list"], 2, "error: ADDRESS: Unavailable: http2 error: transport error: keep-alive timed out: "
                 "operation timed out\n", 40, marks=pytest.mark.slow),
])
def test_a_gateway_that_stands_still_is_an_error_in_time(simulator, arguments, code, error, limit):
    *ended, took = ends_without_an_answer(simulator, *arguments)
    assert ended == [code, error]
    assert limit <= took < limit + 3, took


def test_a_task_without_a_percentage_shows_none():
    """EC2 gives none in whatever state. A bar, a line, and JSON say so."""
    item = ("<item><amiId>ami-0000000{}</amiId><bucket>golden-images</bucket><s3objectKey>key</s3objectKey>"
            "<storeTaskState>{}</storeTaskState><taskStartTime>{}</taskStartTime></item>")
    now = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())
    items = item.format(1, "Completed", now) + item.format(2, "Failed", now)
    page = EMPTY.replace("<storeImageTaskResultSet>", "<storeImageTaskResultSet>" + items)
    endpoint = Server(lambda *_: (200, page))
    endpoint.environment = {"AWS_ENDPOINT_URL_EC2": endpoint.url, "AWS_REGION": "us-east-1",
                            "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
    gateway = Gateway(endpoint)
    watch = ["watch", "--server", gateway.address, "--image", "ami-00000001,ami-00000002"]
    output, code = on_a_terminal(watch, TERM="xterm")
    assert code == 1 and "%" not in output, output
    assert "ami-00000001 [================]     - Completed" in output, output
    assert "ami-00000002 [>               ]     - Failed" in output, output
    done = run(*watch)
    assert sorted(line.split() for line in done.stdout.splitlines()) == [
        ["ami-00000001", "Completed"], ["ami-00000002", "Failed:"]], done
    done = run(*watch, "--output", "json")
    assert [json.loads(line)["task"]["progressPercentage"] for line in done.stdout.splitlines()] == [None, None]
    gateway.stop()
    endpoint.stop()


def test_usage_errors_say_what_is_valid():
    bad = run("serve", "--ttl", "soon")
    assert bad.returncode == 2 and "500ms" in bad.stderr
    bad = run("serve", AMISTORE_TTL="soon")
    assert bad.returncode == 2 and "AMISTORE_TTL: invalid value 'soon'" in bad.stderr


def test_an_unknown_variable_is_one_warning_and_a_link_of_kubernetes_none():
    unknown = run("probe", "--server", "127.0.0.1:1", AMISTORE_TTLL="5s")
    assert unknown.returncode == 1 and unknown.stderr.count("AMISTORE_TTLL") == 1, unknown.stderr
    links = {
        "AMISTORE_PORT": "tcp://10.0.0.11:50051", "AMISTORE_SERVICE_HOST": "10.0.0.11",
        "AMISTORE_PORT_50051_TCP_ADDR": "10.0.0.11",
    }
    assert "AMISTORE_" not in run("probe", "--server", "127.0.0.1:1", **links).stderr
    assert run("--version", AMISTORE_TTLL="5s").returncode == 0
    assert run("serve", "--help", AMISTORE_TTL="soon").returncode == 0


def test_a_port_in_use_is_reported_with_what_to_do(gateway):
    for flags in (["serve"], ["simulate"], ["demo"]):
        done = run(*flags, "--listen", gateway.address)
        assert done.returncode == 2 and "--listen" in done.stderr and "in use" in done.stderr, done.stderr


def test_json_logs(simulator):
    process = subprocess.Popen(
        [GATEWAY, "serve", "--listen", "127.0.0.1:0", "--log-format", "json"],
        stderr=subprocess.PIPE, text=True, env=clean_environment(**simulator.environment),
    )
    first = json.loads(process.stderr.readline())
    assert first["fields"]["listen"].startswith("127.0.0.1:")
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=20) == 0


def test_a_gateway_whose_log_has_no_reader_serves_on_and_drains():
    simulator = Simulator()
    gateway = Gateway(simulator)
    simulator.stop()
    gateway.process.stderr.close()
    for _ in range(2):
        assert run("list", "--server", gateway.address).returncode == 2, "EC2 is gone, so a line is due"
    assert run("probe", "--server", gateway.address).returncode == 0
    gateway.process.terminate()
    assert gateway.process.wait(timeout=40) == 0


def test_a_failure_without_standard_error_keeps_its_exit_code():
    with open("/dev/full", "w") as full:
        for arguments, code in ((["probe", "--server", "127.0.0.1:1"], 1), (["serve", "--ttl", "soon"], 2)):
            done = subprocess.run([GATEWAY, *arguments], stderr=full, timeout=30, env=clean_environment())
            assert done.returncode == code, arguments


def test_output_that_cannot_be_written_is_said_with_code_2(gateway):
    _, completed = tasks(gateway, "--state", "completed")
    for arguments in (
        ["list", "--server", gateway.address], ["list", "--server", gateway.address, "--output", "json"],
        ["watch", "--server", gateway.address, "--image", completed[0]["imageId"]],
        ["probe", "--server", gateway.address], ["simulate", "--listen", "127.0.0.1:0"],
        ["serve", "--help"], ["--version"],
    ):
        with open("/dev/full", "w") as full:
            done = subprocess.run([GATEWAY, *arguments], stdout=full, stderr=subprocess.PIPE, text=True, timeout=30,
                                  env=clean_environment())
        assert done.returncode == 2 and "cannot write to standard output: No space" in done.stderr, (arguments, done)


def test_a_reader_that_goes_is_no_error(gateway):
    for arguments in (["list", "--server", gateway.address], ["simulate", "--listen", "127.0.0.1:0"], ["--help"]):
        process = subprocess.Popen([GATEWAY, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                   env=clean_environment())
        process.stdout.close()
        assert process.wait(timeout=30) == 0 and process.stderr.read() == "", arguments


def on_a_terminal(arguments, size=(24, 80), **environment):
    """The output of a command on a terminal, and its exit code."""
    controller, terminal = os.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
    process = subprocess.Popen([GATEWAY, *arguments], stdout=terminal, stderr=terminal, env=clean_environment(**environment))
    os.close(terminal)
    output = b""
    try:
        while chunk := os.read(controller, 4096):
            output += chunk
    except OSError:  # The process has closed its side.
        pass
    os.close(controller)
    return output.decode(), process.wait(timeout=60)


def test_a_terminal_without_a_cursor_gets_plain_lines(gateway):
    _, completed = tasks(gateway, "--state", "completed")
    watch = ["watch", "--server", gateway.address, "--image", completed[0]["imageId"]]
    for environment in ({"TERM": "dumb"}, {"TERM": ""}):
        output, code = on_a_terminal(watch, **environment)
        assert code == 0 and "100 % Completed" in output and "\x1b" not in output, output


def test_logs_have_no_colours_if_the_user_declines():
    for environment, coloured in (({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)):
        output, code = on_a_terminal(["probe", "--server", "127.0.0.1:1"],
                                     **{"TERM": "xterm", "AMISTORE_TTLL": "5s"} | environment)
        assert code == 1 and "AMISTORE_TTLL" in output and ("\x1b" in output) == coloured, output


def test_errors_name_the_address_and_the_cause():
    done = run("list", "--server", "127.0.0.1:1")
    assert done.returncode == 2, done
    assert "127.0.0.1:1" in done.stderr and "Connection refused" in done.stderr, done.stderr
    unknown = run("list", "--server", "http://gateway.invalid:1")
    assert "gateway.invalid:1" in unknown.stderr and "lookup" in unknown.stderr, unknown.stderr
    for bad in ("ftp://127.0.0.1:1", "http://127.0.0.1:1/path", "127.0.0.1", "http://user:word@host:1"):
        done = run("list", "--server", bad)
        assert done.returncode == 2 and "expected HOST:PORT" in done.stderr, done.stderr


def test_probe_asks_where_the_gateway_listens(gateway):
    port = gateway.address.rsplit(":", 1)[1]
    for listen in (f"127.0.0.1:{port}", f"0.0.0.0:{port}", f"[::]:{port}"):
        assert run("probe", AMISTORE_LISTEN=listen).returncode == 0, listen
    assert run("probe", AMISTORE_LISTEN="127.0.0.1:1").returncode == 1
    assert run("probe", AMISTORE_LISTEN="127.0.0.1:1", AMISTORE_SERVER=gateway.address).returncode == 0


def test_a_watch_continues_when_the_gateway_is_replaced(simulator):
    region = "eu-west-1"
    image = simulator.idle[region][0]
    first = Gateway(simulator)
    ec2_client(simulator, region).create_store_image_task(ImageId=image, Bucket="golden-images")
    watch = subprocess.Popen(
        [GATEWAY, "watch", "--server", first.address, "--region", region, "--image", image, "--wait"],
        stdout=subprocess.PIPE, text=True, env=clean_environment(),
    )
    assert watch.stdout.readline()
    first.stop()
    second = Gateway(simulator, first.address)
    assert watch.wait(timeout=60) == 0, watch.stdout.read()
    second.stop()


def test_the_demo_prints_plain_lines_to_a_pipe():
    process = subprocess.Popen(
        [GATEWAY, "demo", "--listen", "127.0.0.1:0", "--simulator-listen", "127.0.0.1:0", "--speed", "20"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=clean_environment(),
    )
    lines = []
    for line in process.stdout:
        lines.append(line)
        if "All watched tasks have ended" in line:
            break
    process.send_signal(signal.SIGINT)
    rest, errors = process.communicate(timeout=20)
    assert process.returncode == 0, errors
    output = "".join(lines) + rest
    assert "grpcurl -plaintext" in output and "100 % Completed" in output and "Failed: " in output
    assert "Lists answered" in rest and "EC2 calls" in rest


def test_a_watch_says_what_it_waits_for_and_follows_a_task_id(simulator, gateway):
    unknown = run("watch", "--server", gateway.address, "--image", "ami-00000000000000000", "--wait", "4s")
    assert unknown.returncode == 2 and "InvalidAMIID.NotFound" in unknown.stdout, unknown
    assert "no store-image task in default/us-east-1 of ami-00000000000000000" in unknown.stderr
    listed = run("list", "--server", gateway.address, "--state", "completed", "--limit", "1", "--output", "json")
    task = json.loads(listed.stdout)["tasks"][0]
    assert task["done"] and task["taskId"]
    watched = run("watch", "--server", gateway.address, "--task", task["taskId"], "--output", "json")
    assert watched.returncode == 0, watched.stderr
    assert json.loads(watched.stdout)["task"]["taskId"] == task["taskId"]
    recent = run("list", "--server", gateway.address, "--started-after", task["startTime"], "--output", "json")
    assert task["taskId"] not in [one["taskId"] for one in json.loads(recent.stdout)["tasks"]]


def test_help_of_started_after_warns_of_a_second_try():
    assert "not for a second try within that time" in " ".join(run("watch", "--help").stdout.split())
