"""The errors that the server gives without a handler: each has its reason, its details and the call's id."""

import base64
import gzip
import json

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from inferd.services.errors import ServiceError
from inferd.services.net.http2 import server_connection
from inferd.services.net.http2.framing import frame
from inferd.services.net.http2.grpc_server import GrpcServer
from tests.net.http2.service import LIMIT, ends
from tests.support.raw_http2 import RawClient, connected


class Refused:
    """The status of a call, with its details."""

    def __init__(self, headers: dict[str, str]) -> None:
        self.headers = headers
        packed = headers["grpc-status-details-bin"]
        self.status = status_pb2.Status.FromString(base64.b64decode(packed + "=" * (-len(packed) % 4)))
        self.info, self.request = error_details_pb2.ErrorInfo(), error_details_pb2.RequestInfo()
        self.retry = error_details_pb2.RetryInfo()
        for detail in self.status.details:
            for known in (self.info, self.request, self.retry):
                detail.Unpack(known)
        assert str(self.status.code) == headers["grpc-status"]
        assert self.info.domain == "inferd.dev"
        assert self.request.request_id == headers["x-request-id"]

    @property
    def code_and_reason(self) -> tuple[grpc.StatusCode, str]:
        codes = {code.value[0]: code for code in grpc.StatusCode}
        return codes[self.status.code], self.info.reason


def reason_of(error: grpc.aio.AioRpcError) -> str:
    info = error_details_pb2.ErrorInfo()
    for detail in rpc_status.from_call(error).details:
        detail.Unpack(info)
    return info.reason


async def refused(client: RawClient, stream: int) -> Refused:
    return Refused((await client.answer(stream))[0])


async def sent(client: RawClient, *parts: bytes, **fields: str) -> Refused:
    """The refusal of a call of Echo whose bytes are `parts`."""
    stream = client.open("/t.T/Echo", None, **fields)
    for part in parts:
        client.send(stream, part)
    client.send(stream, b"", end=True)
    return await refused(client, stream)


@pytest.mark.parametrize("path", ["/t.T/Nope", "/nope.T/Echo", "/"])
async def test_a_method_that_is_not_served(raw, path):
    found = await refused(raw, raw.open(path))
    assert found.code_and_reason == (grpc.StatusCode.UNIMPLEMENTED, "METHOD_NOT_FOUND")
    assert repr(path) in found.status.message


async def test_an_encoding_that_cannot_be_read(raw):
    found = await refused(raw, raw.open("/t.T/Echo", grpc_encoding="zstd"))
    assert found.code_and_reason == (grpc.StatusCode.UNIMPLEMENTED, "UNSUPPORTED_ENCODING")
    assert found.headers["grpc-accept-encoding"] == "identity,deflate,gzip"


