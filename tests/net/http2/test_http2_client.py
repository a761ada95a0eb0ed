"""The gRPC client by itself: against grpcio, and against raw frames for what that does not do."""

import asyncio
import contextlib
import itertools
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import grpc
import pytest
from h2.errors import ErrorCodes
from hpack import Decoder, Encoder
from hypothesis import given, settings
from hypothesis import strategies as st

from inferd.services.net.flow import Flow
from inferd.services.net.http2 import connection as http2_connection
from inferd.services.net.http2.channel import CALLS_PER_CONNECTION, Channel
from inferd.services.net.http2.client_call import CallFailed, ClientCall, MessageReceiver
from inferd.services.net.http2.client_connection import CONNECTION_WINDOW, STREAM_WINDOW, ClientConnection
from inferd.services.net.http2.frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PING,
    PUSH_PROMISE,
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


# Against grpcio


class Service:
    """The methods of grpcio's server, and what became of their calls."""

    def __init__(self) -> None:
        self.peers: list[str] = []
        self.metadata: dict[str, str | bytes] = {}
        self.remaining: float | None = None
        self.running = 0
        self.cancelled = 0
        self.go_on = asyncio.Event()

    @contextlib.contextmanager
    def _running(self):
        self.running += 1
        try:
            yield
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1

    async def echo(self, request: bytes, context) -> bytes:
        self.metadata = dict(context.invocation_metadata())
        self.remaining = context.time_remaining()
        return request

    async def count(self, request: bytes, context) -> AsyncIterator[bytes]:
        for number in range(int(request)):
            yield b"%d" % number

    async def large(self, request: bytes, context) -> AsyncIterator[bytes]:
        for size in request.split():
            yield bytes(range(256)) * (int(size) // 256)

    async def wait(self, request: bytes, context) -> AsyncIterator[bytes]:
        with self._running():
            self.peers.append(context.peer())
            yield b"begun"
            await self.go_on.wait()
            yield b"done"

    async def refuse(self, request: bytes, context) -> AsyncIterator[bytes]:
        yield b"one"
        context.set_trailing_metadata((("x-why", "because"), ("x-detail-bin", b"\0\xff")))
        await context.abort(Code.FAILED_PRECONDITION, "nein: 100 % €\n")

    def handler(self) -> grpc.GenericRpcHandler:
        stream = grpc.unary_stream_rpc_method_handler
        methods = {
            "Echo": grpc.unary_unary_rpc_method_handler(self.echo),
            "Count": stream(self.count),
            "Large": stream(self.large),
            "Wait": stream(self.wait),
            "Refuse": stream(self.refuse),
        }
        return grpc.method_handlers_generic_handler("t.T", methods)


async def grpcio_server(service: Service, port: int = 0) -> tuple[grpc.aio.Server, int]:
    limits = [(f"grpc.max_{way}_message_length", 64 << 20) for way in ("send", "receive")]
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0), *limits])
    server.add_generic_rpc_handlers((service.handler(),))
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    return server, port


@pytest.fixture
async def service() -> Service:
    return Service()


@pytest.fixture
async def grpcio(service) -> AsyncIterator[tuple[grpc.aio.Server, int]]:
    server, port = await grpcio_server(service)
    yield server, port
    service.go_on.set()
    await server.stop(None)


@pytest.fixture
async def channel(grpcio) -> AsyncIterator[Channel]:
    channel = Channel(f"127.0.0.1:{grpcio[1]}")
    yield channel
    await channel.close()


async def test_one_response_and_many(channel, service):
    assert await channel.unary("/t.T/Echo", b"hello", seconds=PATIENCE) == b"hello"
    assert await channel.unary("/t.T/Echo", b"", seconds=PATIENCE) == b""
    assert service.metadata["user-agent"] == "inferd"
    assert 0 < service.remaining <= PATIENCE
    for count in (0, 1, 5000):
        call = await channel.start("/t.T/Count", b"%d" % count)
        assert await drained(call) == [b"%d" % number for number in range(count)]
        # Its end stays its end.
        assert await call.read() == []
        call.cancel()


