"""Headers over real sockets: request ids, metadata, idempotency keys and deadlines."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.support.rest_server import (
    Reply,
    Rest,
    Watched,
    error_of,
    rest_fixture,
    within,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")
rest = rest_fixture


async def test_request_ids(rest: Rest) -> None:
    seen = []

    async def handler(request: Any, context: Any) -> Any:
        seen.append(dict(context.invocation_metadata())["x-request-id"])
        return Reply()

    name = rest.on(handler)
    for given in ("abc", "a b~", "x" * 128):
        response = await rest.client.post("/say", json={"name": name}, headers={"x-request-id": given})
        assert response.headers["x-request-id"] == given == seen[-1]
    for given in ("x" * 129, "", "a\tb", b"\xc3\xbc"):
        response = await rest.client.post("/say", json={"name": name}, headers={"x-request-id": given})
        assert response.headers["x-request-id"] == seen[-1] != given
        assert len(seen[-1]) == 32
    for path in ("/say", "/nope"):
        response = await rest.client.post(path, content=b"{", headers={"x-request-id": "mine"})
        assert response.headers["x-request-id"] == "mine"


async def test_forwarded_metadata(rest: Rest) -> None:
    metadata: dict[str, Any] = {}

    async def handler(request: Any, context: Any) -> Any:
        metadata.update(context.invocation_metadata())
        return Reply()

    headers = {
        "authorization": "Bearer x",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "tracestate": "a=b",
        "idempotency-key": "k",
        "user-agent": "test/1",
        "cookie": "secret",
        "x-other": "y",
    }
    await rest.client.post("/say", json={"name": rest.on(handler)}, headers=headers)
    ours = {
        key: value
        for key, value in metadata.items()
        if key not in ("x-request-id", "user-agent", "accept-encoding")
    }
    assert ours == {
        "authorization": "Bearer x",
        "traceparent": headers["traceparent"],
        "tracestate": "a=b",
        "idempotency-key": "k",
        "x-forwarded-user-agent": "test/1",
    }
    response = await rest.client.post("/say", json={"name": "x"}, headers={"authorization": b"\xff"})
    assert response.status_code == 200


@pytest.mark.parametrize(
    "keys", [[b""], [b"x" * 256], [b"\xc3\xbc"], [b"a\tb"], [b"a", b"b"], [b"a", b""]], ids=str
)
@pytest.mark.parametrize("path", ["/say", "/things/x"])
async def test_an_idempotency_key_is_not_lost(rest: Rest, keys: list[bytes], path: str) -> None:
    headers = [(b"idempotency-key", key) for key in keys]
    verb = "GET" if path == "/things/x" else "POST"
    response = await rest.client.request(verb, path, content=b'{"name":"x"}', headers=headers)
    assert response.status_code == 400
    error = error_of(response)
    assert error["code"] == "malformed_header"
    assert "idempotency-key" in error["message"]


async def test_idempotency_keys(rest: Rest) -> None:
    seen = []

    async def handler(request: Any, context: Any) -> Any:
        seen.append(dict(context.invocation_metadata())["idempotency-key"])
        return Reply()

    name = rest.on(handler)
    for keys in (["x" * 255], ['"a b~"'], ["same", "same"]):
        headers = [("idempotency-key", key) for key in keys]
        response = await rest.client.post("/say", json={"name": name}, headers=headers)
        assert response.status_code == 200
        assert seen[-1] == keys[0]


@pytest.mark.parametrize("stream", [False, True])
async def test_the_servers_metadata(rest: Rest, stream: bool) -> None:
    async def unary(request: Any, context: Any) -> Any:
        await context.send_initial_metadata(
            (("x-inferd-ignored", "seed"), ("x-inferd-tail", "a b"), ("x-other", "no"))
        )
        return Reply()

    async def events(request: Any, context: Any) -> AsyncIterator[Any]:
        yield await unary(request, context)

    response = await rest.say(rest.on(events if stream else unary), stream=stream)
    assert response.headers["x-inferd-ignored"] == "seed"
    assert response.headers["x-inferd-tail"] == "a b"
    assert "x-other" not in response.headers


@pytest.mark.parametrize(
    ("header", "value", "least", "most"),
    [
        ("grpc-timeout", "5S", 0, 5),
        ("grpc-timeout", "1H", 6, 3600),
        ("grpc-timeout", "1500m", 0, 1.5),
        ("grpc-timeout", "99999999H", 6, 1e9),
        ("grpc-timeout", "2000000u", 0, 2),
        ("x-request-timeout", "5", 0, 5),
        ("x-request-timeout", "2.5", 0, 2.5),
    ],
)
async def test_deadlines(rest: Rest, header: str, value: str, least: float, most: float) -> None:
    remaining = []

    async def handler(request: Any, context: Any) -> Any:
        remaining.append(context.time_remaining())
        return Reply()

    response = await rest.client.post("/say", json={"name": rest.on(handler)}, headers={header: value})
    assert response.status_code == 200
    # gRPC rounds deadlines up on the wire.
    assert least <= remaining[0] <= most * 1.01 + 1


@pytest.mark.parametrize("stream", [False, True])
async def test_a_deadline_that_passes(rest: Rest, stream: bool) -> None:
    watched = Watched()
    name = rest.on(watched.stream if stream else watched.unary)
    response = await rest.client.post(
        "/say", json={"name": name, "stream": stream}, headers={"grpc-timeout": "50m"}
    )
    assert response.status_code == 504
    assert error_of(response)["code"] == "deadline_exceeded"
    await within(watched.cancelled.wait())


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("grpc-timeout", "5"), ("grpc-timeout", "5s"), ("grpc-timeout", "S"), ("grpc-timeout", "-5S"),
        ("grpc-timeout", "123456789S"), ("grpc-timeout", "1.5S"), ("grpc-timeout", ""),
        ("x-request-timeout", "x"), ("x-request-timeout", "-1"), ("x-request-timeout", "nan"),
        ("x-request-timeout", "inf"), ("x-request-timeout", "1e3"),
    ],
)  # fmt: skip
async def test_malformed_deadlines(rest: Rest, header: str, value: str) -> None:
    response = await rest.client.post("/say", json={"name": "x"}, headers={header: value})
    assert response.status_code == 400
    assert header in error_of(response)["message"]
