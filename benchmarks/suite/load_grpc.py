"""The gRPC clients of the load generator, on plain HTTP/2 frames: one connection for 32 streams."""

import asyncio
import itertools
from typing import TYPE_CHECKING, Any

import hpack

from benchmarks.suite import frames
from benchmarks.suite.job import NUMBER, Job

if TYPE_CHECKING:
    from benchmarks.suite.load import Call

_PER_CONNECTION = 32
_numbers = itertools.count(100_000)


class _Asked:
    """A call on a connection."""

    __slots__ = ("call", "done", "rest", "tail")

    def __init__(self, call: "Call", done: "asyncio.Future[None]") -> None:
        self.call = call
        self.done = done
        self.rest = b""
        self.tail = b""


class GrpcClient(asyncio.Protocol):
    """One HTTP/2 connection."""

    def __init__(self, job: Job) -> None:
        self._before, self._after = frames.grpc_message(bytes.fromhex(job.request)).split(NUMBER.encode())
        self._headers = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", job.path),
            (":authority", f"127.0.0.1:{job.port}"),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            ("user-agent", "benchmark"),
            ("grpc-accept-encoding", "identity"),
        ]
        self._encoder = hpack.Encoder()
        self._decoder = hpack.Decoder()
        self._reader = frames.FrameReader()
        self._asked: dict[int, _Asked] = {}
        self._next = 1
        self._window = frames.DEFAULT_WINDOW
        self._waiting: list[bytes] = []
        self._received = 0
        self._block = b""

    async def ask(self, call: "Call") -> None:
        """Send the request, and wait for the end of its answer."""
        done = asyncio.get_running_loop().create_future()
        if self._transport.is_closing():
            call.ended(b"", "the connection was lost")
            return
        stream, self._next = self._next, self._next + 2
        self._asked[stream] = _Asked(call, done)
        block = self._encoder.encode(self._headers)
        number = b"%06d" % (next(_numbers) % 1_000_000)
        message = number.join((self._before, self._after))
        pieces = [frames.frame(frames.HEADERS, frames.END_HEADERS, stream, block)]
        for at in range(0, len(message), frames.LARGEST_FRAME):
            part = message[at : at + frames.LARGEST_FRAME]
            flags = frames.END_STREAM if at + len(part) == len(message) else 0
            pieces.append(frames.frame(frames.DATA, flags, stream, part))
        # Only the connection's window counts, because a stream's window is larger than any request here.
        self._waiting.extend(pieces)
        self._send()
        await done

    def close(self) -> None:
        self._transport.abort()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        transport.write(
            frames.PREFACE
            + frames.settings({0x2: 0, frames.INITIAL_WINDOW_SIZE: frames.LARGEST_WINDOW})
            + frames.window_update(0, 1 << 30)
        )

    def connection_lost(self, error: Exception | None) -> None:
        for asked in self._asked.values():
            self._end(asked, f"the connection was lost: {error}")
        self._asked.clear()

    def _send(self) -> None:
        out: list[bytes] = []
        while self._waiting:
            piece = self._waiting[0]
            size = len(piece) - 9 if piece[3] == frames.DATA else 0
            if size > self._window:
                break
            self._window -= size
            out.append(self._waiting.pop(0))
        if out:
            self._transport.write(b"".join(out))

    def data_received(self, data: bytes) -> None:
        for kind, flags, stream, payload in self._reader.feed(data):
            if kind == frames.DATA:
                self._received += len(payload)
                if asked := self._asked.get(stream):
                    self._data(asked, payload)
            elif kind in (frames.HEADERS, frames.CONTINUATION):
                self._block = payload if kind == frames.HEADERS else self._block + payload
                if flags & frames.END_HEADERS:
                    headers = self._decoder.decode(self._block)
                    if (kind, flags & frames.END_STREAM) != (frames.HEADERS, 0):
                        self._trailers(stream, dict(headers))
            elif kind == frames.WINDOW_UPDATE and stream == 0:
                self._window += frames.read_increment(payload)
                self._send()
            elif kind == frames.SETTINGS and not flags & frames.ACK:
                self._transport.write(frames.frame(frames.SETTINGS, frames.ACK, 0))
            elif kind == frames.PING and not flags & frames.ACK:
                self._transport.write(frames.frame(frames.PING, frames.ACK, 0, payload))
            elif kind == frames.RST_STREAM:
                if asked := self._asked.pop(stream, None):
                    self._end(asked, f"reset: {payload.hex()}")
            elif kind == frames.GOAWAY:
                self._transport.close()
        if self._received > 1 << 26:
            self._transport.write(frames.window_update(0, self._received))
            self._received = 0

    def _data(self, asked: _Asked, payload: bytes) -> None:
        size = len(payload)
        data = asked.rest + payload
        at, messages = 0, 0
        while len(data) - at >= 5:
            end = at + 5 + int.from_bytes(data[at + 1 : at + 5], "big")
            if end > len(data):
                break
            asked.tail = data[at + 5 : end]
            at = end
            messages += 1
        asked.rest = data[at:]
        asked.call.received(size, messages, messages > 0)

    def _trailers(self, stream: int, headers: dict[Any, Any]) -> None:
        if asked := self._asked.pop(stream, None):
            status = headers.get("grpc-status")
            error = "" if status == "0" else f"status {status}: {headers.get('grpc-message')}"
            self._end(asked, error)

    @staticmethod
    def _end(asked: _Asked, error: str = "") -> None:
        if not asked.done.done():
            asked.call.ended(asked.tail, error)
            asked.done.set_result(None)


async def open_grpc(job: Job) -> list[GrpcClient]:
    """A client for each stream of the job. Up to 32 streams have the same client."""
    loop = asyncio.get_running_loop()
    connections = []
    for _ in range(0, job.streams, _PER_CONNECTION):
        _, client = await loop.create_connection(lambda: GrpcClient(job), "127.0.0.1", job.port)
        connections.append(client)
    return [connections[number // _PER_CONNECTION] for number in range(job.streams)]