@pytest.mark.parametrize("size", [16379, 16380, 65530, 65531, 5 << 20])
async def test_large_requests_and_responses(channel, size):
    data = (bytes(range(256)) * (size // 256 + 1))[:size]
    assert await channel.unary("/t.T/Echo", data, seconds=PATIENCE) == data


async def test_large_messages_of_a_stream(channel):
    sizes = [256, 3 << 20, 512, STREAM_WINDOW, 1 << 20, 0]
    call = await channel.start("/t.T/Large", b" ".join(b"%d" % size for size in sizes))
    assert await drained(call) == [bytes(range(256)) * (size // 256) for size in sizes]


async def test_more_than_a_connections_window_goes_through_it(channel):
    sizes = [1 << 20] * (2 * CONNECTION_WINDOW >> 20)
    call = await channel.start("/t.T/Large", b" ".join(b"%d" % size for size in sizes))
    assert [len(message) for message in await drained(call)] == sizes


async def test_large_messages_of_many_calls_at_once(channel):
    data = [bytes([number]) * (700_000 + number) for number in range(20)]
    answers = [channel.unary("/t.T/Echo", part, seconds=PATIENCE) for part in data]
    assert await asyncio.gather(*answers) == data


async def test_an_error_has_its_details_and_trailers(channel):
    call = await channel.start("/t.T/Refuse", b"")
    assert await within(call.read()) == [b"one"]
    error = await fails(call.read())
    assert error.code is Code.FAILED_PRECONDITION
    assert error.details == "nein: 100 % €\n"
    assert {("x-why", "because"), ("x-detail-bin", b"\0\xff")} <= set(error.trailers)
    # It stays so.
    assert (await fails(call.read())).code is Code.FAILED_PRECONDITION

    error = await fails(channel.unary("/t.T/Nothing", b"", seconds=PATIENCE))
    assert error.code is Code.UNIMPLEMENTED


async def test_a_unary_call_has_one_response(channel):
    for count in (0, 2):
        error = await fails(channel.unary("/t.T/Count", b"%d" % count, seconds=PATIENCE))
        assert error.code is Code.INTERNAL


async def test_deadlines(channel, service):
    error = await fails(channel.unary("/t.T/Wait", b"", seconds=0.2))
    assert error.code is Code.DEADLINE_EXCEEDED
    # The server's own clock ends this one.
    call = await channel.start("/t.T/Wait", b"", seconds=0.2)
    error = await fails(drained(call))
    assert error.code in (Code.DEADLINE_EXCEEDED, Code.CANCELLED)
    await until(lambda: service.cancelled == 2)


async def test_cancellation_reaches_the_server(channel, service):
    calls = [await channel.start("/t.T/Wait", b"") for _ in range(3)]
    for call in calls:
        assert await within(call.read()) == [b"begun"]
    calls[0].cancel()
    calls[0].cancel()
    assert (await fails(calls[0].read())).code is Code.CANCELLED
    reading = asyncio.create_task(calls[1].read())
    await asyncio.sleep(0)
    calls[1].cancel()
    assert (await fails(reading)).code is Code.CANCELLED
    await until(lambda: service.cancelled == 2)
    service.go_on.set()
    assert await drained(calls[2]) == [b"done"]
    assert service.cancelled == 2


async def test_a_wait_that_is_given_up_loses_nothing(channel, service):
    call = await channel.start("/t.T/Wait", b"")
    assert await within(call.read()) == [b"begun"]
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(call.read(), 0.01)
    service.go_on.set()
    assert await drained(call) == [b"done"]


async def test_many_calls_spread_over_connections(channel, service):
    count = 2 * CALLS_PER_CONNECTION + 50
    calls = await within(asyncio.gather(*(channel.start("/t.T/Wait", b"") for _ in range(count))))
    await until(lambda: service.running == count)
    assert len(set(service.peers)) == 3
    service.go_on.set()
    for call in calls:
        assert await drained(call) == [b"begun", b"done"]
    # There is room again where there was.
    for _ in range(5):
        await drained(await channel.start("/t.T/Wait", b""))
    assert len(set(service.peers)) == 3


async def test_calls_end_well_on_a_server_that_stops(channel, service, grpcio):
    server, _ = grpcio
    calls = [await channel.start("/t.T/Wait", b"") for _ in range(3)]
    for call in calls:
        assert await within(call.read()) == [b"begun"]
    stopping = asyncio.create_task(server.stop(PATIENCE))
    # Until it takes no more: a call that crosses with the GOAWAY may still be served, or fail.
    async with asyncio.timeout(PATIENCE):
        with contextlib.suppress(CallFailed):
            while True:
                await channel.unary("/t.T/Echo", b"", seconds=PATIENCE)
    service.go_on.set()
    for call in calls:
        assert await drained(call) == [b"done"]
    await within(stopping)


async def test_a_server_that_was_restarted_is_found_again(channel, service, grpcio):
    server, port = grpcio
    waiting = await channel.start("/t.T/Wait", b"")
    assert await within(waiting.read()) == [b"begun"]
    await server.stop(None)
    assert (await fails(waiting.read())).code in (Code.UNAVAILABLE, Code.CANCELLED)
    # Nobody is there.
    await until(lambda: all(connection.is_lost for connection in channel._connections))
    assert (await fails(channel.unary("/t.T/Echo", b"", seconds=PATIENCE))).code is Code.UNAVAILABLE
    server, _ = await grpcio_server(service, port)
    try:
        assert await channel.unary("/t.T/Echo", b"again", seconds=PATIENCE) == b"again"
    finally:
        await server.stop(None)


async def test_a_refused_connection_is_unavailable():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        channel = Channel(f"127.0.0.1:{taken.getsockname()[1]}")
        errors = [fails(channel.start("/t.T/Echo", b"")) for _ in range(3)]
        assert {error.code for error in await asyncio.gather(*errors)} == {Code.UNAVAILABLE}
        await channel.close()


async def test_closing_a_channel_ends_its_calls(channel):
    call = await channel.start("/t.T/Wait", b"")
    assert await within(call.read()) == [b"begun"]
    await channel.close()
    assert (await fails(call.read())).code is Code.UNAVAILABLE
    assert (await fails(channel.start("/t.T/Echo", b""))).code is Code.UNAVAILABLE


# Against raw frames


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


async def test_what_a_request_looks_like():
    async def talk(peer: Peer) -> None:
        await peer.greet()
        stream, fields, body = await peer.request()
        assert (stream, body) == (1, frame(b"ask"))
        assert fields[b":path"] == b"/t.T/Any"
        assert fields[b":method"] == b"POST" and fields[b"te"] == b"trailers"
        assert fields[b"grpc-timeout"] == b"1500m"
        peer.say(head(), data(frame(b"x")), trailers())
        stream, fields, _ = await peer.request()
        assert stream == 3 and b"grpc-timeout" not in fields
        peer.say(head(3), data(frame(b"y"), 3), trailers(3))
        await peer.closed()

    async with talking(talk) as channel:
        assert await drained(await channel.start("/t.T/Any", b"ask", seconds=1.5)) == [b"x"]
        assert await drained(await channel.start("/t.T/Any", b"ask")) == [b"y"]


async def test_bytes_one_by_one():
    assert await ask(answering(*(bytes([byte]) for byte in ANSWER), pause=True)) == MESSAGES


async def test_frames_cut_at_every_byte():
    for cut in range(1, len(ANSWER), 7):
        assert await ask(answering(ANSWER[:cut], ANSWER[cut:], pause=True)) == MESSAGES


@pytest.mark.parametrize("size", [1, 2, 5, 6, 100])
async def test_messages_cut_over_frames(size):
    parts = [data(BODY[start : start + size]) for start in range(0, len(BODY), size)]
    assert await ask(answering(head(), *parts, trailers())) == MESSAGES
    assert await ask(answering(head() + b"".join(parts) + trailers())) == MESSAGES


async def test_a_part_of_a_message_that_looks_like_one():
    content = frame(b"inner")
    outer = frame(content)
    answer = [head(), data(outer[:5]), data(outer[5:]), data(frame(b"")), trailers()]
    assert await ask(answering(b"".join(answer))) == [content, b""]


async def test_padding_empty_frames_and_frames_of_unknown_kinds():
    inner = header_block([(b"grpc-status", b"0")])
    answer = [
        frame_bytes(
            HEADERS,
            END_HEADERS | PADDED | PRIORITY,
            1,
            padded(bytes(5) + header_block([(b":status", b"200")]), 9),
        ),
        data(b""),
        data(padded(frame(b"one"), 0), flags=PADDED),
        data(padded(b"", 17), flags=PADDED),
        frame_bytes(0xBE, 0xFF, 1, b"what is this"),
        data(padded(frame(b"two"), 255), flags=PADDED),
        frame_bytes(2, 0, 1, bytes(5)),
        frame_bytes(HEADERS, END_HEADERS | END_STREAM | PADDED, 1, padded(inner, 3)),
    ]
    assert await ask(answering(b"".join(answer))) == [b"one", b"two"]


@pytest.mark.parametrize("content", [b"", b"\6abcde", b"\xff"])
async def test_padding_that_is_longer_than_its_frame(content):
    error = await ask_in_vain(answering(head(), data(content, flags=PADDED)))
    assert error.code is Code.UNAVAILABLE


async def test_padding_counts_in_the_window():
    count = 4 * STREAM_WINDOW // 256

    async def talk(peer: Peer) -> None:
        await peer.greet()
        await peer.request()
        peer.say(head())
        window = STREAM_WINDOW
        for _ in range(count):
            while window < 256:
                _, _, _, payload = await peer.until(WINDOW_UPDATE, stream=1)
                window += int.from_bytes(payload, "big")
            peer.say(data(padded(frame(b""), 250), flags=PADDED))
            await peer.writer.drain()
            window -= 256
        peer.say(trailers())
        await peer.closed()

    assert await ask(talk) == [b""] * count


async def test_an_end_without_trailers():
    error = await ask_in_vain(answering(head() + data(frame(b"one"), flags=END_STREAM)))
    assert error.code is Code.UNKNOWN
    async with talking(answering(head() + data(frame(b"one"), flags=END_STREAM))) as channel:
        call = await channel.start("/t.T/Any", b"")
        # What came is read first.
        assert await within(call.read()) == [b"one"]
        await fails(call.read())


async def test_trailers_only():
    pairs = ((b":status", b"200"), (b"content-type", b"application/grpc"), (b"grpc-status", b"5"))
    answer = headers(1, *pairs, (b"grpc-message", b"no%20such%0A"), flags=END_HEADERS | END_STREAM)
    error = await ask_in_vain(answering(answer))
    assert (error.code, error.details) == (Code.NOT_FOUND, "no such\n")
    answer = headers(1, *pairs[:2], (b"grpc-status", b"0"), flags=END_HEADERS | END_STREAM)
    assert await ask(answering(answer)) == []


@pytest.mark.parametrize("status", [b"", b"17", b"99999", b"-1", b"x"])
async def test_a_status_that_nobody_knows(status):
    assert (await ask_in_vain(answering(head(), trailers(1, status)))).code is Code.UNKNOWN


async def test_trailers_that_cannot_be_read_do_not_hide_the_status():
    error = await ask_in_vain(
        answering(head(), trailers(1, b"8", (b"x-bin", b"!!"), (b"grpc-message", b"%zz")))
    )
    assert (error.code, error.details, error.trailers) == (Code.RESOURCE_EXHAUSTED, "%zz", [])


@pytest.mark.parametrize("size", [1, 7, 10_000])
async def test_headers_over_continuations(size):
    pairs = [(b"grpc-status", b"9"), (b"grpc-message", b"long " * 6000), (b"x-more", b"a" * 999)]
    if size < 100:
        pairs = [(b"grpc-status", b"9"), (b"grpc-message", b"long")]
    block = header_block(pairs)
    first, *rest = (block[start : start + size] for start in range(0, len(block), size))
    answer = [frame_bytes(HEADERS, END_STREAM, 1, first)]
    for index, part in enumerate(rest, 1):
        answer.append(frame_bytes(CONTINUATION, END_HEADERS if index == len(rest) else 0, 1, part))
    error = await ask_in_vain(answering(head(), *answer))
    assert error.code is Code.FAILED_PRECONDITION
    assert error.details == dict(pairs)[b"grpc-message"].decode()


async def test_headers_from_a_table():
    """The server's table of headers grows with the connection's calls."""
    encoder = Encoder()

    async def talk(peer: Peer) -> None:
        await peer.greet()
        for number in range(5):
            stream, _, _ = await peer.request()
            first = [(":status", "200"), ("content-type", "application/grpc"), ("x-a", "b" * 50)]
            last = [("grpc-status", "3"), ("grpc-message", f"call {number % 2}")]
            peer.say(frame_bytes(HEADERS, END_HEADERS, stream, encoder.encode(first)))
            peer.say(frame_bytes(HEADERS, END_HEADERS | END_STREAM, stream, encoder.encode(last)))
        await peer.closed()

    async with talking(talk) as channel:
        for number in range(5):
            error = await fails(drained(await channel.start("/t.T/Any", b"")))
            assert error.details == f"call {number % 2}"


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        bytes(range(255, 0, -1)),
        frame_bytes(HEADERS, END_HEADERS, 1, b"\xff\xff\xff\xff\xff\xff\xff\xff"),
        frame_bytes(CONTINUATION, END_HEADERS, 1, b""),
        frame_bytes(HEADERS, 0, 1, b"") + frame_bytes(HEADERS, END_HEADERS, 1, b""),
        frame_bytes(HEADERS, 0, 1, b"") + frame_bytes(CONTINUATION, END_HEADERS, 3, b""),
        frame_bytes(HEADERS, 0, 1, b"") + frame_bytes(CONTINUATION, 0, 1, b"") * 1000,
        frame_bytes(PUSH_PROMISE, END_HEADERS, 1, bytes(4)),
        frame_bytes(SETTINGS, 0, 0, bytes(5)),
        setting((MAX_FRAME, 100)),
        setting((MAX_FRAME, 1 << 24)),
        setting((INITIAL_WINDOW, 1 << 31)),
        window_update(0, 2**31 - 1),
        window_update(1, 2**31 - 1) * 2,
        data(bytes(16385)),
    ],
)
async def test_what_is_no_http2_ends_the_connection(answer):
    async with talking(answering(answer)) as channel:
        call = await channel.start("/t.T/Any", b"")
        other = await channel.start("/t.T/Any", b"")
        for failed in (call, other):
            assert (await fails(drained(failed))).code is Code.UNAVAILABLE


async def test_headers_over_the_limit():
    long = headers(1, (b"x-long", b"a" * 9000))
    assert (await ask_in_vain(answering(long), max_header_bytes=8192)).code is Code.UNAVAILABLE


async def test_headers_before_the_headers():
    early = headers(1, (b":status", b"103"), (b"link", b"x"))
    assert await ask(answering(early + early + ANSWER)) == MESSAGES


async def test_frames_of_streams_that_are_over_or_were_never():
    strays = [
        data(b"stray", 99),
        window_update(99, 5),
        reset(2, 99),
        trailers(99),
        data(padded(b"", 3), 7, PADDED),
    ]
    assert await ask(answering(b"".join(strays) + ANSWER)) == MESSAGES


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (ErrorCodes.NO_ERROR, Code.INTERNAL),
        (ErrorCodes.PROTOCOL_ERROR, Code.INTERNAL),
        (ErrorCodes.REFUSED_STREAM, Code.UNAVAILABLE),
        (ErrorCodes.CANCEL, Code.CANCELLED),
        (ErrorCodes.ENHANCE_YOUR_CALM, Code.RESOURCE_EXHAUSTED),
        (ErrorCodes.INADEQUATE_SECURITY, Code.PERMISSION_DENIED),
        (12345, Code.INTERNAL),
    ],
)
async def test_a_reset_stream(code, expected):
    async with talking(answering(head() + data(frame(b"one")) + reset(code))) as channel:
        call = await channel.start("/t.T/Any", b"")
        assert await within(call.read()) == [b"one"]
        assert (await fails(call.read())).code is expected


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (b"503", Code.UNAVAILABLE),
        (b"429", Code.UNAVAILABLE),
        (b"404", Code.UNIMPLEMENTED),
        (b"401", Code.UNAUTHENTICATED),
        (b"418", Code.UNKNOWN),
        (b"200", Code.UNKNOWN),
    ],
)
async def test_an_answer_that_is_not_grpcs(status, expected):
    pairs = ((b":status", status), (b"content-type", b"text/html"))
    bare = headers(1, *pairs, flags=END_HEADERS | END_STREAM)
    assert (await ask_in_vain(answering(bare))).code is expected
    if status != b"200":
        with_body = headers(1, *pairs) + data(b"<html>no</html>") + data(b"", flags=END_STREAM)
        assert (await ask_in_vain(answering(with_body))).code is expected