@pytest.mark.parametrize("fields", [{"grpc-timeout": "soon"}, {"x-bad-bin": "ü"}], ids=str)
async def test_metadata_that_cannot_be_read(raw, fields):
    found = await refused(raw, raw.open("/t.T/Echo", **fields))
    assert found.code_and_reason == (grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED_HEADER")
    assert next(iter(fields)) in found.status.message


@pytest.mark.parametrize("body", [b"", frame(b"one") + frame(b"two")], ids=["none", "two"])
async def test_a_number_of_requests_that_the_method_does_not_take(raw, body):
    found = await sent(raw, body) if body else await sent(raw)
    assert found.code_and_reason == (grpc.StatusCode.UNIMPLEMENTED, "WRONG_REQUEST_COUNT")


@pytest.mark.parametrize(
    ("body", "encoding"),
    [
        (b"\0\0", "identity"),
        (b"\7\0\0\0\0", "identity"),
        (frame(b"hello")[:-1], "identity"),
        (frame(b"hello", compressed=True), "identity"),
        (frame(b"hello", compressed=True), "gzip"),
        (frame(gzip.compress(b"hello")[:-4], compressed=True), "gzip"),
    ],
)
async def test_bytes_that_are_no_messages(raw, body, encoding):
    found = await sent(raw, body, grpc_encoding=encoding)
    assert found.code_and_reason == (grpc.StatusCode.INTERNAL, "MALFORMED_STREAM")


async def test_a_message_over_the_limit(raw):
    stream = raw.open("/t.T/Echo", None)
    raw.send(stream, b"\0" + (LIMIT + 7).to_bytes(4, "big"))
    found = await refused(raw, stream)
    assert found.code_and_reason == (grpc.StatusCode.RESOURCE_EXHAUSTED, "BODY_TOO_LARGE")
    assert dict(found.info.metadata) == {"limit": str(LIMIT), "value": str(LIMIT + 7)}
    assert found.headers["grpc-retry-pushback-ms"] == "-1"
    # The size of a compressed message is not known.
    found = await sent(raw, frame(gzip.compress(bytes(LIMIT + 1)), compressed=True), grpc_encoding="gzip")
    assert found.code_and_reason == (grpc.StatusCode.RESOURCE_EXHAUSTED, "BODY_TOO_LARGE")
    assert dict(found.info.metadata) == {"limit": str(LIMIT)}
    assert found.headers["grpc-retry-pushback-ms"] == "-1"


async def test_too_much_at_once_may_be_sent_later(raw, monkeypatch):
    monkeypatch.setattr(server_connection, "BUFFERED_BYTES", 0)
    async with connected(raw.writer.get_extra_info("peername")[1]) as client:
        body = frame(bytes(LIMIT))[: LIMIT // 2]
        for _ in range(5):
            stream = client.open("/t.T/Echo", None)
            for start in range(0, len(body), 16384):
                client.send(stream, body[start : start + 16384])
        found = await refused(client, stream)
    assert found.code_and_reason == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
    assert found.retry.retry_delay.seconds == 1
    assert found.headers["grpc-retry-pushback-ms"] == "1000"


@pytest.mark.parametrize("path", ["/t.T/Hang", "/t.T/Tick"])
async def test_a_deadline(raw, path):
    found = await refused(raw, raw.open(path, grpc_timeout="50m"))
    assert found.code_and_reason == (grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED")


async def test_a_handlers_fault(raw):
    found = await refused(raw, raw.open("/t.T/Fault"))
    assert found.code_and_reason == (grpc.StatusCode.INTERNAL, "INTERNAL")


async def test_a_server_that_stops(service):
    server = GrpcServer(max_message_bytes=LIMIT)
    server.add_registered_method_handlers("t.T", service.handlers())
    port = server.bind("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_unary("/t.T/Hang")(b"")
        await service.until(started=1)
        await server.stop(0)
        assert reason_of(await ends(call)) == "SHUTTING_DOWN"


@pytest.mark.parametrize("code", ["RESOURCE_EXHAUSTED", "UNAVAILABLE"])
async def test_a_clients_retry_policy_follows_the_servers_pushback(service, caplog, monkeypatch, code):
    caplog.set_level("DEBUG", "inferd.rpc")
    policy = {
        "maxAttempts": 4,
        "initialBackoff": "0.01s",
        "maxBackoff": "0.01s",
        "backoffMultiplier": 1,
        "retryableStatusCodes": ["RESOURCE_EXHAUSTED", "UNAVAILABLE"],
    }
    config = json.dumps({"methodConfig": [{"name": [{}], "retryPolicy": policy}]})
    attempts = 0

    async def overloaded(request: bytes, context) -> bytes:
        nonlocal attempts
        attempts += 1
        error = ServiceError(grpc.StatusCode[code], "OVERLOADED", "later", retry_after=0.01)
        await context.abort_with_status(error.to_grpc_status("an id"))

    monkeypatch.setattr(service, "echo", overloaded)
    # Clients repeat no call that is larger than 256 KiB.
    server = GrpcServer(max_message_bytes=1000)
    server.add_registered_method_handlers("t.T", service.handlers())
    port = server.bind("127.0.0.1:0")
    await server.start()
    options = [("grpc.service_config", config)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
        echo = channel.unary_unary("/t.T/Echo")
        error = await ends(echo(b"small"))
        assert (error.code(), attempts) == (grpc.StatusCode[code], 4)
        error = await ends(echo(bytes(1001)))
        assert (error.code(), reason_of(error)) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "BODY_TOO_LARGE")
    assert sum("BODY_TOO_LARGE" in record.getMessage() for record in caplog.records) == 1
    await server.stop()
