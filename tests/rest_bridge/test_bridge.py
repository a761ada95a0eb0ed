"""The bridge over real sockets: routes, parameters, health, CORS. Whole answers only."""

import json
import socket
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
from inferd.rest_bridge.transport import ChannelTransport
from tests.support.rest_server import (
    SERVICES,
    Rest,
    connect,
    error_of,
    http_server,
    read_response,
    rest_fixture,
    within,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")
rest = rest_fixture


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
        bridge = Bridge(SERVICES, ChannelTransport(channel))
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
