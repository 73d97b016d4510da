"""Fixtures of the interop tests: a simulator and a gateway on free ports, a boto3 client, and Python stubs."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
WORK = pathlib.Path(__file__).resolve().parent / ".work"
# Folder of the tools that requirements.txt installs, for example protoc, grpcurl and aws.
BIN = pathlib.Path(sys.executable).parent
GATEWAY = os.environ.get("AMISTORE_GATEWAY", str(ROOT / "target" / "debug" / "amistore-gateway"))
SERVICE = "amistore.v1.StoreImageTaskService"


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: takes minutes; part of .ci/release, and not of .ci/run")


def clean_environment(**more):
    """The environment without the settings of AWS clients and of the gateway, plus `more`.

    Gateways of tests that run at the same time have no admin listener, since its default port is one.
    """
    neutral = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "AMISTORE_"))}
    aws = {"AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}
    return neutral | aws | {"AMISTORE_ADMIN_LISTEN": "none"} | more


class Simulator:
    """A process of `amistore-gateway simulate`, and the environment that it prints."""

    def __init__(self, *flags, latency="5ms"):
        self.process = subprocess.Popen(
            [GATEWAY, "simulate", "--listen", "127.0.0.1:0", "--latency", latency, *flags],
            stdout=subprocess.PIPE, text=True, env=clean_environment(),
        )
        self.environment = {}
        self.idle = {}
        for line in self.process.stdout:
            if export := re.match(r"export (\w+)=(.*)$", line):
                self.environment[export[1]] = export[2]
            elif idle := re.match(r"# images without a task in (\S+): (.*)$", line):
                self.idle[idle[1]] = idle[2].split()
                if len(self.idle) == 2:
                    break
        assert self.idle, "the simulator did not print its images without a task"

    def stop(self):
        self.process.terminate()
        assert self.process.wait(timeout=10) == 0


class Gateway:
    """A process of `amistore-gateway serve` in front of a simulator, started by `command` if one is given."""

    def __init__(self, simulator, listen="127.0.0.1:0", *flags, command=(GATEWAY,), environment=None, **options):
        environment = clean_environment(**simulator.environment, **environment or {})
        self.process = subprocess.Popen(
            [*command, "serve", "--listen", listen, "--allowed-regions", "eu-west-1,ap-south-1", *flags],
            stderr=subprocess.PIPE, text=True, env=environment, **options,
        )
        self.started = ""
        self.terminated = False
        for line in self.process.stderr:
            self.started += line
            if found := re.search(r" listen=(\S+)", line):
                self.start_line = line
                self.addresses = found[1].split(",")
                self.address = self.addresses[0]
                break
        else:
            raise AssertionError(f"the gateway did not log its address\n{self.started}")

    def terminate(self):
        """Asks the process to end, once: a second signal would end its drain."""
        if not self.terminated:
            self.terminated = True
            self.process.terminate()

    def stop(self):
        """Ends the process as Kubernetes does. Returns its log lines since it listened."""
        self.terminate()
        rest = self.process.stderr.read()
        assert self.process.wait(timeout=40) == 0, rest
        return rest

    def kill(self):
        """Ends the process at once, as a crash does."""
        self.process.kill()
        self.process.wait()


def ec2_client(simulator, region="us-east-1", **more):
    """A boto3 client of a simulator."""
    import boto3

    return boto3.client(
        "ec2",
        endpoint_url=simulator.environment["AWS_ENDPOINT_URL_EC2"],
        region_name=region,
        aws_access_key_id="simulated",
        aws_secret_access_key="simulated",
        **more,
    )


@pytest.fixture(scope="session")
def simulator():
    simulator = Simulator("--speed", "8")
    yield simulator
    simulator.stop()


@pytest.fixture(scope="session")
def gateway(simulator):
    gateway = Gateway(simulator)
    yield gateway
    gateway.stop()


@pytest.fixture(scope="session")
def ec2(simulator):
    """A boto3 client of the simulator that all tests share."""
    return ec2_client(simulator)


@pytest.fixture(scope="session")
def stubs():
    """The modules that grpcio-tools generates from the contract."""
    out = WORK / "stubs"
    out.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT / 'proto'}", f"--python_out={out}",
         f"--grpc_python_out={out}", "amistore/v1/store_image_task_service.proto"],
        check=True,
    )
    sys.path.insert(0, str(out))
    from amistore.v1 import store_image_task_service_pb2 as messages
    from amistore.v1 import store_image_task_service_pb2_grpc as services

    return messages, services


@pytest.fixture
def running(ec2, simulator):
    """An image whose task has just started."""
    image = simulator.idle["us-east-1"][0]
    ec2.create_store_image_task(ImageId=image, Bucket="golden-images")
    return image