async def test_compressed_messages_were_not_asked_for():
    for answer in (data(frame(b"x", compressed=True)), data(b"\1\0\0") + data(b"\0\1x")):
        assert (await ask_in_vain(answering(head() + answer + trailers()))).code is Code.INTERNAL
    assert (await ask_in_vain(answering(head() + data(b"\2\0\0\0\1x")))).code is Code.INTERNAL


async def test_a_message_over_the_limit():
    limit = 100_000
    async with talking(
        answering(head() + data(b"\0" + (limit + 1).to_bytes(4, "big"))), max_message_bytes=limit
    ) as channel:
        error = await fails(drained(await channel.start("/t.T/Any", b"")))
    assert error.code is Code.RESOURCE_EXHAUSTED and str(limit) in error.details
    parts = [frame(bytes(limit))[start : start + 16384] for start in range(0, limit + 5, 16384)]
    answer = [head(), *map(data, parts), trailers()]
    assert await ask(answering(*answer), max_message_bytes=limit) == [bytes(limit)]


async def test_a_last_message_that_is_incomplete():
    error = await ask_in_vain(answering(head() + data(BODY[:-1]) + trailers()))
    assert error.code is Code.INTERNAL


@pytest.mark.parametrize("length", [3, 9, 30, len(ANSWER) - 1])
async def test_a_connection_that_is_lost_midway(length):
    async def talk(peer: Peer) -> None:
        await peer.greet()
        await peer.request()
        peer.say(ANSWER[:length])

    assert (await ask_in_vain(talk)).code is Code.UNAVAILABLE


