"""Stops the release binary under load, again and again: `drain.py --runs 100`.

The peers of each run: Lists without a pause and watches through grpcio, a silent connection, half a preface, half a
List, a watcher that never reads, a client that is stopped (SIGSTOP), one that reads an answer of 200 KiB slowly, Lists
that wait for the budget, and `--watches` watches. Each call that was begun must end with an answer, or with a status
on which clients call again.
"""

import argparse
import asyncio
import collections
import multiprocessing
import os
import pathlib
import random
import signal
import socket
import subprocess
import sys
import time

import grpc
from google.protobuf import duration_pb2

from http2 import (
    ACK, DATA, END_STREAM, HEADERS, LIST, PING, PREFACE, RST_STREAM, SETTINGS, WATCH, frame, header_frames,
    list_message, message, request_block, settings, watch_message, window_update,
)
from measure import ROOT, Gateway, Simulator

WORK = pathlib.Path(__file__).resolve().parent / ".work"
IMAGE = "ami-00000000000000000"
CHANNELS = 100
# Bytes a second of the slow reader.
SLOW = 25 << 10


def stubs():
    WORK.mkdir(exist_ok=True)
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT / 'proto'}", f"--python_out={WORK}",
         f"--grpc_python_out={WORK}", "amistore/v1/store_image_task_service.proto"], check=True,
    )
    sys.path.insert(0, str(WORK))
    from amistore.v1 import store_image_task_service_pb2 as messages
    from amistore.v1 import store_image_task_service_pb2_grpc as services

    return messages, services


def connect(address, receive=None):
    host, port = address.split(":")
    peer = socket.socket()
    if receive:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive)
    peer.settimeout(60)
    peer.connect((host, int(port)))
    return peer


def call(peer, path, body, window=1 << 30):
    peer.sendall(PREFACE + settings(initial_window_size=window) + window_update(0, (1 << 30)))
    peer.sendall(header_frames(1, request_block(path)) + frame(DATA, END_STREAM, 1, body))


def stopped(address, ready):
    """A client with a watch, in a process that will be stopped."""
    peer = connect(address)
    call(peer, WATCH, watch_message(IMAGE, 3600))
    peer.recv(1 << 16)
    ready.set()
    while peer.recv(1 << 16):
        pass


def slow_reader(address, ready, results):
    """Reads a large answer slowly, through a small buffer. Its windows are wide open, as those of Go are."""
    peer = connect(address, receive=16_384)
    call(peer, LIST, list_message(1000))
    ready.set()
    stream, taken, done = peer.makefile("rb", buffering=4096), 0, False
    try:
        while not done:
            head = stream.read(9)
            if len(head) < 9:
                break
            payload = stream.read(int.from_bytes(head[:3], "big"))
            kind, flags, number = head[3], head[4], int.from_bytes(head[5:9], "big")
            if kind == SETTINGS and not flags & ACK:
                peer.sendall(frame(SETTINGS, ACK, 0))
            elif kind == PING and not flags & ACK:
                peer.sendall(frame(PING, ACK, 0, payload))
            elif kind == DATA:
                taken += len(payload)
                # Libraries open their windows again as they read.
                peer.sendall(window_update(0, max(1, len(payload))) + window_update(1, max(1, len(payload))))
                time.sleep(len(payload) / SLOW)
            done = number == 1 and kind in (HEADERS, DATA) and bool(flags & END_STREAM)
        results.put((done, taken, None))
    except OSError as error:
        results.put((done, taken, repr(error)))


class Load:
    """Lists without a pause, watches and waiting Lists, through grpcio."""

    def __init__(self, address, messages, services, watches, callers):
        self.address, self.messages, self.services = address, messages, services
        self.watches, self.callers = watches, callers
        self.outcomes, self.ends = collections.Counter(), []

    async def run(self, stop):
        """Runs until every call has ended. Once all watches are open, `stop` stops the gateway."""
        channels = [grpc.aio.insecure_channel(self.address, options=[("number", number)]) for number in range(CHANNELS)]
        clients = [self.services.StoreImageTaskServiceStub(channel) for channel in channels]
        self.open, self.all_open, self.stopping = 0, asyncio.Event(), False
        watches = [asyncio.create_task(self.watch(clients[number % CHANNELS])) for number in range(self.watches)]
        await asyncio.wait_for(self.all_open.wait(), 120)
        lists = [asyncio.create_task(self.list(clients[number % CHANNELS])) for number in range(self.callers)]
        waiting = [asyncio.create_task(self.wait_for_ec2(clients[number])) for number in range(5)]
        await asyncio.sleep(0.5 + random.random() / 2)
        self.stopping = True
        self.stopped = await stop()
        await asyncio.gather(*watches, *lists, *waiting)
        for channel in channels:
            await channel.close()

    async def watch(self, client):
        request = self.messages.WatchStoreImageTaskRequest(
            image_id=IMAGE, wait_for_task=duration_pb2.Duration(seconds=3600),
            heartbeat_interval=duration_pb2.Duration(seconds=600),
        )
        outcome = "OK"
        try:
            stream = client.WatchStoreImageTask(request)
            # No message comes for 3 s: there is no task. The call is with the gateway once it is sent.
            self.open += 1
            if self.open == self.watches:
                self.all_open.set()
            async for _ in stream:
                pass
        except grpc.aio.AioRpcError as error:
            outcome = self.outcome(error)
        self.outcomes[f"watch {outcome}"] += 1
        self.ends.append(time.monotonic())

    async def list(self, client):
        while True:
            try:
                await client.ListStoreImageTasks(self.messages.ListStoreImageTasksRequest(page_size=10), timeout=60)
                self.outcomes["list OK"] += 1
            except grpc.aio.AioRpcError as error:
                self.outcomes[f"list {self.outcome(error)}"] += 1
                if self.stopping:
                    return
            await asyncio.sleep(0.02)

    async def wait_for_ec2(self, client):
        """A List of each of these asks EC2 again, so that the budget is spent and they wait."""
        while True:
            try:
                request = self.messages.ListStoreImageTasksRequest(max_staleness=duration_pb2.Duration())
                await client.ListStoreImageTasks(request, timeout=60)
                self.outcomes["new list OK"] += 1
            except grpc.aio.AioRpcError as error:
                self.outcomes[f"new list {self.outcome(error)}"] += 1
                if self.stopping:
                    return

    @staticmethod
    def outcome(error):
        """The status, and the gateway's reason for it: `other` if the status is not the gateway's."""
        trailers = dict(error.trailing_metadata() or ())
        return f"{error.code().name} {'of the gateway' if 'grpc-status-details-bin' in trailers else error.details()}"


