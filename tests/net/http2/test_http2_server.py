"""The gRPC server by itself: what clients may rely on, and what they cannot do to it."""

import asyncio
import contextlib
import gzip
import socket
import struct
import zlib
from collections.abc import AsyncIterator

import grpc
import h2.events
import pytest
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status
from inferd.services.net.http2 import server_connection
from inferd.services.net.http2.framing import frame
from inferd.services.net.http2.grpc_server import GrpcServer

from tests.support.raw_http2 import PATIENCE, RawClient, connected

LIMIT = 1 << 20


class Service:
    """The methods under test, and what became of their calls."""

    def __init__(self) -> None:
        self.started = 0
        self.ended = 0
        self.cancelled = 0
        self.sent = 0
        self.metadata: list[tuple[str, str | bytes]] = []
        self.remaining: float | None = None
        self.peer = ""
        self.done: list[object] = []

    @contextlib.contextmanager
    def _running(self):
        self.started += 1
        try:
            yield
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled += 1
            raise
        finally:
            self.ended += 1

    async def echo(self, request: bytes, context) -> bytes:
        with self._running():
            self.metadata = list(context.invocation_metadata())
            self.remaining = context.time_remaining()
            self.peer = context.peer()
            return request

    async def count(self, request: bytes, context) -> AsyncIterator[bytes]:
        with self._running():
            for number in range(int(request)):
                yield b"%d" % number
                self.sent += 1

    async def flood(self, request: bytes, context) -> AsyncIterator[bytes]:
        with self._running():
            while True:
                yield bytes(int(request))
                self.sent += 1

    async def hang(self, request: bytes, context) -> bytes:
        with self._running():
            context.add_done_callback(self.done.append)
            await asyncio.Event().wait()
            return b""

    async def tick(self, request: bytes, context) -> AsyncIterator[bytes]:
        with self._running():
            yield b"tick"
            await asyncio.Event().wait()

    async def write(self, request: bytes, context) -> None:
        await context.send_initial_metadata((("x-early", "yes"), ("x-raw-bin", b"\0\xff")))
        for word in request.split():
            await context.write(word)
        context.set_trailing_metadata((("x-late", "too"),))

    async def both(self, requests: AsyncIterator[bytes], context) -> AsyncIterator[bytes]:
        with self._running():
            async for request in requests:
                yield request.upper()

    async def total(self, requests: AsyncIterator[bytes], context) -> bytes:
        return b"%d" % sum([len(request) async for request in requests])

    async def refuse(self, request: bytes, context) -> bytes:
        detail = any_pb2.Any()
        detail.Pack(error_details_pb2.ErrorInfo(reason="NO"))
        status = status_pb2.Status(code=5, message="nein: 100 % €\n", details=[detail])
        await context.abort_with_status(rpc_status.to_status(status))

    async def refuse_late(self, request: bytes, context) -> AsyncIterator[bytes]:
        yield b"one"
        await context.abort(grpc.StatusCode.DATA_LOSS, "gone", (("x-why", "because"),))

    async def say(self, request: bytes, context) -> bytes:
        context.set_code(grpc.StatusCode.OUT_OF_RANGE)
        context.set_details("said")
        return b""

    async def fault(self, request: bytes, context) -> bytes:
        raise ValueError("a secret")

    def missing(self, request: bytes, context) -> bytes:
        context.set_code(grpc.StatusCode.UNIMPLEMENTED)
        context.set_details("Method not implemented!")
        raise NotImplementedError("Method not implemented!")

    def handlers(self) -> dict[str, grpc.RpcMethodHandler]:
        unary, stream = grpc.unary_unary_rpc_method_handler, grpc.unary_stream_rpc_method_handler
        return {
            "Echo": unary(self.echo),
            "Count": stream(self.count),
            "Flood": stream(self.flood),
            "Hang": unary(self.hang),
            "Tick": stream(self.tick),
            "Write": stream(self.write),
            "Both": grpc.stream_stream_rpc_method_handler(self.both),
            "Total": grpc.stream_unary_rpc_method_handler(self.total),
            "Refuse": unary(self.refuse),
            "RefuseLate": stream(self.refuse_late),
            "Say": unary(self.say),
            "Fault": unary(self.fault),
            "Missing": unary(self.missing),
        }

    async def until(self, **counts: int) -> None:
        """Until as many calls have come that far."""
        async with asyncio.timeout(PATIENCE):
            while any(getattr(self, name) < count for name, count in counts.items()):
                await asyncio.sleep(0.005)


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
async def server(service) -> AsyncIterator[GrpcServer]:
    server = GrpcServer(max_message_bytes=LIMIT)
    server.add_registered_method_handlers("t.T", service.handlers())
    server.port = server.bind("127.0.0.1:0")
    await server.start()
    yield server
    await server.stop()
    assert service.started == service.ended
    others = {task for task in asyncio.all_tasks() if "ServerCall" in repr(task.get_coro())}
    assert not others


