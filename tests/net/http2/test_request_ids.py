"""The id of each call: the client's or a new one, in one header of every response."""

import grpc
import h2.events
import pytest

from tests.net.http2.service import ends
from tests.support.raw_http2 import RawClient

PATHS = ["/t.T/Echo", "/t.T/Count", "/t.T/Write", "/t.T/Refuse", "/t.T/RefuseLate", "/t.T/Fault", "/t.T/Nope"]


def ids_of(client: RawClient, stream: int) -> list[str]:
    """The values of x-request-id in the response's headers and trailers."""
    return [
        value
        for kind in (h2.events.ResponseReceived, h2.events.TrailersReceived)
        for event in client.of(kind, stream)
        for name, value in event.headers
        if name == "x-request-id"
    ]


@pytest.mark.parametrize("path", PATHS)
async def test_a_response_has_the_clients_id_once(raw, path):
    stream = raw.open(path, b"3", **{"x-request-id": "mine"})
    await raw.answer(stream)
    assert ids_of(raw, stream) == ["mine"]


@pytest.mark.parametrize("path", PATHS)
async def test_a_response_has_a_new_id_if_the_client_gives_none(raw, path):
    streams = [raw.open(path, b"3") for _ in range(2)]
    for stream in streams:
        await raw.answer(stream)
    first, second = (ids_of(raw, stream) for stream in streams)
    assert len(first) == len(second) == 1
    assert first != second
    assert len(first[0]) == 32


@pytest.mark.parametrize(
    "fields", [{"content-type": "text/plain"}, {"grpc-encoding": "zstd"}, {"x-bad-bin": "ü"}]
)
async def test_a_request_that_is_refused_by_its_headers_has_its_id(raw, fields):
    stream = raw.open("/t.T/Echo", **fields, **{"x-request-id": "mine"})
    await raw.answer(stream)
    assert ids_of(raw, stream) == ["mine"]


@pytest.mark.parametrize("given", ["", "x" * 129, "a\tb"])
async def test_an_id_that_rest_would_replace_is_replaced(raw, service, given):
    stream = raw.open("/t.T/Echo", **{"x-request-id": given})
    await raw.answer(stream)
    (used,) = ids_of(raw, stream)
    assert len(used) == 32
    assert [value for key, value in service.metadata if key == "x-request-id"] == [used]


async def test_a_client_finds_the_id_in_the_metadata(channel, service):
    sent = (("x-request-id", "mine"),)
    call = channel.unary_stream("/t.T/Count")(b"2", metadata=sent)
    # The headers come with the first message, and not before it.
    assert await call.read() == b"0"
    assert dict(await call.initial_metadata())["x-request-id"] == "mine"
    assert [await call.read(), await call.read()] == [b"1", grpc.aio.EOF]
    assert "x-request-id" not in dict(await call.trailing_metadata())

    # A status without a message has no headers but its own.
    error = await ends(channel.unary_unary("/t.T/Refuse")(b"", metadata=sent))
    assert error.code() is grpc.StatusCode.NOT_FOUND
    assert dict(error.trailing_metadata())["x-request-id"] == "mine"


async def test_the_id_takes_no_frame_of_its_own(raw):
    for path, frames in (("/t.T/Echo", 3), ("/t.T/Refuse", 1), ("/t.T/Nope", 1)):
        raw.events.clear()
        stream = raw.open(path)
        await raw.answer(stream)
        kinds = (h2.events.ResponseReceived, h2.events.DataReceived, h2.events.TrailersReceived)
        assert sum(len(raw.of(kind, stream)) for kind in kinds) == frames, path
