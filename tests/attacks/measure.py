"""Runs the attacks on the release binary, and prints a table. `measure.py --help` lists them.

For each attack: the peak of the gateway's memory, the latency of an honest client during it, and the same client's
latency beside processes that burn as much CPU as gateway and attacker did, what the log named, and how the gateway
then stops while the attack goes on.
"""

import argparse
import asyncio
import collections
import multiprocessing
import os
import pathlib
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

from http2 import (
    ACK, DATA, END_STREAM, GOAWAY, HEADERS, LIST, PING, PREFACE, RST_STREAM, SETTINGS, WATCH, frame, header_frames,
    list_message, request_block, settings, watch_message, window_update,
)
from kinds import KINDS, Counts

ROOT = pathlib.Path(__file__).resolve().parents[2]
GATEWAY = os.environ.get("AMISTORE_GATEWAY", str(ROOT / "target" / "release" / "amistore-gateway"))
TICKS = os.sysconf("SC_CLK_TCK")
CORES = len(os.sched_getaffinity(0))
# Pause of the honest client between two Lists.
PAUSE = 0.005


def environment(more=()):
    neutral = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "AMISTORE_"))}
    return neutral | {"AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull} | dict(more)


class Simulator:
    """`simulate`, with an account of 1,000 finished tasks."""

    def __init__(self):
        self.process = subprocess.Popen(
            [GATEWAY, "simulate", "--listen", "127.0.0.1:0", "--tasks", "1000", "--latency", "5ms", "--speed", "0.1"],
            stdout=subprocess.PIPE, text=True, env=environment(),
        )
        self.environment = {}
        for line in self.process.stdout:
            if export := re.match(r"export (\w+)=(.*)$", line):
                self.environment[export[1]] = export[2]
            elif line.startswith("# images without a task"):
                break

    def stop(self):
        self.process.terminate()
        self.process.wait(10)


class Gateway:
    """`serve` in front of a simulator."""

    def __init__(self, simulator, flags=()):
        self.log = tempfile.NamedTemporaryFile("w+", suffix=".log")
        self.process = subprocess.Popen(
            [GATEWAY, "serve", "--listen", "127.0.0.1:0", "--admin-listen", "none", *flags], stderr=self.log,
            env=environment(simulator.environment),
        )
        self.pid, self.address = self.process.pid, None
        while not self.address:
            time.sleep(0.05)
            assert self.process.poll() is None, self.read_log()
            if found := re.search(r"listen=(\S+)", self.read_log()):
                self.address = found[1].split(",")[0]

    def read_log(self):
        return pathlib.Path(self.log.name).read_text()

    def peak(self):
        """Peak resident memory, in MiB."""
        return int(re.search(r"VmHWM:\s+(\d+)", pathlib.Path(f"/proc/{self.pid}/status").read_text())[1]) / 1024

    def incidents(self):
        counts = collections.Counter()
        for line in re.findall(r'incidents="([^"]*)"', self.read_log()):
            for name, count in re.findall(r"(\w+)=(\d+)", line):
                counts[name] += int(count)
        return dict(counts)

    def stop(self):
        """Stops the gateway. Returns its exit code and the seconds that it took."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            code = "none"
        return code, time.monotonic() - began


def cpu(pids):
    """Seconds of CPU that processes have used."""
    used = 0
    for pid in pids:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        used += int(fields[11]) + int(fields[12])
    return used / TICKS


class Honest:
    """A client on one connection, with a watch beside its Lists."""

    def __init__(self, address):
        host, port = address.split(":")
        self.socket = socket.create_connection((host, int(port)), timeout=30)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.stream = self.socket.makefile("rb")
        self.socket.sendall(PREFACE + settings(initial_window_size=1 << 20) + window_update(0, 1 << 30))
        self.next = 3
        watch = watch_message("ami-00000000000000000", 3600)
        self.socket.sendall(header_frames(1, request_block(WATCH)) + frame(DATA, END_STREAM, 1, watch))

    def list(self):
        number, self.next = self.next, self.next + 2
        self.socket.sendall(header_frames(number, request_block(LIST)) + frame(DATA, END_STREAM, number, list_message(10)))
        while True:
            head = self.stream.read(9)
            if len(head) < 9:
                raise ConnectionError("closed")
            payload = self.stream.read(int.from_bytes(head[:3], "big"))
            kind, flags, stream = head[3], head[4], int.from_bytes(head[5:9], "big")
            if kind == SETTINGS and not flags & ACK:
                self.socket.sendall(frame(SETTINGS, ACK, 0))
            elif kind == PING and not flags & ACK:
                self.socket.sendall(frame(PING, ACK, 0, payload))
            elif kind == RST_STREAM or kind == GOAWAY or stream == 1 and flags & END_STREAM and kind in (HEADERS, DATA):
                raise ConnectionError(f"frame {kind} of stream {stream}")
            elif kind == HEADERS and stream == number and flags & END_STREAM:
                # `grpc-status: 0`, whose Huffman code or plain text ends the block of a good answer.
                return len(payload) < 64


def honest(address, seconds, results):
    """Lists until the time is over. Reports latencies in milliseconds, and what was lost."""
    latencies, lost, failed = [], 0, 0
    end = time.monotonic() + seconds
    client = None
    while time.monotonic() < end:
        began = time.monotonic()
        try:
            client = client or Honest(address)
            failed += not client.list()
            latencies.append(1000 * (time.monotonic() - began))
        except OSError as error:
            print(f"  the honest client lost its connection: {error!r}", file=sys.stderr)
            lost, client = lost + 1, None
        time.sleep(PAUSE)
    results.put((latencies, lost, failed))


def attacker(kind, address, results):
    async def run():
        counts = Counts()
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        task = asyncio.create_task(KINDS[kind][1](address, counts))
        await stop.wait()
        results.put(dict(counts))
        results.close()
        results.join_thread()
        os._exit(0)

    asyncio.run(run())


def burner(share):
    """Uses a share of a core, in slices of 10 ms."""
    while True:
        end = time.monotonic() + 0.01 * share
        while time.monotonic() < end:
            pass
        time.sleep(0.01 * (1 - share) if share < 1 else 0)


def percentile(latencies, share):
    return statistics.quantiles(latencies, n=1000)[int(1000 * share) - 1] if len(latencies) > 1 else float("nan")


def measure_honest(address, seconds):
    results = multiprocessing.Queue()
    client = multiprocessing.Process(target=honest, args=(address, seconds, results))
    client.start()
    found = results.get()
    client.join()
    return found


def beside_burners(simulator, cores, seconds):
    gateway = Gateway(simulator)
    measure_honest(gateway.address, 0.5)
    burners = [multiprocessing.Process(target=burner, args=(cores / CORES,), daemon=True) for _ in range(CORES)]
    for process in burners:
        process.start()
    latencies, _, _ = measure_honest(gateway.address, seconds)
    for process in burners:
        process.terminate()
    gateway.stop()
    return latencies


def measure(kind, simulator, seconds, flags):
    gateway = Gateway(simulator, flags)
    measure_honest(gateway.address, 0.5)
    results = multiprocessing.Queue()
    process = multiprocessing.Process(target=attacker, args=(kind, gateway.address, results))
    process.start()
    pids = [gateway.pid, process.pid]
    used, began = cpu(pids), time.monotonic()
    of_gateway = cpu([gateway.pid])
    latencies, lost, failed = measure_honest(gateway.address, seconds)
    took = time.monotonic() - began
    cores, of_gateway = (cpu(pids) - used) / took, (cpu([gateway.pid]) - of_gateway) / took
    row = {"peak": gateway.peak(), "p99": percentile(latencies, 0.99), "lists": len(latencies), "lost": lost,
           "failed": failed, "cores": cores, "gateway cores": of_gateway}
    # The attack goes on.
    row["exit"], row["stopped in"] = gateway.stop()
    row["incidents"] = gateway.incidents()
    process.terminate()
    row["attacker"] = results.get(timeout=20)
    process.join()
    row["p99 beside burners"] = percentile(beside_burners(simulator, min(cores, CORES), max(10, seconds / 3)), 0.99)
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     epilog="attacks: " + ", ".join(KINDS))
    parser.add_argument("attacks", nargs="*", metavar="attack", help="default: all")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--flag", action="append", default=[], help="a flag of the gateway, such as --flag=--log=debug")
    arguments = parser.parse_args()
    unknown = set(arguments.attacks) - set(KINDS)
    if unknown:
        parser.error(f"unknown attacks: {', '.join(unknown)}")
    simulator = Simulator()
    print("| attack | peak memory | p99 | p99 beside as much CPU | connections lost | CPU of the gateway | incidents | exit |")
    print("|---|---|---|---|---|---|---|---|")
    for kind in arguments.attacks or KINDS:
        row = measure(kind, simulator, arguments.seconds, arguments.flag)
        incidents = " ".join(f"`{name}` {count:,}" for name, count in row["incidents"].items()) or "none"
        print(f"| {KINDS[kind][0]} | {row['peak']:.0f} MiB | {row['p99']:.1f} ms | {row['p99 beside burners']:.1f} ms "
              f"| {row['lost']} of {row['lists']:,} Lists | {row['gateway cores']:.2f} cores | {incidents} "
              f"| {row['exit']} after {row['stopped in']:.1f} s |", flush=True)
        print(f"  {kind}: {row}", file=sys.stderr, flush=True)
    simulator.stop()


if __name__ == "__main__":
    main()
