"""Just enough HTTP/2 to break its rules: frames, header blocks, and a connection that does what it is told."""

import asyncio
import struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 2, 3, 4, 6, 7, 8, 9
END_STREAM, ACK, END_HEADERS = 1, 1, 4
INITIAL_WINDOW_SIZE, CANCEL = 4, 8
# The largest payload that a server must take.
MAX_FRAME = 16_384

SERVICE = "/amistore.v1.StoreImageTaskService/"
LIST, WATCH = SERVICE + "ListStoreImageTasks", SERVICE + "WatchStoreImageTask"
REFLECTION = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
HEALTH_CHECK, HEALTH_WATCH = "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def integer(value, bits, first=0):
    """An integer of HPACK in a byte's lowest bits, and further bytes if it needs them (RFC 7541, 5.1)."""
    limit = (1 << bits) - 1
    if value < limit:
        return bytes([first | value])
    encoded = bytearray([first | limit])
    value -= limit
    while value >= 128:
        encoded.append(value % 128 + 128)
        value //= 128
    encoded.append(value)
    return bytes(encoded)


def text(value):
    return integer(len(value), 7) + value


def header(name, value):
    """A header, as a literal without indexing."""
    return b"\x00" + text(name.encode()) + text(value if isinstance(value, bytes) else value.encode())


def request_block(path, *more):
    """The headers of a gRPC request: POST and http stand in HPACK's static table."""
    block = b"\x83\x86" + b"\x04" + text(path.encode()) + b"\x01" + text(b"gateway")
    return block + header("content-type", "application/grpc") + header("te", "trailers") + b"".join(more)


def header_frames(stream, block, flags=0):
    """HEADERS and as many CONTINUATIONs as the block needs."""
    parts = [block[at:at + MAX_FRAME] for at in range(0, len(block), MAX_FRAME)]
    frames = b""
    for number, part in enumerate(parts):
        last = END_HEADERS if number == len(parts) - 1 else 0
        frames += frame(CONTINUATION if number else HEADERS, last | (0 if number else flags), stream, part)
    return frames


def message(payload=b"", announced=None):
    """A message of gRPC. `announced` is the length that its prefix claims."""
    return struct.pack(">BI", 0, len(payload) if announced is None else announced) + payload


def varint(value):
    encoded = bytearray()
    while value >= 128:
        encoded.append(value % 128 + 128)
        value //= 128
    return bytes(encoded + bytes([value]))


def list_message(page_size):
    """A ListStoreImageTasksRequest."""
    return message(b"\x30" + varint(page_size))


def watch_message(image, wait_seconds):
    """A WatchStoreImageTaskRequest that waits for the image's task."""
    wait = b"\x08" + varint(wait_seconds)
    return message(b"\x1a" + varint(len(image)) + image.encode() + b"\x5a" + varint(len(wait)) + wait)


def settings(**values):
    ids = {"initial_window_size": INITIAL_WINDOW_SIZE}
    return frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", ids[name], value) for name, value in values.items()))


def window_update(stream, bytes_):
    return frame(WINDOW_UPDATE, 0, stream, struct.pack(">I", bytes_))


class Peer:
    """A connection that obeys the gateway's flow control, and gives the gateway a window of its own choice."""

    @classmethod
    async def connect(cls, address, window=65_535):
        peer = cls()
        host, port = address.split(":")
        peer.reader, peer.writer = await asyncio.open_connection(host, int(port))
        peer.room, peer.initial_room = 65_535, 65_535
        peer.rooms, peer.changed, peer.next = {}, asyncio.Event(), 1
        peer.closed, peer.ended, peer.reset = False, set(), set()
        peer.send(PREFACE + settings(initial_window_size=window) + window_update(0, (1 << 30)))
        peer.task = asyncio.create_task(peer.run())
        return peer

    def send(self, data):
        if not self.closed:
            self.writer.write(data)

    def open(self, path, *more, body=None):
        """Begins a call, and ends its request if there is a body. Returns the stream."""
        stream, self.next = self.next, self.next + 2
        self.rooms[stream] = self.initial_room
        self.send(header_frames(stream, request_block(path, *more)))
        if body is not None:
            self.send(frame(DATA, END_STREAM, stream, body))
        return stream

    async def upload(self, stream, data):
        """Sends a body, as the gateway has room for it. The stream stays open."""
        at = 0
        while at < len(data) and not self.closed and stream not in self.reset and stream not in self.ended:
            size = min(MAX_FRAME, len(data) - at, self.room, self.rooms[stream])
            if size > 0:
                self.send(frame(DATA, 0, stream, data[at:at + size]))
                self.room -= size
                self.rooms[stream] -= size
                at += size
                continue
            self.changed.clear()
            await self.changed.wait()
        return at == len(data)

    def close(self):
        self.closed = True
        self.writer.transport.abort()
        self.changed.set()

    async def run(self):
        try:
            while True:
                head = await self.reader.readexactly(9)
                payload = await self.reader.readexactly(int.from_bytes(head[:3], "big"))
                self.take(head[3], head[4], int.from_bytes(head[5:9], "big"), payload)
        except (asyncio.IncompleteReadError, OSError):
            self.close()

    def take(self, kind, flags, stream, payload):
        if kind == SETTINGS and not flags & ACK:
            for at in range(0, len(payload), 6):
                name, value = struct.unpack_from(">HI", payload, at)
                if name == INITIAL_WINDOW_SIZE:
                    for open_stream in self.rooms:
                        self.rooms[open_stream] += value - self.initial_room
                    self.initial_room = value
            self.send(frame(SETTINGS, ACK, 0))
        elif kind == PING and not flags & ACK:
            self.send(frame(PING, ACK, 0, payload))
        elif kind == WINDOW_UPDATE:
            more = struct.unpack(">I", payload)[0]
            if stream:
                self.rooms[stream] = self.rooms.get(stream, 0) + more
            else:
                self.room += more
        elif kind == RST_STREAM:
            self.reset.add(stream)
        elif kind in (HEADERS, DATA) and flags & END_STREAM:
            self.ended.add(stream)
        self.changed.set()