@pytest.fixture
async def channel(server) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        yield channel


@pytest.fixture
async def raw(server) -> AsyncIterator[RawClient]:
    async with connected(server.port) as client:
        yield client


async def ends(call) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        async with asyncio.timeout(PATIENCE):
            await call
    return raised.value


async def test_one_response_and_many(channel, service):
    assert await channel.unary_unary("/t.T/Echo")(b"hello") == b"hello"
    assert await channel.unary_unary("/t.T/Echo")(b"") == b""
    got = [message async for message in channel.unary_stream("/t.T/Count")(b"1000")]
    assert got == [b"%d" % number for number in range(1000)]
    assert service.peer.startswith("ipv4:127.0.0.1:")


async def test_large_messages_both_ways(channel):
    data = bytes(range(256)) * 4000
    assert await channel.unary_unary("/t.T/Echo")(data) == data


async def test_metadata_goes_both_ways(channel, service):
    sent = (("x-a", "1"), ("x-b-bin", b"\0\x01\xfe"), ("x-a", "2"))
    await channel.unary_unary("/t.T/Echo")(b"", metadata=sent)
    assert sorted(pair for pair in service.metadata if pair[0].startswith("x-")) == sorted(sent)
    assert not {"te", "content-type", "grpc-accept-encoding"} & {key for key, _ in service.metadata}

    call = channel.unary_stream("/t.T/Write")(b"one two")
    assert [message async for message in call] == [b"one", b"two"]
    assert tuple(await call.initial_metadata()) == (("x-early", "yes"), ("x-raw-bin", b"\0\xff"))
    assert tuple(await call.trailing_metadata()) == (("x-late", "too"),)


async def test_requests_may_be_streamed(channel, service):
    call = channel.stream_stream("/t.T/Both")()
    for word in (b"one", b"two"):
        await call.write(word)
        assert await call.read() == word.upper()
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF
    assert await call.code() is grpc.StatusCode.OK
    # More than the window holds.
    assert await channel.stream_unary("/t.T/Total")([bytes(LIMIT - 5)] * 5) == b"%d" % (5 * (LIMIT - 5))


async def test_errors_reach_the_client_whole(channel):
    error = await ends(channel.unary_unary("/t.T/Refuse")(b""))
    assert (error.code(), error.details()) == (grpc.StatusCode.NOT_FOUND, "nein: 100 % €\n")
    packed = rpc_status.from_call(error).details[0]
    assert error_details_pb2.ErrorInfo.FromString(packed.value).reason == "NO"

    call = channel.unary_stream("/t.T/RefuseLate")(b"")
    assert await call.read() == b"one"
    error = await ends(call.read())
    assert (error.code(), error.details()) == (grpc.StatusCode.DATA_LOSS, "gone")
    assert tuple(error.trailing_metadata()) == (("x-why", "because"),)

    error = await ends(channel.unary_unary("/t.T/Say")(b""))
    assert (error.code(), error.details()) == (grpc.StatusCode.OUT_OF_RANGE, "said")


