"""Calls through grpc-java, with the interface of grpcio as far as tests need it. A process of `Caller.java`,
which is built as docs/clients.md says, makes them."""

import base64
import itertools
import json
import pathlib
import queue
import re
import shutil
import subprocess
import tempfile
import threading

import grpc

from conftest import ROOT, clean_environment
from programs import BLOCK, section

SOURCE = pathlib.Path(__file__).resolve().parent / "Caller.java"
CODES = {code.value[0]: code for code in grpc.StatusCode}


class JavaError(grpc.RpcError):
    """The status of a call that has failed, as grpc-java has read it."""

    def __init__(self, line):
        self.line = line

    def code(self):
        return CODES[self.line["code"]]

    def details(self):
        return self.line.get("text")

    def trailing_metadata(self):
        return [(name, base64.b64decode(value) if name.endswith("-bin") else value)
                for name, value in self.line["trailers"].items()]


class Java:
    """The process."""

    def __init__(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="amistore-"))
        shutil.copytree(ROOT / "proto", self.folder / "proto")
        blocks = BLOCK.finditer(section(ROOT / "docs" / "clients.md", "Java"))
        pom = next(block["text"] for block in blocks if block["file"] == "pom.xml")
        assert "<mainClass>Follow</mainClass>" in pom
        (self.folder / "pom.xml").write_text(pom.replace("<mainClass>Follow<", "<mainClass>Caller<"))
        sources = self.folder / "src" / "main" / "java"
        sources.mkdir(parents=True)
        shutil.copy(SOURCE, sources)
        done = subprocess.run(["mvn", "--batch-mode", "--quiet", "compile"], cwd=self.folder, env=clean_environment(),
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=900)
        assert done.returncode == 0, done.stdout
        self.process = subprocess.Popen(
            ["mvn", "--batch-mode", "--quiet", "exec:java"], cwd=self.folder,
            env=clean_environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        self.ids = itertools.count()
        self.lines = {}
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for text in self.process.stdout:
            # Maven sets colours.
            text = re.sub(r"\x1b\[[0-9;]*m", "", text).strip()
            if text:
                line = json.loads(text)
                self.lines[line["id"]].put(line)

    def tell(self, order):
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()

    def stop(self):
        self.process.stdin.close()
        assert self.process.wait(30) == 0
        shutil.rmtree(self.folder)


class JavaChannel:
    """The channel to a gateway."""

    def __init__(self, java, address, compression=None):
        self.java, self.address, self.compression = java, address, compression

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def unary_unary(self, method, request_serializer=bytes, response_deserializer=bytes):
        return JavaCallable(self, method, False, request_serializer, response_deserializer)

    def unary_stream(self, method, request_serializer=bytes, response_deserializer=bytes):
        return JavaCallable(self, method, True, request_serializer, response_deserializer)


class JavaStub:
    """The client of a service, by the description of its methods."""

    def __init__(self, channel, service, messages):
        for method in service.methods:
            kind = channel.unary_stream if method.server_streaming else channel.unary_unary
            request, response = (getattr(messages, kind.name) for kind in (method.input_type, method.output_type))
            call = kind(f"/{service.full_name}/{method.name}", request.SerializeToString, response.FromString)
            setattr(self, method.name, call)


class JavaCallable:
    """A method."""

    def __init__(self, channel, method, is_stream, serialize, parse):
        self.channel, self.method, self.is_stream = channel, method, is_stream
        self.serialize, self.parse = serialize, parse

    def __call__(self, request, timeout=60, metadata=()):
        call = self.future(request, timeout, metadata)
        return call if self.is_stream else next(call)

    def future(self, request, timeout=60, metadata=()):
        order = {
            "address": self.channel.address, "method": self.method.lstrip("/"), "is_stream": self.is_stream,
            "request": base64.b64encode(self.serialize(request)).decode(), "timeout_ms": round(timeout * 1000),
            "headers": dict(metadata),
        }
        if self.channel.compression:
            order["compression"] = self.channel.compression
        return JavaCall(self.channel.java, order, self.parse)


class JavaCall:
    """A call that has begun."""

    def __init__(self, java, order, parse):
        self.java, self.parse, self.id = java, parse, next(java.ids)
        self.lines = java.lines[self.id] = queue.Queue()
        java.tell(order | {"id": self.id})

    def __iter__(self):
        return self

    def __next__(self):
        line = self.lines.get(timeout=90)
        if "message" in line:
            return self.parse(base64.b64decode(line["message"]))
        if line["code"] == 0:
            raise StopIteration
        raise JavaError(line)

    def cancel(self):
        self.java.tell({"cancel": self.id})

    def exception(self):
        try:
            for _ in self:
                pass
        except JavaError as error:
            return error