async def test_pings_are_answered():
    async def talk(peer: Peer) -> None:
        await peer.greet()
        await peer.request()
        peer.say(frame_bytes(PING, 0, 0, b"01234567"))
        assert (await peer.until(PING))[1:] == (ACK, 0, b"01234567")
        peer.say(ANSWER)
        await peer.closed()

    assert await ask(talk) == MESSAGES


async def test_a_server_that_answers_pings_may_be_silent(monkeypatch):
    monkeypatch.setattr(http2_connection, "PING_TIMEOUT", 1.0)

    async def talk(peer: Peer) -> None:
        await peer.greet()
        await peer.request()
        for _ in range(2):
            _, flags, _, payload = await peer.until(PING)
            assert flags == 0
            peer.say(frame_bytes(PING, ACK, 0, payload))
        peer.say(ANSWER)
        await peer.closed()

    assert await ask(talk, quiet_seconds=0.05) == MESSAGES


async def test_a_server_that_answers_no_ping_is_gone(monkeypatch):
    monkeypatch.setattr(http2_connection, "PING_TIMEOUT", 0.05)
    error = await ask_in_vain(answering(head()), quiet_seconds=0.05)
    assert error.code is Code.UNAVAILABLE


async def test_a_goaway_refuses_later_calls():
    begun = asyncio.Event()
    connections = itertools.count()

    async def talk(peer: Peer) -> None:
        await peer.greet()
        if next(connections):
            await peer.request()
            peer.say(ANSWER)
            await peer.closed()
            return
        for _ in range(3):
            await peer.request()
        peer.say(head(), data(frame(b"one")), goaway(3))
        await begun.wait()
        peer.say(data(frame(b"two")), trailers(), head(3), trailers(3, b"5"))
        await peer.closed()

    async with talking(talk) as channel:
        calls = [await channel.start("/t.T/Any", b"") for _ in range(3)]
        assert (await fails(calls[2].read())).code is Code.UNAVAILABLE
        assert await within(calls[0].read()) == [b"one"]
        # Another connection takes what comes now.
        assert await drained(await channel.start("/t.T/Any", b"")) == MESSAGES
        begun.set()
        assert await drained(calls[0]) == [b"two"]
        assert (await fails(calls[1].read())).code is Code.NOT_FOUND


