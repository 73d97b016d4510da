"""The programs of README.md, built by the commands of docs/clients.md, as they stand on these pages."""

import datetime
import os
import pathlib
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time

from conftest import BIN, ROOT, clean_environment

ADDRESS, IMAGE, BUCKET = "localhost:50051", "ami-0123456789abcdef0", "golden-images"
LANGUAGES = ["Python", "Go", "Java", "Node.js"]
FILES = {"Python": "follow.py", "Go": "main.go", "Java": "src/main/java/Follow.java", "Node.js": "follow.ts"}
BLOCK = re.compile(r"(?:^In `(?P<file>[^`]+)`:\n\n)?^```(?P<language>\w+)\n(?P<text>.*?)^```$", re.M | re.S)
TASK = re.compile(r"(?P<start>\S+Z) (?P<state>\w+) (?:(?P<percent>\d+) %|-)(?: (?P<reason>.*))?")
ENVIRONMENT = {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "PYTHONUNBUFFERED": "1"}


def section(page, title):
    return page.read_text().split(f"\n## {title}\n")[1].split("\n## ")[0]


class Program:
    """One program in a folder of its own. `edit` changes its text before it is built."""

    def __init__(self, language, edit=lambda text: text):
        # Outside of this folder, whose package.json npm would find.
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="amistore-"))
        shutil.copytree(ROOT / "proto", self.folder / "proto")
        sources = {}
        for block in BLOCK.finditer(section(ROOT / "README.md", "Clients")):
            sources[block["file"]] = edit(block["text"])
        file, commands = FILES[language], []
        self._write(file, sources[file])
        for block in BLOCK.finditer(section(ROOT / "docs" / "clients.md", language)):
            if block["file"]:
                self._write(block["file"], block["text"])
            else:
                assert block["language"] == "sh", f"{language}: no file is named for a {block['language']} block"
                commands.append(block["text"])
        *build, self.command = commands
        assert all(word in self.command for word in (ADDRESS, IMAGE, BUCKET))
        for script in build:
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", script], cwd=self.folder, env=clean_environment(**ENVIRONMENT),
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=900,
            )
            assert done.returncode == 0, f"{script}\n{done.stdout}"

    def _write(self, name, text):
        file = self.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def start(self, gateway, image, bucket=BUCKET):
        command = self.command.replace(ADDRESS, gateway.address).replace(IMAGE, image).replace(BUCKET, bucket)
        return Run(command, self.folder)

    def remove(self):
        shutil.rmtree(self.folder)


class Run:
    """A running program, and the lines that it has printed, each with its time."""

    def __init__(self, command, folder):
        self.process = subprocess.Popen(
            ["bash", "-c", command], cwd=folder, env=clean_environment(**ENVIRONMENT), start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        self.lines = []
        self.changed = threading.Condition()
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        for line in self.process.stdout:
            with self.changed:
                # Maven sets colours.
                self.lines.append((time.time(), re.sub(r"\x1b\[[0-9;]*m", "", line).strip()))
                self.changed.notify_all()

    @property
    def output(self):
        return "\n".join(line for _, line in self.lines)

    def wait_for(self, pattern, timeout=60, after=0):
        """Waits for a line that matches, not before the line of number `after`. Returns the match."""
        def found():
            return next((match for _, line in self.lines[after:] if (match := re.match(pattern, line))), None)
        with self.changed:
            self.changed.wait_for(found, timeout)
            match = found()
        assert match, f"no line like {pattern!r}\n{self.output}"
        return match

    def end(self, timeout=180):
        """Waits for the end. Returns the exit code."""
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the program has not ended\n{self.output}") from None
        self.reader.join(10)
        return code

    def kill(self):
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def tasks(self):
        """What was shown of tasks: start time, state and percent of each message."""
        return [
            (moment(task["start"]), task["state"], task["percent"] and int(task["percent"]))
            for _, line in self.lines if (task := TASK.fullmatch(line))
        ]

    def degraded(self):
        """What was shown of trouble: the time at which it came, its reason, and its beginning."""
        return [
            (came, found[1], moment(found[2]).timestamp())
            for came, line in self.lines if (found := re.fullmatch(r"degraded: (\S+) since (\S+)", line))
        ]


def moment(text):
    """Reads an RFC 3339 time of up to nine digits after the point, to the millisecond."""
    whole, _, fraction = text.rstrip("Z").partition(".")
    time_of_day = datetime.datetime.fromisoformat(whole).replace(tzinfo=datetime.timezone.utc)
    return time_of_day + datetime.timedelta(milliseconds=int(fraction.ljust(3, "0")[:3]))