def run(simulator, messages, services, arguments):
    gateway = Gateway(simulator, ["--max-watches", str(arguments.watches + 100), *arguments.flag])
    address = gateway.address
    silent, preface, half = connect(address), connect(address), connect(address)
    preface.sendall(PREFACE[:16])
    half.sendall(PREFACE + settings() + header_frames(1, request_block(LIST)) + frame(DATA, 0, 1, message(announced=100)))
    unread = connect(address)
    call(unread, WATCH, watch_message(IMAGE, 3600), window=0)
    ready, reading = multiprocessing.Event(), multiprocessing.Event()
    results = multiprocessing.Queue()
    standing = multiprocessing.Process(target=stopped, args=(address, ready), daemon=True)
    standing.start()
    ready.wait(30)
    os.kill(standing.pid, signal.SIGSTOP)
    slow = multiprocessing.Process(target=slow_reader, args=(address, reading, results), daemon=True)
    load = Load(address, messages, services, arguments.watches, arguments.callers)

    async def stop():
        slow.start()
        while not reading.is_set():
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.3)
        began = time.monotonic()
        gateway.process.send_signal(signal.SIGTERM)
        while gateway.process.poll() is None and time.monotonic() < began + 60:
            await asyncio.sleep(0.02)
        return began, time.monotonic()

    asyncio.run(load.run(stop))
    began, ended = load.stopped
    os.kill(standing.pid, signal.SIGKILL)
    whole, taken, error = results.get(timeout=60)
    for peer in (silent, preface, half, unread):
        peer.close()
    code = gateway.process.poll()
    if code is None:
        gateway.process.kill()
        gateway.process.wait()
    bad = {name: count for name, count in load.outcomes.items() if not acceptable(name)}
    return {
        "code": code, "seconds": ended - began, "outcomes": dict(load.outcomes), "bad": bad, "slow": (whole, taken, error),
        "ends": [end - began for end in load.ends], "log": gateway.read_log()[-2000:],
    }


def acceptable(outcome):
    # A call on a connection that was never made, or that had ended before the call was sent, is no accepted one.
    return (
        outcome.endswith("OK") or "UNAVAILABLE of the gateway" in outcome
        or "list UNAVAILABLE failed to connect" in outcome or "connections to all backends failing" in outcome
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--watches", type=int, default=1_000)
    parser.add_argument("--callers", type=int, default=50)
    parser.add_argument("--flag", action="append", default=[], help="a flag of the gateway")
    arguments = parser.parse_args()
    # gRPC has threads, which a fork would lose.
    multiprocessing.set_start_method("spawn")
    messages, services = stubs()
    simulator = Simulator()
    total, lost, failed, longest, histogram = collections.Counter(), 0, 0, 0, collections.Counter()
    for number in range(arguments.runs):
        result = run(simulator, messages, services, arguments)
        total.update(result["outcomes"])
        histogram.update(int(2 * end) for end in result["ends"])
        longest = max(longest, result["seconds"])
        whole, taken, error = result["slow"]
        failed += result["code"] != 0
        lost += sum(result["bad"].values()) + (not whole)
        print(f"run {number + 1}: exit {result['code']} after {result['seconds']:.1f} s, bad {result['bad']}, "
              f"large answer {'whole' if whole else f'broken off: {error}'} ({taken:,} bytes)", flush=True)
        if result["code"] != 0 or result["bad"] or not whole:
            print(result["log"], file=sys.stderr)
    simulator.stop()
    print(f"\n{arguments.runs} runs: {failed} exit codes other than 0, {lost} calls lost, longest drain {longest:.1f} s")
    for name, count in sorted(total.items()):
        print(f"  {count:9,} {name}")
    print("watches ended after SIGTERM, by half seconds:")
    for half in sorted(histogram):
        share = histogram[half] / max(1, sum(histogram.values()))
        print(f"  {half / 2:4.1f} s {histogram[half]:8,} {'#' * int(200 * share)}")
    sys.exit(1 if failed or lost else 0)


if __name__ == "__main__":
    main()
