"""Generated clients: the commands and files of docs/clients.md run here, exactly as on that page."""

import os
import re
import shutil
import subprocess

import pytest

from conftest import BIN, ROOT, Gateway, Simulator, clean_environment, ec2_client

PAGE = ROOT / "docs" / "clients.md"
ADDRESS = "localhost:50051"
IMAGE = "ami-0123456789abcdef0"
BLOCK = re.compile(r"(?:^In `(?P<file>[^`]+)`:\n\n)?^```(?P<language>\w+)\n(?P<text>.*?)^```$", re.M | re.S)


class Recipe:
    """The files and the command blocks of one section. The last block runs the client."""

    def __init__(self, title):
        section = PAGE.read_text().split(f"\n## {title}\n")[1].split("\n## ")[0]
        self.files = {}
        self.commands = []
        for block in BLOCK.finditer(section):
            if block["file"]:
                self.files[block["file"]] = block["text"]
            else:
                assert block["language"] == "sh", f"{title}: no file is named for a {block['language']} block"
                self.commands.append(block["text"])


@pytest.fixture
def gateway_of_its_own():
    """A simulator and a gateway for one test, so that each language has an image without a task."""
    simulator = Simulator("--speed", "4")
    gateway = Gateway(simulator)
    yield simulator, gateway
    gateway.stop()
    simulator.stop()


def run(commands, folder):
    """Runs a block in bash, with protoc on the path. Returns its standard output."""
    environment = clean_environment(PATH=f"{BIN}{os.pathsep}{os.environ['PATH']}")
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=900,
    )
    assert done.returncode == 0, f"{commands}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.parametrize("language", ["Go", "Java", "Python", "Node.js"])
def test_a_generated_client_lists_and_watches(language, gateway_of_its_own, tmp_path):
    simulator, gateway = gateway_of_its_own
    recipe = Recipe(language)
    shutil.copytree(ROOT / "proto", tmp_path / "proto")
    for name, text in recipe.files.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    *generate, use = recipe.commands
    assert ADDRESS in use and IMAGE in use
    for commands in generate:
        run(commands, tmp_path)

    image = simulator.idle["us-east-1"][0]
    ec2_client(simulator).create_store_image_task(ImageId=image, Bucket="golden-images")
    output = run(use.replace(ADDRESS, gateway.address).replace(IMAGE, image), tmp_path)

    listed = re.findall(r"listed: (\S+) (\S+)", output)
    watched = re.findall(r"watched: (\S+) (\d+) %", output)
    assert len(listed) == 3 and listed[0][0] == image, output
    progress = [int(percent) for _, percent in watched]
    assert len(watched) >= 2 and progress == sorted(progress), output
    assert watched[0][0] == "InProgress" and watched[-1] == ("Completed", "100"), output