async def test_a_handlers_fault_is_logged_and_not_told(channel, caplog):
    error = await ends(channel.unary_unary("/t.T/Fault")(b""))
    assert error.code() is grpc.StatusCode.UNKNOWN
    assert "secret" not in error.details()
    assert "a secret" in caplog.text


async def test_what_is_not_there_is_unimplemented(channel):
    for path in ("/t.T/Nope", "/nope.T/Echo", "/"):
        assert (await ends(channel.unary_unary(path)(b""))).code() is grpc.StatusCode.UNIMPLEMENTED
    error = await ends(channel.unary_unary("/t.T/Missing")(b""))
    assert (error.code(), error.details()) == (grpc.StatusCode.UNIMPLEMENTED, "Method not implemented!")


async def test_the_deadline_is_told_and_kept(raw, service):
    stream = raw.open("/t.T/Echo", grpc_timeout="90S")
    assert await raw.status(stream) == "0"
    assert 80 < service.remaining <= 90
    await raw.status(raw.open("/t.T/Echo"))
    assert service.remaining is None
    # This client does not look at the clock: the server does.
    for path in ("/t.T/Hang", "/t.T/Tick"):
        assert await raw.status(raw.open(path, grpc_timeout="50m")) == "4"
    # Nor does the handler wait for a request that does not come whole.
    assert await raw.status(raw.open("/t.T/Echo", None, grpc_timeout="50m")) == "4"
    await service.until(ended=4)
    assert service.cancelled == 2
    assert await raw.status(raw.open("/t.T/Echo", grpc_timeout="soon")) == "13"


async def test_cancelling_ends_the_handler(channel, service):
    calls = [channel.unary_unary("/t.T/Hang")(b""), channel.unary_stream("/t.T/Tick")(b"")]
    await service.until(started=2)
    for call in calls:
        call.cancel()
    await service.until(ended=2)
    assert service.cancelled == 2
    assert service.done[0].cancelled()


async def test_a_lost_connection_ends_its_handlers(server, service):
    async with connected(server.port) as client:
        for path in ("/t.T/Hang", "/t.T/Tick"):
            client.open(path)
        client.open("/t.T/Flood", b"1000")
        # One whose request never comes whole.
        client.open("/t.T/Echo", None)
        await service.until(started=3)
    await service.until(ended=3)
    assert service.cancelled == 3


async def test_compressed_requests_are_read(raw):
    for encoding, compress in (("gzip", gzip.compress), ("deflate", zlib.compress)):
        stream = raw.open("/t.T/Echo", None, grpc_encoding=encoding)
        raw.send(stream, frame(compress(b"hello"), compressed=True), end=True)
        headers, data = await raw.answer(stream)
        assert (headers["grpc-status"], data) == ("0", frame(b"hello"))


async def test_compressed_requests_are_bounded_and_checked(raw):
    async def status(body: bytes, encoding: str = "gzip") -> str:
        stream = raw.open("/t.T/Echo", None, grpc_encoding=encoding)
        raw.send(stream, frame(body, compressed=True), end=True)
        return await raw.status(stream)

    assert await status(gzip.compress(bytes(LIMIT + 1))) == "8"
    assert await status(b"no gzip") == "13"
    assert await status(gzip.compress(b"hello")[:-4]) == "13"
    assert await status(gzip.compress(b"hello") + b"more") == "13"
    assert await status(b"hello", "identity") == "13"
    headers, _ = await raw.answer(raw.open("/t.T/Echo", grpc_encoding="zstd"))
    assert headers["grpc-status"] == "12"
    assert headers["grpc-accept-encoding"] == "identity,deflate,gzip"


