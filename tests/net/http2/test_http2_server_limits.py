"""The gRPC server against clients that send too much, read too little, or break the protocol."""

import asyncio
import contextlib
import struct

import grpc
import h2.events
import pytest

from inferd.services.net.http2 import server_connection
from inferd.services.net.http2.framing import frame
from inferd.services.net.http2.grpc_server import GrpcServer
from inferd.services.net.http2.rate_limit import RateLimit
from tests.net.http2.service import LIMIT
from tests.support.raw_http2 import PATIENCE, RawClient, connected


async def test_a_message_over_the_limit_is_refused_before_it_comes(raw, service):
    stream = raw.open("/t.T/Echo", None)
    raw.send(stream, b"\0" + struct.pack(">I", LIMIT + 1))
    headers, _ = await raw.answer(stream)
    assert headers["grpc-status"] == "8"
    assert str(LIMIT) in headers["grpc-message"]
    assert await raw.status(raw.open("/t.T/Echo")) == "0"


async def test_requests_that_never_come_whole_fill_no_memory(raw, service, monkeypatch):
    monkeypatch.setattr(server_connection, "BUFFERED_BYTES", 0)
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
    assert await raw.status(raw.open("/t.T/Echo", **{"x-bad-bin": "ü"})) == "3"


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


#: HTTP/2's error code ENHANCE_YOUR_CALM (RFC 9113, section 7).
CALM = 11


@pytest.fixture
def no_refill(monkeypatch) -> None:
    """Rate limits do not refill, because on a slow machine they would never be used up."""
    monkeypatch.setattr(server_connection, "RateLimit", lambda burst, per_second: RateLimit(burst, 0))


async def test_calls_that_are_cancelled_at_once_cannot_go_on_for_ever(no_refill, raw, service):
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
async def test_frames_that_carry_nothing_cannot_go_on_for_ever(no_refill, raw, service, frame):
    raw.open("/t.T/Echo", None)
    with contextlib.suppress(ConnectionError):
        for _ in range(150):
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