async def test_a_goaway_to_an_idle_connection_closes_it():
    connections = itertools.count()

    async def talk(peer: Peer) -> None:
        next(connections)
        await peer.greet()
        await peer.request()
        peer.say(ANSWER, goaway(1))
        await peer.closed()

    async with talking(talk) as channel:
        for _ in range(3):
            assert await drained(await channel.start("/t.T/Any", b"")) == MESSAGES
    assert next(connections) == 3


async def test_a_server_may_limit_the_calls_of_a_connection():
    open_calls: list[int] = []
    go_on = asyncio.Event()

    async def talk(peer: Peer) -> None:
        number = len(open_calls)
        open_calls.append(0)
        await peer.greet((MAX_STREAMS, 2))
        if not number:
            await peer.request()
            peer.say(ANSWER)
        streams = []
        for _ in range(2 if not number else 1):
            streams.append((await peer.request())[0])
            open_calls[number] += 1
        await go_on.wait()
        for stream in streams:
            peer.say(head(stream), trailers(stream))
        await peer.closed()

    async with talking(talk) as channel:
        assert await drained(await channel.start("/t.T/Any", b"")) == MESSAGES
        calls = [await channel.start("/t.T/Any", b"") for _ in range(3)]
        await until(lambda: open_calls == [2, 1])
        go_on.set()
        for call in calls:
            assert await drained(call) == []