async def test_a_message_over_the_limit_is_refused_before_it_comes(raw, service):
    stream = raw.open("/t.T/Echo", None)
    raw.send(stream, b"\0" + struct.pack(">I", LIMIT + 1))
    headers, _ = await raw.answer(stream)
    assert headers["grpc-status"] == "8"
    assert str(LIMIT) in headers["grpc-message"]
    assert await raw.status(raw.open("/t.T/Echo")) == "0"


async def test_requests_that_never_come_whole_fill_no_memory(raw, service, monkeypatch):
    monkeypatch.setattr(server_connection, "HELD_BYTES", 0)
    async with connected(raw.writer.get_extra_info("peername")[1]) as client:
        streams = []
        for _ in range(5):
            streams.append(stream := client.open("/t.T/Echo", None))
            # Half of a request.
            body = frame(bytes(LIMIT))[: LIMIT // 2]
            for start in range(0, len(body), 16384):
                client.send(stream, body[start : start + 16384])
        assert await client.status(streams[-1]) == "8"
        for stream in streams[:4]:
            client.reset(stream)
        assert await client.status(client.open("/t.T/Echo")) == "0"


async def test_requests_that_are_none(raw, service):
    async def status(*parts: bytes) -> str:
        stream = raw.open("/t.T/Echo", None)
        for part in parts:
            raw.send(stream, part)
        with contextlib.suppress(Exception):
            raw.send(stream, b"", end=True)
        return await raw.status(stream)

    assert await status() == "12"
    assert await status(frame(b"one") + frame(b"two")) == "12"
    assert await status(frame(b"hello")[:-1]) == "13"
    assert await status(b"\0\0") == "13"
    assert await status(b"\7\0\0\0\0") == "13"
    assert await status(*(bytes([byte]) for byte in frame(b"hello"))) == "0"
    assert service.started == 1
    assert await raw.status(raw.open("/t.T/Echo", **{"x-bad-bin": "ü"})) == "13"


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"content-type": "application/json"}, "415"),
        ({"content-type": "application/grpc-web"}, "415"),
        ({"method": "GET"}, "405"),
        ({"content-type": "application/grpc+proto"}, "200"),
        ({"content-type": "application/grpc;charset=utf-8"}, "200"),
    ],
)
async def test_what_is_not_grpc_gets_an_http_status(raw, fields, status):
    headers, _ = await raw.answer(raw.open("/t.T/Echo", **fields))
    assert headers[":status"] == status
    assert ("grpc-status" in headers) == (status == "200")


async def test_http_1_is_hung_up_on(server, caplog):
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n")
    async with asyncio.timeout(PATIENCE):
        await reader.read()
    writer.close()
    assert not caplog.records


async def test_a_client_that_says_nothing_is_hung_up_on(service, monkeypatch):
    monkeypatch.setattr(server_connection, "PREFACE_TIMEOUT", 0.05)
    server = GrpcServer(max_message_bytes=LIMIT)
    port = server.bind("127.0.0.1:0")
    await server.start()
    async with connected(port, greet=False) as client:
        client.writer.write(b"PRI * HTTP/2.0\r\n")
        await client.closed()
    await server.stop()


async def test_a_client_that_does_not_answer_pings_is_hung_up_on(service, monkeypatch):
    monkeypatch.setattr(server_connection, "QUIET_SECONDS", 0.05)
    monkeypatch.setattr("inferd.services.net.http2.connection.PING_TIMEOUT", 0.05)
    server = GrpcServer(max_message_bytes=LIMIT)
    server.add_registered_method_handlers("t.T", service.handlers())
    port = server.bind("127.0.0.1:0")
    await server.start()
    async with connected(port) as client:
        client.open("/t.T/Hang")
        # Reads, and says nothing.
        async with asyncio.timeout(PATIENCE):
            with contextlib.suppress(ConnectionError):
                while await client.reader.read(65536):
                    pass
        await service.until(ended=1)
    await server.stop()


