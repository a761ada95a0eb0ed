"""A bridge on real sockets: uvicorn in front, fake servicers behind, over both transports."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import httpx
import pytest
import pytest_asyncio
from google.protobuf.message_factory import GetMessageClass

from inferd.rest_bridge.app import create_app
from inferd.rest_bridge.bridge import Bridge
from inferd.rest_bridge.http_server import HttpServer, listen
from inferd.rest_bridge.transport import ChannelTransport, InProcessTransport, Transport
from inferd.services.calls.chain import Chain, call_links
from inferd.services.calls.methods import Methods
from tests.support.proto_source import compile_services

LIMIT = 256 * 1024

SERVICES = compile_services("""
message Request { string name = 1; string text = 2; uint64 count = 3; Thing thing = 4; }
message Reply { string text = 1; uint64 count = 2; }
message Query {
  string id = 1; int32 size = 2; optional bool deep = 3; repeated string tags = 4; Thing thing = 5;
  repeated int64 numbers = 6; double ratio = 7; bytes data = 8; string display_name = 9;
  google.protobuf.Timestamp since = 10; repeated google.protobuf.Duration steps = 11;
  More more = 12 [$json.inline = true];
}
message More { string colour = 1; google.protobuf.FieldMask mask = 2; More within = 3; }
message Thing { string id = 1; Color color = 2; }
message Needy { string name = 1 [$required]; }
enum Color { COLOR_UNSPECIFIED = 0; COLOR_RED = 1 [(inferd.options.v1.json_value) = "red"]; }

service Bridged {
  rpc Say(Request) returns (Reply) {
    $http = {
      post: "/say" body: "*"
      additional_bindings: {post: "/say/{name=**}/now" body: "*"}
      additional_bindings: {post: "/numbers/{count}" body: "*"}
    };
    $streaming = {rpc: "Stream" selector: "stream" done: "[DONE]"};
  }
  rpc Stream(Request) returns (stream Reply) { $http = {post: "/say/{name}:stream" body: "*"}; }
  rpc Watch(Request) returns (stream Reply) { $http = {get: "/watch/{name}"}; }
  rpc Look(Query) returns (Query) { $http = {get: "/things/{id=**}"}; }
  rpc Paint(Query) returns (Query) { $http = {post: "/painted/{colour}" body: "*"}; }
  rpc Change(Query) returns (Query) { $http = {patch: "/things/{id}" body: "thing"}; }
  rpc Need(Needy) returns (Needy) {
    $http = {post: "/needy" body: "*" additional_bindings: {post: "/needy/{name}" body: "*"}};
  }
  rpc Make(Request) returns (Reply) { $http = {post: "/made" body: "*"}; $success_status = 201; }
}
service Absent {
  rpc Nothing(Request) returns (Reply) {
    $http = {post: "/nothing" body: "*"};
    $streaming = {rpc: "Nothings" selector: "stream"};
  }
  rpc Nothings(Request) returns (stream Reply);
}
""")
BRIDGED = SERVICES[0]
Reply: Any = GetMessageClass(BRIDGED.methods_by_name["Say"].output_type)


class Servicer:
    """Answers by the test's own handler, which the request's name picks."""

    def __init__(self) -> None:
        self.handlers: dict[str, Callable[..., Any]] = {}

    def on(self, handler: Callable[..., Any]) -> str:
        """Register a handler, and get the name that picks it."""
        name = f"h{len(self.handlers)}"
        self.handlers[name] = handler
        return name

    async def say(self, request: Any, context: Any) -> Any:
        handler = self.handlers.get(request.name)
        if handler is None:
            return Reply(text=request.name, count=request.count)
        return await handler(request, context)

    async def stream(self, request: Any, context: Any) -> AsyncIterator[Any]:
        messages = self.handlers[request.name](request, context)
        try:
            async for message in messages:
                yield message
        finally:
            await messages.aclose()

    async def look(self, request: Any, context: Any) -> Any:
        return request

    def add_to(self, methods: Methods) -> None:
        handlers = {}
        for name, behaviour in {
            "Say": self.say,
            "Make": self.say,
            "Look": self.look,
            "Change": self.look,
            "Paint": self.look,
            "Need": self.look,
            "Stream": self.stream,
            "Watch": self.stream,
        }.items():
            method = BRIDGED.methods_by_name[name]
            make = (
                grpc.unary_stream_rpc_method_handler
                if method.server_streaming
                else grpc.unary_unary_rpc_method_handler
            )
            handlers[name] = make(
                behaviour,
                GetMessageClass(method.input_type).FromString,
                GetMessageClass(method.output_type).SerializeToString,
            )
        methods.add_registered_method_handlers(BRIDGED.full_name, handlers)


class Rest:
    """A running bridge. `port` sends keep-alive comments next to never, `brisk_port` at once."""

    def __init__(self, servicer: Servicer, port: int, brisk_port: int, is_remote: bool) -> None:
        self.servicer = servicer
        self.on = servicer.on
        self.port = port
        self.brisk_port = brisk_port
        self.is_remote = is_remote
        self.client = httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}",
            timeout=30,
            limits=httpx.Limits(max_connections=None),
            trust_env=False,
        )

    async def say(self, name: str, **members: Any) -> httpx.Response:
        return await self.client.post("/say", json={"name": name, **members})

    async def events(self, name: str, **members: Any) -> list[Any]:
        """The data of all events of a complete stream; comments are dropped."""
        response = await self.say(name, stream=True, **members)
        assert response.status_code == 200, response.text
        return data_of(response.text)


def data_of(text: str) -> list[Any]:
    assert text.endswith("\n\n")
    events = [event for event in text[:-2].split("\n\n") if not event.startswith(":")]
    assert all(event.startswith("data: ") for event in events)
    return [
        data if data == "[DONE]" else json.loads(data)
        for data in (event[len("data: ") :] for event in events)
    ]


@contextlib.asynccontextmanager
async def http_server(app: Any) -> AsyncIterator[int]:
    listener = listen("127.0.0.1", 0)
    server = HttpServer(app, grace_seconds=1)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield listener.getsockname()[1]
    finally:
        server.stop()
        await serving


async def always() -> bool:
    return True


TRANSPORTS = ("in process", "over a channel")


@contextlib.asynccontextmanager
async def transport_to(methods: Methods, kind: str) -> AsyncIterator[Transport]:
    if kind == "in process":
        yield InProcessTransport(methods)
        return
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    methods.attach(server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield ChannelTransport(channel)
    finally:
        await server.stop(0)


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=TRANSPORTS)
async def rest_fixture(request: pytest.FixtureRequest) -> AsyncIterator[Rest]:
    """The module's bridge, once over each transport: `rest = rest_fixture` in a test module."""
    servicer = Servicer()
    methods = Methods(Chain(call_links(1000, 60)))
    servicer.add_to(methods)
    async with contextlib.AsyncExitStack() as stack:
        transport = await stack.enter_async_context(transport_to(methods, request.param))
        calm = Bridge(SERVICES, transport, max_body_bytes=LIMIT, keep_alive_seconds=60)
        brisk = Bridge(SERVICES, transport, max_body_bytes=LIMIT, keep_alive_seconds=0.02)
        port = await stack.enter_async_context(http_server(create_app(calm, always, cors_origins=["*"])))
        brisk_port = await stack.enter_async_context(http_server(brisk))
        rest = Rest(servicer, port, brisk_port, request.param != "in process")
        stack.push_async_callback(rest.client.aclose)
        yield rest