async def test_settings_change_what_may_be_sent():
    async def talk(peer: Peer) -> None:
        await peer.greet((INITIAL_WINDOW, 10), (TABLE_SIZE, 0), (MAX_FRAME, 20_000))
        await peer.request()
        # The first header block after the table may be smaller says that it is empty.
        assert next(seen[3] for seen in peer.seen if seen[0] == HEADERS)[:1] == b"\x20"
        peer.say(ANSWER)
        # A second call: five bytes of prefix, and five more.
        _, _, stream, _ = await peer.until(HEADERS)
        assert (await peer.until(DATA))[3] == frame(body)[:10]
        # Less than nothing, and then something again.
        peer.say(setting((INITIAL_WINDOW, 4)), window_update(stream, 5))
        await peer.synced()
        peer.say(window_update(stream, 2))
        assert (await peer.until(DATA))[3] == frame(body)[10:11]
        peer.say(setting((INITIAL_WINDOW, 30_004)))
        sent = frame(body)[:11]
        while len(sent) < 30_011:
            _, _, _, payload = await peer.until(DATA)
            assert len(payload) <= 20_000
            sent += payload
        assert max(len(seen[3]) for seen in peer.seen) == 20_000
        # What the streams have, the connection has not.
        peer.say(window_update(stream, 200_000))
        connection = 65535 - len(sent) - len(frame(b""))
        while connection:
            _, _, _, payload = await peer.until(DATA)
            connection -= len(payload)
            sent += payload
        await peer.synced()
        peer.say(window_update(0, 200_000))
        while len(sent) < len(frame(body)):
            _, flags, _, payload = await peer.until(DATA)
            sent += payload
        assert flags & END_STREAM and sent == frame(body)
        peer.say(head(stream), trailers(stream))
        await peer.closed()

    body = bytes(range(256)) * 400
    async with talking(talk) as channel:
        assert await drained(await channel.start("/t.T/Any", b"")) == MESSAGES
        assert await drained(await within(channel.start("/t.T/Any", body))) == []


async def test_an_answer_before_the_whole_request():
    """As of a server that refuses it."""

    async def talk(peer: Peer) -> None:
        await peer.greet()
        await peer.until(HEADERS)
        await peer.until(DATA)
        peer.say(headers(1, (b":status", b"200"), (b"grpc-status", b"8"), flags=END_HEADERS | END_STREAM))
        peer.say(reset(ErrorCodes.NO_ERROR))
        # What is left of that request is not sent: the next one uses the room.
        stream = (await peer.until(HEADERS))[2]
        peer.say(window_update(0, 5))
        await peer.until(DATA, stream=stream, flags=END_STREAM)
        peer.say(head(stream), trailers(stream))
        await peer.closed()

    async with talking(talk) as channel:
        call = await within(channel.start("/t.T/Any", bytes(1 << 20)))
        assert (await fails(call.read())).code is Code.RESOURCE_EXHAUSTED
        assert await drained(await within(channel.start("/t.T/Any", b""))) == []


async def test_a_start_that_is_given_up_ends_the_call():
    async def talk(peer: Peer) -> None:
        await peer.greet((INITIAL_WINDOW, 0))
        stuck.set()
        assert (await peer.until(RST_STREAM, stream=1))[3] == ErrorCodes.CANCEL.to_bytes(4, "big")
        await peer.closed()

    stuck = asyncio.Event()
    async with talking(talk) as channel:
        starting = asyncio.create_task(channel.start("/t.T/Any", bytes(1 << 20)))
        await within(stuck.wait())
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting


# What a reader gets


