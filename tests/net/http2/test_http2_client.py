"""The gRPC client against grpcio's server."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import grpc
import pytest

from inferd.services.net.http2.channel import CALLS_PER_CONNECTION, Channel
from inferd.services.net.http2.client_call import CallFailed
from inferd.services.net.http2.client_connection import CONNECTION_WINDOW, STREAM_WINDOW
from tests.support.http2_peer import (
    Code,
    drained,
    fails,
    until,
    within,
)
from tests.support.raw_http2 import PATIENCE


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