async def test_a_client_that_gives_no_room_stops_the_handler(raw, service):
    stream = raw.open("/t.T/Flood", b"1000")
    # The window is not opened again.
    window = raw.h2.remote_flow_control_window(stream)
    received = 0

    def full() -> bool:
        nonlocal received
        received = sum(len(event.data) for event in raw.of(h2.events.DataReceived, stream))
        return received == window

    await raw.until(full)
    await asyncio.sleep(0.05)
    assert service.sent == window // 1005
    # Others go on, when the connection has room.
    raw.h2.increment_flow_control_window(1 << 20)
    raw.flush()
    assert await raw.status(raw.open("/t.T/Count", b"10")) == "0"
    raw.h2.increment_flow_control_window(1005, stream)
    raw.flush()
    window += 1005
    await raw.until(full)
    raw.reset(stream)
    await service.until(ended=2)


async def test_a_client_that_does_not_read_fills_no_memory(server, service):
    async with connected(server.port) as client:
        client.h2.update_settings({4: (1 << 31) - 1})
        client.h2.increment_flow_control_window((1 << 31) - 1 - 65535)
        client.flush()
        for _ in range(8):
            client.open("/t.T/Flood", b"16000")
        await service.until(started=8)
        async with asyncio.timeout(PATIENCE):
            sent = -1
            while sent != service.sent:
                sent = service.sent
                await asyncio.sleep(0.1)
        # The kernel's buffers, and ours.
        assert sent * 16000 < 40 << 20
        [connection] = server._connections
        assert connection.transport.get_write_buffer_size() < 2 * server_connection.WRITE_BUFFER
    await service.until(ended=8)


async def test_many_waiting_streams_share_what_room_comes(raw, service):
    streams = [raw.open("/t.T/Flood", b"1000") for _ in range(50)]

    def received(stream: int) -> int:
        return sum(len(event.data) for event in raw.of(h2.events.DataReceived, stream))

    await raw.until(lambda: sum(map(received, streams)) == 65535)
    for _ in range(50):
        raw.h2.increment_flow_control_window(3000)
    raw.flush()
    await raw.until(lambda: sum(map(received, streams)) == 65535 + 150_000)
    assert all(received(stream) for stream in streams)
    for stream in streams:
        raw.reset(stream)
    await service.until(ended=50)


async def test_a_thousand_streams_on_one_connection(channel, service):
    async with asyncio.timeout(60):
        await asyncio.gather(*(drain(channel) for _ in range(1000)))
    assert service.ended == 1000


async def drain(channel: grpc.aio.Channel) -> None:
    assert len([message async for message in channel.unary_stream("/t.T/Count")(b"3")]) == 3


async def test_streams_over_the_limit_are_refused_one_by_one(raw, service, monkeypatch):
    monkeypatch.setattr(server_connection, "MAX_STREAMS", 3)
    running = [raw.open("/t.T/Hang") for _ in range(3)]
    refused = raw.open("/t.T/Echo")
    await raw.until(lambda: raw.of(h2.events.StreamReset, refused))
    assert raw.of(h2.events.StreamReset, refused)[0].error_code == 7
    raw.reset(running.pop())
    await service.until(ended=1)
    assert await raw.status(raw.open("/t.T/Echo")) == "0"


async def hung_up(client: RawClient) -> int:
    """The reason for which the server hangs up."""
    await client.until(lambda: client.of(h2.events.ConnectionTerminated))
    return client.of(h2.events.ConnectionTerminated)[0].error_code


CALM = 11


async def test_calls_that_are_cancelled_at_once_cannot_go_on_for_ever(raw, service):
    with contextlib.suppress(ConnectionError):
        for _ in range(3000):
            raw.reset(raw.open("/t.T/Hang"))
            await raw.writer.drain()
    assert await hung_up(raw) == CALM
    await service.until(ended=service.started)