async def test_a_server_may_send_no_more_than_is_read():
    go_on = asyncio.Event()
    part = data(frame(bytes(1019)))
    half = STREAM_WINDOW // 1024 // 2

    async def talk(peer: Peer) -> None:
        await peer.greet()
        payload = peer.seen[0][3]
        names = [
            (payload[start : start + 2], payload[start + 2 : start + 6])
            for start in range(0, len(payload), 6)
        ]
        asked = {int.from_bytes(name, "big"): int.from_bytes(value, "big") for name, value in names}
        assert asked[INITIAL_WINDOW] == STREAM_WINDOW
        await peer.request()
        peer.say(head(), part * 2 * half)
        await peer.synced()
        assert not any(seen[0] == WINDOW_UPDATE and seen[2] == 1 for seen in peer.seen)
        go_on.set()
        room = 0
        while room < STREAM_WINDOW:
            room += int.from_bytes((await peer.until(WINDOW_UPDATE, stream=1))[3], "big")
        assert room == STREAM_WINDOW
        peer.say(part * 2 * half, trailers())
        await peer.closed()

    async with talking(talk) as channel:
        call = await channel.start("/t.T/Any", b"")
        await within(go_on.wait())
        read = 0
        while read < 2 * half:
            read += len(await within(call.read()))
        assert read == 2 * half
        assert len(await drained(call)) == 2 * half


async def test_messages_that_came_together_are_read_together():
    async def talk(peer: Peer) -> None:
        await peer.greet()
        await peer.request()
        peer.say(head() + b"".join(data(frame(message)) for message in MESSAGES) + data(BODY))
        await peer.synced()
        read_on.set()
        peer.say(trailers())
        await peer.closed()

    read_on = asyncio.Event()
    async with talking(talk) as channel:
        call = await channel.start("/t.T/Any", b"")
        await within(read_on.wait())
        assert await within(call.read()) == MESSAGES * 2
        assert await within(call.read()) == []


async def test_messages_are_pushed_as_they_come():
    received: list[bytes] = []
    read_on = asyncio.Event()
    more = 5 * STREAM_WINDOW // 1024

    async def talk(peer: Peer) -> None:
        await peer.greet()
        await peer.request()
        peer.say(head(), data(frame(b"-1")))
        await peer.synced()
        read_on.set()
        # Past the window: messages that are received make room.
        window = STREAM_WINDOW - 10
        for number in range(more):
            while window < 1024:
                window += int.from_bytes((await peer.until(WINDOW_UPDATE, stream=1))[3], "big")
            peer.say(data(frame(b"%1019d" % number)))
            await peer.writer.drain()
            window -= 1024
        peer.say(trailers())
        await peer.closed()

    async with talking(talk) as channel:
        call = await channel.start("/t.T/Any", b"")
        receiver = Receiver(lambda message: received.append(message) or True)
        await within(read_on.wait())
        await within(call.deliver(receiver, Flow()))
        assert [int(message) for message in received] == list(range(-1, more))
        # Only the message that came before anybody asked had to wait.
        assert receiver.waited < more // 2


