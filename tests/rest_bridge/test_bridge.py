"""The bridge over real sockets: requests and their answers, whole ones. Streams have a file of their own."""

import json
import socket
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import grpc
import httpx
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from inferd.rest_bridge.app import create_app
from inferd.rest_bridge.bridge import Bridge
from inferd.rest_bridge.http_server import listen
from inferd.rest_bridge.remote_health import ChannelHealth
from inferd.rest_bridge.transport import OverChannel
from inferd.services.errors import ServiceError, invalid

from tests.support.rest_server import (
    LIMIT,
    SERVICES,
    Reply,
    Rest,
    Watched,
    connect,
    error_of,
    http_request,
    http_server,
    read_response,
    rest_fixture,
    within,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")
rest = rest_fixture


# --- unary


async def test_unary(rest: Rest) -> None:
    response = await rest.say("plain", count=3, unknown="ignored")
    assert response.status_code == 200
    assert response.json() == {"text": "plain", "count": 3}
    assert response.headers["content-type"] == "application/json"
    assert int(response.headers["content-length"]) == len(response.content)


async def test_the_path_wins_over_the_body(rest: Rest) -> None:
    for path, name in (("a/b", "a/b"), ("a%2Fb%20c", "a/b c"), ("%E2%82%AC", "€")):
        response = await rest.client.post(f"/say/{path}/now", json={"name": "body"})
        assert response.json()["text"] == name
    # Where ** matches the empty text, the field is left to the body.
    assert (await rest.client.post("/say//now", json={"name": "body"})).json()["text"] == "body"


async def test_path_fields_have_types(rest: Rest) -> None:
    response = await rest.client.post("/numbers/18446744073709551615", json={"count": 1})
    assert response.json()["count"] == 2**64 - 1
    for bad in ("-1", "18446744073709551616", "x", "1.0", "%20"):
        response = await rest.client.post(f"/numbers/{bad}", json={})
        assert response.status_code == 400
        assert error_of(response)["param"] == "count"


async def test_success_status(rest: Rest) -> None:
    response = await rest.client.post("/made", json={"name": "made"})
    assert (response.status_code, response.json()["text"]) == (201, "made")


async def test_query_parameters(rest: Rest) -> None:
    query = (
        "size=-3&deep=false&tags=a&tags=b%20c&tags=d+e&thing.id=t&thing.color=red&numbers=1&numbers=-2"
        "&ratio=1e-3&data=aGk_&displayName=n&unknown=1&thing.unknown=1&thing=1&$alt=json&id=ignored"
    )
    response = await rest.client.get(f"/things/a/b?{query}")
    assert response.json() == {
        "id": "a/b",
        "size": -3,
        "deep": False,
        "tags": ["a", "b c", "d e"],
        "thing": {"id": "t", "color": "red"},
        "numbers": [1, -2],
        "ratio": 0.001,
        "data": "aGk/",
        "display_name": "n",
        "steps": [],
        "colour": "",
    }
    assert (await rest.client.get("/things/x?thing.color=COLOR_RED")).json()["thing"]["color"] == "red"


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("size=x", "size"), ("size=2147483648", "size"), ("size=", "size"), ("size=1&size=2", "size"),
        ("deep=1", "deep"), ("numbers=1&numbers=x", "numbers"), ("thing.color=blue", "thing.color"),
        ("ratio=1_0", "ratio"), ("ratio=%201", "ratio"), ("data=%3F%3F%3F", "data"),
        ("displayName=a&display_name=b", "displayName"), ("display_name=%ff", None),
        ("&".join(["size=1"] * 1001), None), ("since=nan", "since"), ("since=inf", "since"),
        ("since=1e30", "since"), ("since=", "since"), ("since=0x5", "since"), ("since=1&since=2", "since"),
        ("since=tomorrow", "since"), ("steps=1&steps=x", "steps"), ("steps=1_0", "steps"),
        ("colour=a&colour=b", "colour"),
    ],
)  # fmt: skip
async def test_bad_query_parameters(rest: Rest, query: str, param: str | None) -> None:
    response = await rest.client.get(f"/things/x?{query}")
    assert response.status_code == 400
    assert error_of(response)["param"] == param


async def test_times_in_a_query(rest: Rest) -> None:
    for since in (
        "1700000000.5",
        "17000000005e-1",
        "2023-11-14T22:13:20.500Z",
        "2023-11-14T23:13:20.5%2B01:00",
    ):
        response = await rest.client.get(f"/things/x?since={since}&steps=90&steps=1.5s&steps=-0.5")
        assert response.json()["since"] == "2023-11-14T22:13:20.500Z"
        assert response.json()["steps"] == ["90s", "1.500s", "-0.500s"]


