"""The bridge over real sockets: streams as server-sent events, and clients that leave or read slowly."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from inferd.rest_bridge.bridge import Bridge
from inferd.rest_bridge.transport import InProcessTransport
from inferd.services.calls.chain import Chain, call_links
from inferd.services.calls.methods import Methods
from inferd.services.errors import ServiceError
from tests.support.rest_server import (
    SERVICES,
    Reply,
    Rest,
    Servicer,
    Watched,
    connect,
    data_of,
    error_of,
    http_request,
    http_server,
    read_response,
    rest_fixture,
    settled,
    within,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")
rest = rest_fixture


# --- streams


async def test_a_stream(rest: Rest) -> None:
    async def handler(request: Any, context: Any) -> AsyncIterator[Any]:
        for count in range(3):
            yield Reply(text=request.text, count=count)
            await asyncio.sleep(0)

    response = await rest.say(rest.on(handler), stream=True, text="line\nline")
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["x-accel-buffering"] == "no"
    assert response.headers["x-request-id"]
    expected = [{"text": "line\nline", "count": count} for count in range(3)]
    assert data_of(response.text) == [*expected, "[DONE]"]


async def test_an_empty_stream(rest: Rest) -> None:
    async def handler(request: Any, context: Any) -> AsyncIterator[Any]:
        return
        yield

    assert await rest.events(rest.on(handler)) == ["[DONE]"]


async def test_a_stream_by_its_own_rule(rest: Rest) -> None:
    async def handler(request: Any, context: Any) -> AsyncIterator[Any]:
        yield Reply(text="only")

    response = await rest.client.get(f"/watch/{rest.on(handler)}")
    assert data_of(response.text) == [{"text": "only", "count": 0}]
    # This method also shares the paths of a unary one, and ends its streams in the same way.
    response = await rest.client.post(f"/say/{rest.on(handler)}:stream", json={"stream": False})
    assert data_of(response.text) == [{"text": "only", "count": 0}, "[DONE]"]


async def test_the_selector(rest: Rest) -> None:
    async def handler(request: Any, context: Any) -> Any:
        return Reply(text="unary")

    name = rest.on(handler)
    for selector in (False, None):
        assert (await rest.say(name, stream=selector)).json()["text"] == "unary"
    for selector in ("true", 1, [], {}):
        response = await rest.say(name, stream=selector)
        assert response.status_code == 400
        assert error_of(response)["param"] == "stream"


async def test_events_come_as_they_are_made(rest: Rest) -> None:
    steps = [asyncio.Event() for _ in range(3)]

    async def handler(request: Any, context: Any) -> AsyncIterator[Any]:
        for count, step in enumerate(steps):
            await step.wait()
            yield Reply(count=count)

    steps[0].set()
    body = {"name": rest.on(handler), "stream": True}
    async with rest.client.stream("POST", "/say", json=body) as response:
        got = ""
        async for text in response.aiter_text():
            got += text
            if got.endswith("\n\n") and (seen := len(data_of(got))) < 3:
                steps[seen].set()
    assert [event["count"] for event in data_of(got)[:-1]] == [0, 1, 2]


async def test_an_error_in_a_stream(rest: Rest) -> None:
    sent = asyncio.Event()

    async def handler(request: Any, context: Any) -> AsyncIterator[Any]:
        yield Reply(text="first")
        await sent.wait()
        raise ServiceError(grpc.StatusCode.UNAVAILABLE, "RUNTIME_GONE", "gone", retry_after=1)

    body = {"name": rest.on(handler), "stream": True}
    async with rest.client.stream("POST", "/say", json=body) as response:
        assert response.status_code == 200
        got = ""
        async for text in response.aiter_text():
            got += text
            sent.set()
    assert data_of(got) == [
        {"text": "first", "count": 0},
        {"error": {"message": "gone", "type": "server_error", "param": None, "code": "runtime_gone"}},
    ]


async def test_an_unexpected_error_in_a_stream(rest: Rest) -> None:
    async def handler(request: Any, context: Any) -> AsyncIterator[Any]:
        yield Reply(text="first")
        raise RuntimeError("secret")

    events = await rest.events(rest.on(handler))
    assert events[0]["text"] == "first"
    assert events[-1]["error"]["type"] == "server_error"
    assert "secret" not in str(events)


async def test_keep_alive_comments(rest: Rest) -> None:
    """Before the first message, and between messages."""
    heard = [asyncio.Event(), asyncio.Event()]

    async def handler(request: Any, context: Any) -> AsyncIterator[Any]:
        await heard[0].wait()
        yield Reply(count=1)
        await heard[1].wait()
        yield Reply(count=2)

    reader, writer = await connect(rest.brisk_port)
    body = json.dumps({"name": rest.on(handler), "stream": True}).encode()
    writer.write(http_request("/say", body))
    assert b" 200 " in await within(reader.readline())
    for event, comes_next in zip(heard, (b'"count":1', b'"count":2'), strict=True):
        for _ in range(3):
            await within(reader.readuntil(b": keep-alive\n\n"))
        event.set()
        await within(reader.readuntil(comes_next))
    await within(reader.readuntil(b"data: [DONE]\n\n"))
    writer.close()


async def test_an_error_after_a_keep_alive_is_an_event(rest: Rest) -> None:
    heard = asyncio.Event()

    async def handler(request: Any, context: Any) -> AsyncIterator[Any]:
        await heard.wait()
        raise ServiceError(grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND", "no such model")
        yield

    reader, writer = await connect(rest.brisk_port)
    body = json.dumps({"name": rest.on(handler), "stream": True}).encode()
    writer.write(http_request("/say", body, connection="close"))
    await within(reader.readuntil(b": keep-alive\n\n"))
    heard.set()
    rest_of_it = await within(reader.read())
    assert b'data: {"error":{"message":"no such model"' in rest_of_it
    assert b"[DONE]" not in rest_of_it
    assert rest_of_it.endswith(b"0\r\n\r\n")
    writer.close()


async def test_two_hundred_streams_at_once(rest: Rest) -> None:
    async def handler(request: Any, context: Any) -> AsyncIterator[Any]:
        for count in range(10):
            yield Reply(text=request.text, count=count)
            await asyncio.sleep(0)

    name = rest.on(handler)

    async def one(number: int) -> None:
        text = f"stream {number}"
        body = json.dumps({"name": name, "stream": True, "text": text}).encode()
        reader, writer = await connect(rest.port)
        writer.write(http_request("/say", body))
        _, _, got = await within(read_response(reader))
        expected = [{"text": text, "count": count} for count in range(10)]
        assert data_of(got.decode()) == [*expected, "[DONE]"]
        writer.close()

    await asyncio.gather(*(one(number) for number in range(200)))


# --- clients that leave, or lag


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_cancels_the_call(rest: Rest, stream: bool) -> None:
    watched = Watched()
    name = rest.on(watched.stream if stream else watched.unary)
    _, writer = await connect(rest.port)
    writer.write(http_request("/say", json.dumps({"name": name, "stream": stream}).encode()))
    await within(watched.started.wait())
    assert not watched.cancelled.is_set()
    writer.close()
    await within(watched.cancelled.wait())


async def test_a_client_that_leaves_in_the_middle_of_a_stream(rest: Rest) -> None:
    watched = Watched(replies=3)
    reader, writer = await connect(rest.port)
    body = json.dumps({"name": rest.on(watched.stream), "stream": True}).encode()
    writer.write(http_request("/say", body))
    await within(reader.readuntil(b'"text":"x"'))
    writer.transport.abort()
    await within(watched.cancelled.wait())


async def test_a_client_that_leaves_with_a_request_in_the_queue(rest: Rest) -> None:
    watched = Watched()
    body = json.dumps({"name": rest.on(watched.stream), "stream": True}).encode()
    _, writer = await connect(rest.port)
    writer.write(http_request("/say", body) + http_request("/say", b'{"name":"second"}'))
    await within(watched.started.wait())
    writer.close()
    await within(watched.cancelled.wait())


async def test_a_client_that_leaves_before_its_body_is_complete(rest: Rest) -> None:
    _, writer = await connect(rest.port)
    writer.write(http_request("/say", b'{"name":"x"}')[:-1])
    await writer.drain()
    writer.close()
    assert (await rest.say("x")).status_code == 200


async def test_a_client_that_lags_slows_the_stream(rest: Rest) -> None:
    watched = Watched(replies=2000, size=16384)
    body = json.dumps({"name": rest.on(watched.stream), "stream": True}).encode()
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        client.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(client, ("127.0.0.1", rest.port))
        await loop.sock_sendall(client, http_request("/say", body))
        await within(watched.started.wait())
        given = await settled(lambda: watched.given)
        assert given < watched.replies
        # It goes on as the client reads,
        while watched.given == given:
            assert await within(loop.sock_recv(client, 1 << 20))
    # and ends with it, though nobody waits for a message.
    await within(watched.cancelled.wait())


async def test_a_stop_ends_running_streams() -> None:
    watched = Watched(replies=1)
    servicer = Servicer()
    methods = Methods(Chain(call_links(10, 60)))
    servicer.add_to(methods)
    body = json.dumps({"name": servicer.on(watched.stream), "stream": True}).encode()
    async with http_server(Bridge(SERVICES, InProcessTransport(methods))) as port:
        reader, writer = await connect(port)
        writer.write(http_request("/say", body))
        await within(reader.readuntil(b'"text":"x"'))
    await within(watched.cancelled.wait())
    writer.close()