async def test_calls_that_are_refused_and_cancelled_in_one_breath(raw, service, monkeypatch, caplog):
    monkeypatch.setattr(server_connection, "MAX_STREAMS", 1)
    running = raw.open("/t.T/Both", None)
    streams = [raw.h2.get_next_available_stream_id() + 2 * number for number in range(200)]
    block = raw.h2.encoder.encode(
        [(":method", "POST"), (":scheme", "http"), (":authority", "t"), (":path", "/t.T/Hang")]
    )
    raw.writer.write(
        b"".join(
            len(block).to_bytes(3, "big")
            + b"\1\4"
            + stream.to_bytes(4, "big")
            + block
            + b"\0\0\4\3\0"
            + stream.to_bytes(4, "big")
            + b"\0\0\0\10"
            for stream in streams
        )
    )
    raw.send(running, frame(b"hello"), end=True)
    assert (await raw.answer(running))[1] == frame(b"HELLO")
    assert not caplog.records


async def test_cancelling_calls_that_were_answered_is_fine(raw, service):
    for _ in range(1500):
        stream = raw.open("/t.T/Tick")
        await raw.until(lambda stream=stream: raw.of(h2.events.DataReceived, stream))
        raw.reset(stream)
        raw.events.clear()
    assert await raw.status(raw.open("/t.T/Echo")) == "0"


@pytest.mark.parametrize(
    "frame",
    [
        b"\0\0\10\6\0\0\0\0\0" + bytes(8),  # PING
        b"\0\0\0\4\0\0\0\0\0",  # SETTINGS
        b"\0\0\5\2\0\0\0\0\1" + bytes(5),  # PRIORITY
        b"\0\0\4\10\0\0\0\0\1\0\0\0\1",  # WINDOW_UPDATE
        b"\0\0\0\0\0\0\0\0\1",  # DATA
        b"\0\0\0\x63\0\0\0\0\0",  # of no known kind
        b"\0\0\10\7\0\0\0\0\0" + bytes(8),  # GOAWAY
    ],
)
async def test_frames_that_carry_nothing_cannot_go_on_for_ever(raw, service, frame):
    raw.open("/t.T/Echo", None)
    with contextlib.suppress(ConnectionError):
        for _ in range(300):
            raw.writer.write(frame * 1000)
            await raw.writer.drain()
    with contextlib.suppress(ConnectionError):
        assert await hung_up(raw) in (CALM, 1)


async def test_settings_cannot_fill_memory(raw):
    body = b"".join(struct.pack(">HI", number, 1) for number in range(100, 300))
    raw.writer.write(len(body).to_bytes(3, "big") + b"\4\0\0\0\0\0" + body)
    assert await hung_up(raw) == CALM


async def test_headers_are_bounded(raw, service):
    stream = raw.h2.get_next_available_stream_id()
    headers = [(":method", "POST"), (":scheme", "http"), (":authority", "t"), (":path", "/t.T/Echo")]
    raw.h2.send_headers(stream, [*headers, *((f"x-{number}", "a" * 1000) for number in range(80))])
    raw.flush()
    assert await hung_up(raw) == CALM


async def test_a_frame_over_the_limit_is_refused_before_it_comes(raw):
    raw.open("/t.T/Echo", None)
    raw.writer.write((1 << 20).to_bytes(3, "big") + b"\0\0" + (1).to_bytes(4, "big"))
    assert await hung_up(raw) == 6


async def test_what_breaks_the_protocol_ends_only_that_connection(server, raw, channel, service):
    raw.open("/t.T/Hang")
    await service.until(started=1)
    raw.writer.write(b"\0\0\4\1\4\0\0\0\7\xff\xff\xff\xff")
    assert await hung_up(raw) != 0
    await service.until(ended=1)
    assert await channel.unary_unary("/t.T/Echo")(b"hello") == b"hello"