async def test_the_members_of_an_inline_message(rest: Rest) -> None:
    response = await rest.client.get("/things/x?colour=red&mask=a,b&within.colour=blue&more.colour=no")
    assert response.json()["colour"] == "red"
    assert response.json()["mask"] == "a,b"
    assert response.json()["within"] == {"colour": "blue"}
    response = await rest.client.post("/painted/red", json={"colour": "blue", "size": 2})
    assert (response.json()["colour"], response.json()["size"]) == ("red", 2)


async def test_a_body_field(rest: Rest) -> None:
    response = await rest.client.patch("/things/x?size=2&thing.id=query", json={"color": "red"})
    assert response.json()["size"] == 2
    assert response.json()["thing"] == {"id": "", "color": "red"}
    assert error_of(await rest.client.patch("/things/x", json={"color": 1}))["param"] == "color"


# --- paths and verbs


async def test_unknown_paths(rest: Rest) -> None:
    for path in ("/", "/nope", "/say/", "/say/x", "/docs", "/openapi.json", "/redoc"):
        response = await rest.client.post(path, json={})
        assert response.status_code == 404
        error = error_of(response)
        assert (error["type"], error["code"]) == ("invalid_request_error", "path_not_found")


async def test_other_verbs(rest: Rest) -> None:
    response = await rest.client.get("/say")
    assert (response.status_code, response.headers["allow"]) == (405, "POST")
    assert error_of(response)["code"] == "method_not_allowed"
    response = await rest.client.delete("/things/x")
    assert response.headers["allow"] == "GET, PATCH"
    response = await rest.client.head("/say")
    assert (response.status_code, response.content) == (405, b"")


async def test_head_is_get_without_its_body(rest: Rest) -> None:
    response = await rest.client.head("/things/x")
    assert (response.status_code, response.content) == (200, b"")
    assert response.headers["content-type"] == "application/json"


async def test_malformed_paths(rest: Rest) -> None:
    for path in (b"/things/%", b"/things/%ff"):
        reader, writer = await connect(rest.port)
        writer.write(b"GET " + path + b" HTTP/1.1\r\nhost: x\r\n\r\n")
        status, _, body = await within(read_response(reader))
        assert (status, json.loads(body)["error"]["code"]) == (400, "malformed_path")
        writer.close()


async def test_methods_that_are_not_served(rest: Rest) -> None:
    for members in ({}, {"stream": True}):
        response = await rest.client.post("/nothing", json=members)
        assert response.status_code == 501
        error = error_of(response)
        assert (error["code"], error["message"]) == ("unimplemented", "this method is not served")


# --- bodies


@pytest.mark.parametrize("body", [b" ", b"{", b"[]", b"null", b'{"a":1}{}', b"\xff", b'{"name": 5}', b'"x"'])
async def test_malformed_bodies(rest: Rest, body: bytes) -> None:
    response = await rest.client.post("/say", content=body)
    assert response.status_code == 400
    assert error_of(response)["type"] == "invalid_request_error"


async def test_an_empty_body_is_the_empty_document(rest: Rest) -> None:
    for request in (
        http_request("/say"),
        http_request("/say", content_type="application/x-www-form-urlencoded"),
        b"POST /say HTTP/1.1\r\nhost: x\r\n\r\n",
        b"POST /say HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    ):
        reader, writer = await connect(rest.port)
        writer.write(request)
        status, _, body = await within(read_response(reader))
        assert (status, json.loads(body)) == (200, {"text": "", "count": 0})
        writer.close()


async def test_an_empty_body_where_something_is_required(rest: Rest) -> None:
    error = error_of(await rest.client.post("/needy", content=b""))
    assert error["code"] == "malformed_json"
    assert "the body is empty" in error["message"]
    # The path says all that is required.
    assert (await rest.client.post("/needy/x", content=b"")).json()["name"] == "x"


async def test_malformed_json_says_where(rest: Rest) -> None:
    response = await rest.client.post("/say", content=b'{"name":\n  x}')
    error = error_of(response)
    assert error["code"] == "malformed_json"
    assert "line 2" in error["message"]
    assert "column 3" in error["message"]


@pytest.mark.parametrize(
    "content_type",
    [
        None, "application/json", "application/json; charset=utf-8", 'Application/JSON;charset="UTF-8"',
        "application/vnd.api+json", "text/plain", "text/plain;charset=UTF-8", "application/json; profile=x",
        "",
    ],
)  # fmt: skip
async def test_accepted_content_types(rest: Rest, content_type: str | None) -> None:
    headers = {} if content_type is None else {"content-type": content_type}
    response = await rest.client.post("/say", content=b'{"name":"x"}', headers=headers)
    assert response.status_code == 200, response.text


@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": "application/x-www-form-urlencoded"},
        {"content-type": "multipart/form-data; boundary=x"},
        {"content-type": "application/xml"},
        {"content-type": "application/jsonx"},
        {"content-type": "application/json; charset=latin1"},
        {"content-encoding": "gzip"},
    ],
)
async def test_refused_content_types(rest: Rest, headers: dict[str, str]) -> None:
    response = await rest.client.post("/say", content=b'{"name":"x"}', headers=headers)
    assert response.status_code == 415
    error = error_of(response)
    assert error["code"] == "unsupported_media_type"
    assert "application/json" in error["message"]