def error_of(response: httpx.Response) -> dict[str, Any]:
    body = response.json()
    assert list(body) == ["error"]
    assert list(body["error"])[:4] == ["message", "type", "param", "code"]
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"]
    return body["error"]


def http_request(path: str, body: bytes = b"", **headers: Any) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "host: x", f"content-length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def connect(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", port)


async def read_response(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    """One response of a connection, with a content-length or chunked."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    status = int(head[0].split(" ")[1])
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in head[1:] if line)}
    if "content-length" in headers:
        return status, headers, await reader.readexactly(int(headers["content-length"]))
    body = b""
    while size := int(await reader.readline(), 16):
        body += await reader.readexactly(size)
        await reader.readline()
    await reader.readline()
    return status, headers, body


class Watched:
    """A handler that runs until it is cancelled, and says so."""

    def __init__(self, replies: int = 0, size: int = 1) -> None:
        self.started = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.replies = replies
        self.size = size
        self.given = 0

    async def unary(self, request: Any, context: Any) -> Any:
        self.started.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.cancelled.set()

    async def stream(self, request: Any, context: Any) -> AsyncIterator[Any]:
        self.started.set()
        try:
            for _ in range(self.replies):
                self.given += 1
                yield Reply(text="x" * self.size)
            await asyncio.Event().wait()
        finally:
            self.cancelled.set()


async def within(awaitable: Any) -> Any:
    async with asyncio.timeout(20):
        return await awaitable


async def settled(number: Callable[[], int]) -> int:
    """The number, once it has stopped growing."""
    last, same = number(), 0
    while same < 10:
        await asyncio.sleep(0.02)
        same = same + 1 if number() == last else 0
        last = number()
    return last
