"""A scripted HTTP/2 server for tests of the client: it says frames, and waits for those of the client."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import grpc
import pytest
from hpack import Decoder

from inferd.services.net.http2.channel import Channel
from inferd.services.net.http2.client_call import CallFailed, ClientCall, MessageReceiver
from inferd.services.net.http2.frames import (
    ACK,
    DATA,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PING,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    frame_bytes,
)
from inferd.services.net.http2.framing import frame
from inferd.services.net.http2.header_block import header_block
from tests.support.raw_http2 import PATIENCE

END_HEADERS, PADDED, PRIORITY = 4, 8, 32
TABLE_SIZE, MAX_STREAMS, INITIAL_WINDOW, MAX_FRAME = 1, 3, 4, 5
Code = grpc.StatusCode


def within(awaitable):
    return asyncio.wait_for(awaitable, PATIENCE)


async def until(found: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not found():
            await asyncio.sleep(0.005)


async def drained(call: ClientCall) -> list[bytes]:
    """All that a call still has to say."""
    messages: list[bytes] = []
    while read := await within(call.read()):
        messages += read
    return messages


class Receiver(MessageReceiver):
    """Calls `receive` with each message; messages that had to wait are counted."""

    def __init__(self, receive: Callable[[bytes], bool]) -> None:
        self._receive = receive
        self.waited = 0

    def receive(self, message: bytes) -> bool:
        return self._receive(message)

    def receive_all(self, messages: Sequence[bytes]) -> bool:
        self.waited += len(messages)
        return all(self._receive(message) for message in messages)


async def fails(awaitable: Awaitable[object]) -> CallFailed:
    with pytest.raises(CallFailed) as caught:
        await within(awaitable)
    return caught.value


def headers(stream: int, *pairs: tuple[bytes, bytes], flags: int = END_HEADERS) -> bytes:
    return frame_bytes(HEADERS, flags, stream, header_block(pairs))


def head(stream: int = 1) -> bytes:
    return headers(stream, (b":status", b"200"), (b"content-type", b"application/grpc"))


def data(content: bytes, stream: int = 1, flags: int = 0) -> bytes:
    return frame_bytes(DATA, flags, stream, content)


def trailers(stream: int = 1, status: bytes = b"0", *more: tuple[bytes, bytes]) -> bytes:
    return headers(stream, (b"grpc-status", status), *more, flags=END_HEADERS | END_STREAM)


def padded(content: bytes, size: int) -> bytes:
    return bytes([size]) + content + bytes(size)


def setting(*pairs: tuple[int, int]) -> bytes:
    payload = b"".join(name.to_bytes(2, "big") + value.to_bytes(4, "big") for name, value in pairs)
    return frame_bytes(SETTINGS, 0, 0, payload)


def window_update(stream: int, size: int) -> bytes:
    return frame_bytes(WINDOW_UPDATE, 0, stream, size.to_bytes(4, "big"))


def goaway(last: int) -> bytes:
    return frame_bytes(GOAWAY, 0, 0, last.to_bytes(4, "big") + bytes(4))


def reset(code: int, stream: int = 1) -> bytes:
    return frame_bytes(RST_STREAM, 0, stream, code.to_bytes(4, "big"))


Frame = tuple[int, int, int, bytes]


class Peer:
    """The server's side of one connection. `seen` are the frames that came."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.seen: list[Frame] = []
        self._passed: list[Frame] = []
        self._decoder = Decoder()

    async def greet(self, *settings: tuple[int, int]) -> None:
        assert await self.reader.readexactly(24) == b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        kind, flags, _, _ = await self.frame()
        assert (kind, flags) == (SETTINGS, 0)
        self.say(setting(*settings))
        await self.until(SETTINGS, flags=ACK)

    def say(self, *frames: bytes) -> None:
        self.writer.write(b"".join(frames))

    async def frame(self) -> Frame:
        head = await self.reader.readexactly(9)
        payload = await self.reader.readexactly(int.from_bytes(head[:3], "big"))
        self.seen.append((head[3], head[4], int.from_bytes(head[5:], "big"), payload))
        return self.seen[-1]

    async def until(self, kind: int, *, stream: int | None = None, flags: int = 0) -> Frame:
        """The next frame of a kind; others are kept for later."""

        def fits(found: Frame) -> bool:
            return found[0] == kind and found[1] & flags == flags and stream in (None, found[2])

        for index, passed in enumerate(self._passed):
            if fits(passed):
                return self._passed.pop(index)
        async with asyncio.timeout(PATIENCE):
            while not fits(found := await self.frame()):
                self._passed.append(found)
            return found

    async def request(self) -> tuple[int, dict[bytes, bytes], bytes]:
        """The next request, complete: its stream, its headers, its bytes."""
        _, _, stream, block = await self.until(HEADERS, flags=END_HEADERS)
        fields = dict(self._decoder.decode(block, raw=True))
        body = b""
        while True:
            _, flags, at, payload = await self.until(DATA)
            if at == stream:
                body += payload
                if flags & END_STREAM:
                    return stream, fields, body

    async def synced(self) -> None:
        """Until the client has read all that was said."""
        self.say(frame_bytes(PING, 0, 0, b"synced\0\0"))
        await self.until(PING, flags=ACK)

    async def closed(self) -> None:
        """Until the client has closed the connection."""
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            async with asyncio.timeout(PATIENCE):
                while True:
                    await self.frame()


Talk = Callable[[Peer], Awaitable[None]]


@contextlib.asynccontextmanager
async def talking(talk: Talk, **settings) -> AsyncIterator[Channel]:
    """A channel to a server that does this on each connection, which is closed after it. Its errors count."""
    talks: list[asyncio.Task[None]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talks.append(asyncio.current_task())
        writer.transport.set_write_buffer_limits(0)
        try:
            await talk(Peer(reader, writer))
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    channel = Channel(f"127.0.0.1:{server.sockets[0].getsockname()[1]}", **settings)
    try:
        yield channel
    finally:
        await channel.close()
        server.close()
        if talks:
            await within(asyncio.wait(talks))
    for done in talks:
        done.result()


def answering(*answers: bytes, pause: bool = False, settings: tuple[tuple[int, int], ...] = ()) -> Talk:
    """Answer the first request with these bytes, in so many writes."""

    async def talk(peer: Peer) -> None:
        await peer.greet(*settings)
        await peer.request()
        for answer in answers:
            peer.say(answer)
            await peer.writer.drain()
            if pause:
                # The client's turn to read.
                await asyncio.sleep(0)
        await peer.closed()

    return talk


async def ask(talk: Talk, **settings) -> list[bytes]:
    """The messages of one call."""
    async with talking(talk, **settings) as channel:
        return await drained(await channel.start("/t.T/Any", b""))


async def ask_in_vain(talk: Talk, **settings) -> CallFailed:
    async with talking(talk, **settings) as channel:
        return await fails(drained(await channel.start("/t.T/Any", b"")))


MESSAGES = [b"one", b"", b"three", bytes(300)]
BODY = b"".join(map(frame, MESSAGES))
ANSWER = head() + data(BODY) + trailers()