async def test_content_encoding_identity(rest: Rest) -> None:
    headers = {"content-encoding": "identity"}
    assert (await rest.client.post("/say", content=b"{}", headers=headers)).status_code == 200


async def test_a_body_at_the_limit(rest: Rest) -> None:
    body = b'{"name":"x"}'.ljust(LIMIT)
    assert (await rest.client.post("/say", content=body)).status_code == 200
    response = await rest.client.post("/say", content=body + b" ")
    assert (response.status_code, response.headers["connection"]) == (413, "close")
    error = error_of(response)
    assert (error["code"], error["type"]) == ("body_too_large", "invalid_request_error")
    assert str(LIMIT) in error["message"]


async def test_a_body_too_large_is_refused_before_it_is_sent(rest: Rest) -> None:
    reader, writer = await connect(rest.port)
    writer.write(
        b"POST /say HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 999999999\r\n\r\n"
    )
    status, _, body = await within(read_response(reader))
    assert status == 413
    assert json.loads(body)["error"]["code"] == "body_too_large"
    writer.close()


async def test_a_chunked_body_too_large(rest: Rest) -> None:
    async def parts() -> AsyncIterator[bytes]:
        for _ in range(64):
            yield b" " * 65536

    response = await rest.client.post("/say", content=parts())
    assert response.status_code == 413
    small = await rest.client.post("/say", content=_parts(b'{"na', b'me":"x', b'"}'))
    assert small.json()["text"] == "x"


