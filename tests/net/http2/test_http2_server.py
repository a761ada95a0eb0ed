"""The gRPC server alone: calls, metadata, errors, deadlines, cancellation, and how it stops."""

import asyncio
import contextlib
import gzip
import socket
import zlib

import grpc
import h2.events
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from inferd.services.net.http2.framing import frame
from inferd.services.net.http2.grpc_server import GrpcServer
from tests.net.http2.service import LIMIT, ends
from tests.support.raw_http2 import PATIENCE, connected


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
    assert sorted(pair for pair in service.metadata if pair[0] in ("x-a", "x-b-bin")) == sorted(sent)
    assert not {"te", "content-type", "grpc-accept-encoding"} & {key for key, _ in service.metadata}

    call = channel.unary_stream("/t.T/Write")(b"one two")
    assert [message async for message in call] == [b"one", b"two"]
    received = [pair for pair in await call.initial_metadata() if pair[0] != "x-request-id"]
    assert received == [("x-early", "yes"), ("x-raw-bin", b"\0\xff")]
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
    assert error.code() is grpc.StatusCode.INTERNAL
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
    assert await raw.status(raw.open("/t.T/Echo", grpc_timeout="soon")) == "3"


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
    alone, first, second = (GrpcServer(max_message_bytes=LIMIT) for _ in range(3))
    port = alone.bind("127.0.0.1:0")
    with pytest.raises(OSError):
        second.bind(f"127.0.0.1:{port}", shared_port=True)
    port = first.bind("127.0.0.1:0", shared_port=True)
    assert second.bind(f"127.0.0.1:{port}", shared_port=True) == port
    with pytest.raises(OSError):
        alone.bind(f"127.0.0.1:{port}")
    for server in (alone, first, second):
        await server.stop()


async def test_generators_that_would_block_are_not_taken():
    def blocking(request, context):
        yield b""

    with pytest.raises(TypeError):
        GrpcServer(max_message_bytes=1).add_registered_method_handlers(
            "t.T", {"M": grpc.unary_stream_rpc_method_handler(blocking)}
        )