async def test_a_paused_flow_holds_messages_back_and_loses_none():
    received: list[bytes] = []
    flow = Flow()
    arrived = asyncio.Event()
    count = 3 * STREAM_WINDOW // 1024
    sent = 0

    async def talk(peer: Peer) -> None:
        nonlocal sent
        await peer.greet()
        await peer.request()
        peer.say(head())
        window = STREAM_WINDOW
        for number in range(count):
            while window < 1024:
                arrived.set()
                window += int.from_bytes((await peer.until(WINDOW_UPDATE, stream=1))[3], "big")
            peer.say(data(frame(b"%1019d" % number)))
            await peer.writer.drain()
            window -= 1024
            sent += 1
        peer.say(trailers())
        await peer.closed()

    def receive(message: bytes) -> bool:
        received.append(message)
        if len(received) == 10:
            flow.pause()
        return True

    async with talking(talk) as channel:
        call = await channel.start("/t.T/Any", b"")
        delivering = asyncio.create_task(call.deliver(Receiver(receive), flow))
        await within(arrived.wait())
        await asyncio.sleep(0.1)
        # The peer has used up the window, and nothing opens it again.
        assert (len(received), sent) == (10, STREAM_WINDOW // 1024)
        flow.resume()
        await within(delivering)
    assert [int(message) for message in received] == list(range(count))


async def test_a_receiver_that_wants_no_more_ends_the_delivery():
    received: list[bytes] = []

    def receive(message: bytes) -> bool:
        received.append(message)
        return message != b"3"

    async def talk(peer: Peer) -> None:
        await peer.greet()
        await peer.request()
        peer.say(head(), *(data(frame(b"%d" % number)) for number in range(10)))
        assert (await peer.until(RST_STREAM))[2] == 1
        await peer.closed()

    async with talking(talk) as channel:
        call = await channel.start("/t.T/Any", b"")
        await within(call.deliver(Receiver(receive), Flow()))
        assert received == [b"0", b"1", b"2", b"3"]
        call.cancel()


async def test_a_receivers_exception_is_raised_by_its_own_delivery():
    class Broken(Exception):
        pass

    def receive(message: bytes) -> bool:
        if message == b"2":
            raise Broken
        return True

    async def talk(peer: Peer) -> None:
        await peer.greet()
        one, two = (await peer.request())[0], (await peer.request())[0]
        peer.say(*(head(stream) for stream in (one, two)))
        await peer.synced()
        for number in range(5):
            for stream in (one, two):
                peer.say(data(frame(b"%d" % number), stream))
            await peer.writer.drain()
            await asyncio.sleep(0.01)
        assert (await peer.until(RST_STREAM))[2] == one
        peer.say(trailers(two))
        await peer.closed()

    async with talking(talk) as channel:
        broken, well = [await channel.start("/t.T/Any", b"") for _ in range(2)]
        with pytest.raises(Broken):
            await within(broken.deliver(Receiver(receive), Flow()))
        broken.cancel()
        assert await drained(well) == [b"%d" % number for number in range(5)]


# Wherever it was cut


class Transport:
    """Takes what a connection writes."""

    def __init__(self) -> None:
        self.is_closed = False

    def write(self, data: bytes) -> None:
        pass

    def is_closing(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        self.is_closed = True

    abort = close


async def received(pieces: list[bytes], pushes: bool) -> tuple[list[list[bytes]], list[object]]:
    """What three calls get of these pieces of a connection's bytes: messages, and ends."""
    connection = ClientConnection(
        max_message_bytes=1 << 20, max_header_bytes=1 << 16, quiet_seconds=60, on_lost=lambda: None
    )
    connection.connection_made(Transport())
    calls = [await connection.start(header_block([(b":path", b"/x")]), b"") for _ in range(3)]
    got: list[list[bytes]] = [[] for _ in calls]
    ends: list[object] = [None] * len(calls)

    async def read(index: int) -> None:
        call = calls[index]
        try:
            if pushes:
                receiver = Receiver(lambda message: got[index].append(message) or True)
                await call.deliver(receiver, Flow())
            else:
                while messages := await call.read():
                    got[index] += messages
            ends[index] = "OK"
        except CallFailed as error:
            ends[index] = (error.code, error.details)

    readers = [asyncio.create_task(read(index)) for index in range(len(calls))]
    await asyncio.sleep(0)
    for piece in pieces:
        connection.data_received(piece)
        await asyncio.sleep(0)
    connection.connection_lost(None)
    await within(asyncio.gather(*readers))
    return got, ends


@st.composite
def conversations(draw) -> tuple[bytes, list[list[bytes]], list[object]]:
    """Bytes of a server, what three calls are to get of them, and how they are to end."""
    streams: list[list[bytes]] = []
    expected: list[list[bytes]] = []
    ends: list[object] = []
    for stream in (1, 3, 5):
        messages = draw(st.lists(st.binary(max_size=40) | st.just(bytes(20_000)), max_size=6))
        body = b"".join(map(frame, messages))
        frames = [head(stream)]
        while body:
            size = draw(st.sampled_from([1, 2, 5, 6, 30, 4000, 16384]))
            part, body = body[:size], body[size:]
            if len(part) < 200 and draw(st.booleans()):
                frames.append(data(padded(part, draw(st.integers(0, 20))), stream, PADDED))
            else:
                frames.append(data(part, stream))
        end = draw(st.sampled_from(["ok", "error", "reset", "lost"]))
        if end == "ok":
            frames.append(trailers(stream))
            ends.append("OK")
        elif end == "error":
            frames.append(trailers(stream, b"9", (b"grpc-message", b"late")))
            ends.append((Code.FAILED_PRECONDITION, "late"))
        elif end == "reset":
            frames.append(reset(ErrorCodes.ENHANCE_YOUR_CALM, stream))
            ends.append((Code.RESOURCE_EXHAUSTED, "the stream was reset with HTTP/2 error 11"))
        else:
            ends.append((Code.UNAVAILABLE, "the connection was closed"))
        streams.append(frames)
        expected.append(messages)
    others = [frame_bytes(PING, 0, 0, bytes(8)), setting((INITIAL_WINDOW, 1000)), window_update(0, 9)]
    streams.append(draw(st.lists(st.sampled_from(others), max_size=4)))
    mixed = []
    while any(streams):
        mixed.append(draw(st.sampled_from([frames for frames in streams if frames])).pop(0))
    return b"".join(mixed), expected, ends


@settings(max_examples=80, deadline=None)
@given(
    conversations(),
    st.lists(st.integers(1, 60) | st.integers(1, 30_000), min_size=1, max_size=10),
    st.booleans(),
)
def test_any_cut_gives_the_same_messages_and_ends(conversation, sizes, pushes):
    sent, expected, ends = conversation
    pieces, start = [], 0
    for size in itertools.cycle(sizes):
        if start >= len(sent) or len(pieces) > 3000:
            break
        pieces.append(sent[start : start + size])
        start += size
    pieces.append(sent[start:])
    assert asyncio.run(received(pieces, pushes)) == (expected, ends)