async def _parts(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


# --- errors


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("CANCELLED", 499, "invalid_request_error"),
        ("UNKNOWN", 500, "server_error"),
        ("INVALID_ARGUMENT", 400, "invalid_request_error"),
        ("DEADLINE_EXCEEDED", 504, "server_error"),
        ("NOT_FOUND", 404, "invalid_request_error"),
        ("ALREADY_EXISTS", 409, "invalid_request_error"),
        ("PERMISSION_DENIED", 403, "permission_error"),
        ("RESOURCE_EXHAUSTED", 429, "rate_limit_error"),
        ("FAILED_PRECONDITION", 409, "invalid_request_error"),
        ("ABORTED", 409, "invalid_request_error"),
        ("OUT_OF_RANGE", 400, "invalid_request_error"),
        ("UNIMPLEMENTED", 501, "server_error"),
        ("INTERNAL", 500, "server_error"),
        ("UNAVAILABLE", 503, "server_error"),
        ("DATA_LOSS", 500, "server_error"),
        ("UNAUTHENTICATED", 401, "authentication_error"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_errors(rest: Rest, code: str, status: int, kind: str, stream: bool) -> None:
    async def unary(request: Any, context: Any) -> Any:
        raise ServiceError(grpc.StatusCode[code], "SOME_REASON", "what happened: ünïcode")

    async def events(request: Any, context: Any) -> AsyncIterator[Any]:
        await unary(request, context)
        yield

    response = await rest.say(rest.on(events if stream else unary), stream=stream)
    assert response.status_code == status
    assert error_of(response) == {
        "message": "what happened: ünïcode",
        "type": kind,
        "param": None,
        "code": "some_reason",
    }


@pytest.mark.parametrize(
    ("code", "final"),
    [("FAILED_PRECONDITION", True), ("ALREADY_EXISTS", True), ("ABORTED", False), ("UNAVAILABLE", False)],
)
async def test_conflicts_that_stay_are_not_sent_again(rest: Rest, code: str, final: bool) -> None:
    """OpenAI's SDKs repeat every 409 that does not say this."""

    async def handler(request: Any, context: Any) -> Any:
        raise ServiceError(grpc.StatusCode[code], "SOME_REASON", "what happened")

    response = await rest.say(rest.on(handler))
    assert response.headers.get("x-should-retry") == ("false" if final else None)


async def test_the_field_at_fault_and_when_to_try_again(rest: Rest) -> None:
    async def field(request: Any, context: Any) -> Any:
        raise invalid("messages[0].content", "too bad")

    response = await rest.say(rest.on(field))
    assert error_of(response)["param"] == "messages[0].content"
    assert "retry-after" not in response.headers

    for seconds, header in ((0.2, "1"), (1, "1"), (1.001, "2"), (30, "30")):

        async def later(request: Any, context: Any, seconds: float = seconds) -> Any:
            raise ServiceError(grpc.StatusCode.UNAVAILABLE, "LATER", "later", retry_after=seconds)

        response = await rest.say(rest.on(later))
        assert response.headers["retry-after"] == header


@pytest.mark.parametrize("stream", [False, True])
async def test_internals_do_not_leak(rest: Rest, stream: bool) -> None:
    async def unary(request: Any, context: Any) -> Any:
        raise RuntimeError("secret")

    async def events(request: Any, context: Any) -> AsyncIterator[Any]:
        await unary(request, context)
        yield

    response = await rest.say(rest.on(events if stream else unary), stream=stream)
    assert response.status_code == 500
    assert "secret" not in response.text
    assert error_of(response)["type"] == "server_error"


async def test_a_connection_lives_on_after_an_error(rest: Rest) -> None:
    bad = http_request("/say", b"{")
    good = http_request("/say", b'{"name":"x"}')
    unknown = http_request("/nope", b"x" * 100_000)
    unsupported = http_request("/say", b"x", content_type="text/html")
    reader, writer = await connect(rest.port)
    # Pipelined: all are sent before an answer is read.
    writer.write(bad + good + unknown + good + unsupported + bad + good)
    statuses = [(await within(read_response(reader)))[0] for _ in range(7)]
    assert statuses == [400, 200, 404, 200, 415, 400, 200]
    writer.close()


# --- headers


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


# --- the application


async def test_health(rest: Rest) -> None:
    response = await rest.client.get("/health")
    assert (response.status_code, response.json()) == (200, {"status": "serving"})


async def test_health_of_a_remote_server() -> None:
    servicer = health.aio.HealthServicer()
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        bridge = Bridge(SERVICES, OverChannel(channel))
        app = create_app(bridge, ChannelHealth(channel), home="/docs")
        async with (
            http_server(app) as http_port,
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{http_port}", trust_env=False) as client,
        ):
            assert (await client.get("/health")).status_code == 200
            await servicer.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
            response = await client.get("/health")
            assert (response.status_code, response.json()) == (503, {"status": "not_serving"})
            await server.stop(0)
            assert (await client.get("/health")).status_code == 503
            # A server that cannot be reached is named by no error.
            response = await client.post("/say", json={"name": "x"})
            assert response.status_code == 503
            error = error_of(response)
            assert (error["code"], error["message"]) == ("unavailable", "the service is not available")
            response = await client.get("/")
            assert response.headers["location"] == "/docs"


async def test_cors(rest: Rest) -> None:
    headers = {"origin": "https://page.example", "access-control-request-method": "POST"}
    response = await rest.client.options("/say", headers=headers)
    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] == "*"
    response = await rest.client.post("/say", json={"name": "x"}, headers=headers)
    assert response.headers["access-control-allow-origin"] == "*"
    exposed = set(response.headers["access-control-expose-headers"].split(", "))
    assert {"location", "retry-after", "preference-applied", "x-should-retry"} <= exposed
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{rest.brisk_port}", trust_env=False) as client:
        response = await client.post("/say", json={"name": "x"}, headers=headers)
        assert "access-control-allow-origin" not in response.headers


async def test_an_error_of_the_bridge_itself() -> None:
    async def broken(call: Any) -> Any:
        raise RuntimeError("secret")

    bridge = Bridge(SERVICES, SimpleNamespace(unary=broken, stream=None))
    async with (
        http_server(bridge) as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client,
    ):
        for members in ({}, {"stream": True}):
            response = await client.post("/say", json=members)
            assert response.status_code == 500
            assert error_of(response)["code"] == "internal"
            assert "secret" not in response.text


async def test_connections_send_at_once() -> None:
    with listen("127.0.0.1", 0) as listener:
        # What makes asyncio set TCP_NODELAY: without it an answer may wait 40 ms for the client's ACK.
        assert listener.proto == socket.IPPROTO_TCP


async def test_an_address_in_use() -> None:
    with listen("127.0.0.1", 0) as listener, pytest.raises(OSError):
        listen("127.0.0.1", listener.getsockname()[1])