async def test_a_client_that_takes_its_leave_gets_its_answers(raw, service):
    stream = raw.open("/t.T/Both", None)
    raw.writer.write(b"\0\0\10\7\0\0\0\0\0" + bytes(8))
    raw.send(stream, frame(b"hello"), end=True)
    assert (await raw.answer(stream))[1] == frame(b"HELLO")


async def test_a_smaller_header_table_is_heeded(raw):
    # h2 raises where the first block does not say so.
    raw.h2.update_settings({1: 0})
    raw.flush()
    assert await raw.status(raw.open("/t.T/Echo")) == "0"
    assert await raw.status(raw.open("/t.T/Refuse")) == "5"


async def test_stopping_lets_calls_end_and_takes_no_more(service):
    server = GrpcServer(max_message_bytes=LIMIT)
    server.add_registered_method_handlers("t.T", service.handlers())
    port = server.bind("127.0.0.1:0")
    await server.start()
    async with connected(port) as client, connected(port) as idle:
        stream = client.open("/t.T/Both", None)
        await service.until(started=1)
        stopping = asyncio.create_task(server.stop(PATIENCE))
        await idle.closed()
        await client.until(lambda: client.of(h2.events.ConnectionTerminated))
        assert client.of(h2.events.ConnectionTerminated)[0].last_stream_id == stream
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)
        # h2 sends nothing after a GOAWAY.
        client.writer.write(b"\0\0\x0a\0\1" + stream.to_bytes(4, "big") + frame(b"hello"))
        async with asyncio.timeout(PATIENCE):
            await stopping
            rest = await client.reader.read()
    assert b"HELLO" in rest
    assert b"grpc-status\x010" in rest
    async with asyncio.timeout(PATIENCE):
        await server.wait_for_termination()


async def test_stopping_ends_what_outlives_the_grace(service):
    server = GrpcServer(max_message_bytes=LIMIT)
    server.add_registered_method_handlers("t.T", service.handlers())
    port = server.bind("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_unary("/t.T/Hang")(b"")
        await service.until(started=1)
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(server.stop(0.05), server.stop(0.05))
        assert (await ends(call)).code() is grpc.StatusCode.UNAVAILABLE
    assert service.cancelled == 1


async def test_a_sync_client_and_two_families(service):
    server = GrpcServer(max_message_bytes=LIMIT)
    server.add_registered_method_handlers("t.T", service.handlers())
    hosts = ["localhost", "127.0.0.1"]
    if socket.has_ipv6:
        with contextlib.suppress(OSError):
            socket.create_server(("::1", 0), family=socket.AF_INET6).close()
            hosts.append("[::1]")
    ports = [server.bind(f"{host}:0") for host in hosts]
    await server.start()

    def call(address: str) -> list[bytes]:
        with grpc.insecure_channel(address) as channel:
            return list(channel.unary_stream("/t.T/Count")(b"3", timeout=PATIENCE))

    for host, port in zip(hosts, ports, strict=True):
        assert await asyncio.to_thread(call, f"{host}:{port}") == [b"0", b"1", b"2"]
    await server.stop()


async def test_a_port_is_shared_only_where_both_want_it():
    first, second = (GrpcServer(max_message_bytes=LIMIT) for _ in range(2))
    port = first.bind("127.0.0.1:0")
    with pytest.raises(OSError):
        second.bind(f"127.0.0.1:{port}", shared_port=True)
    await first.stop()
    port = first.bind("127.0.0.1:0", shared_port=True)
    assert second.bind(f"127.0.0.1:{port}", shared_port=True) == port
    with pytest.raises(OSError):
        second.bind(f"127.0.0.1:{port}")
    for server in (first, second):
        await server.stop()


async def test_generators_that_would_block_are_not_taken():
    def blocking(request, context):
        yield b""

    with pytest.raises(TypeError):
        GrpcServer(max_message_bytes=1).add_registered_method_handlers(
            "t.T", {"M": grpc.unary_stream_rpc_method_handler(blocking)}
        )
