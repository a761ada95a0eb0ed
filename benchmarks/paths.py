"""The paths of a request and of its tokens through the front: bytes in, bytes out, without sockets.

All of the front is real but its sockets; the engine and the clients are made of bytes that are ready before
they are counted. Knows nothing of what is counted, or of how.
"""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import hpack
import uvloop
from google.protobuf.message import Message
from tokenizers import Tokenizer
from uvicorn.server import ServerState

from benchmarks.suite import frames
from benchmarks.suite.answer import Answer
from benchmarks.suite.model import tokenizer_folder
from benchmarks.suite.runtime import Connection as EngineConnection
from benchmarks.suite.runtime import Runtime as Engine
from inferd.rest_bridge.app import create_app
from inferd.rest_bridge.bridge import Bridge
from inferd.rest_bridge.docs_page import docs_routes
from inferd.rest_bridge.encode import Encoder
from inferd.rest_bridge.http_protocol import HttpProtocol
from inferd.rest_bridge.http_server import HttpServer
from inferd.rest_bridge.openapi import document
from inferd.rest_bridge.transport import InProcessTransport
from inferd.services.app.grpc_services import create_methods
from inferd.services.app.load_models import load_models
from inferd.services.app.service_descriptors import JOB_MESSAGE, SERVICES
from inferd.services.calls.methods import Methods
from inferd.services.config import Config
from inferd.services.net.http2.method import Method, method_of
from inferd.services.net.http2.server_connection import ServerConnection
from inferd.services.queue.job_queue import JobQueue
from inferd.v1 import completion_pb2, prompt_pb2

_FOLDER = Path(__file__).parents[1] / ".cache" / "bench" / "model"
PROMPT = "The quick brown fox jumps over the lazy dog, and then it does so again."
#: Of answers whose text is any.
TOKENS = 64
_UNARY_TOKENS = 10
#: What the model with parsers answers: reasoning, content and a call.
_WITH_CALL = (
    "<think>\nThe weather in Bern is asked for, and there is a tool that knows it.\n</think>\n\n"
    "I shall look that up for you, which takes but a moment.\n"
    '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Bern", "days": 3}}\n</tool_call>'
)
_WEATHER = {
    "name": "get_weather",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    },
}
_MODELS = ("m", "parsed")
#: Turns of the loop in which whatever can be done is done.
_TURNS = 16
#: Seconds in which a request must have come to the engine.
_PATIENCE = 5.0
_GRPC_PATH = "/inferd.v1.CompletionService/"


@dataclass(frozen=True)
class CallKind:
    """One kind of call. `request` is HTTP's body, or the RPC's message; `end` ends a good answer."""

    name: str
    target: str
    request: bytes
    end: bytes
    is_grpc: bool = False
    is_streamed: bool = True


class Meter(Protocol):
    """What counts: only between `start` and `stop`, which name a part ("request", "token")."""

    def start(self) -> None: ...
    def stop(self, part: str) -> None: ...


class Turn:
    """Awaited, lets the loop turn once."""

    def __await__(self) -> Any:
        yield


class Wire:
    """A transport that keeps what is written: `out`."""

    def __init__(self) -> None:
        self.out: list[bytes] = []
        # A call of C, as a socket's is: it is no part of what is counted.
        self.write = self.out.append
        self.writelines = self.out.extend
        self._closing = False

    def take(self) -> bytes:
        """What was written since the last time."""
        data = b"".join(self.out)
        self.out.clear()
        return data

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        self._closing = True

    abort = close

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)}.get(name, default)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...


class _Answer(Answer):
    """The same tokens for each request: those of `text`, where it is given."""

    def __init__(self, file: Path, text: str = "") -> None:
        super().__init__(str(file))
        self.length = TOKENS
        if text:
            self._ids = Tokenizer.from_file(str(file)).encode(text, add_special_tokens=False).ids
            self.length = len(self._ids)

    def token_ids(self, start: int, count: int) -> list[int]:
        return super().token_ids(0, count)


class _Loop(uvloop.Loop):
    """Connects to the engines of this process, by their ports."""

    def __init__(self) -> None:
        self.engines: dict[int, Engine] = {}
        self.connections: dict[int, tuple[Any, Wire, Any, Wire]] = {}

    async def create_connection(
        self, protocol_factory: Any, host: Any = None, port: Any = None, **_: Any
    ) -> Any:
        ours, theirs = Wire(), Wire()
        front, engine = protocol_factory(), EngineConnection(self.engines[port])
        self.connections[port] = front, ours, engine, theirs
        front.connection_made(ours)
        engine.connection_made(theirs)
        front.data_received(theirs.take())
        return ours, front


class Front:
    """An inferd, to be made in a loop of `running`."""

    def __init__(self, loop: _Loop, methods: Methods, bridge: Bridge, config: Config) -> None:
        self._loop = loop
        self._methods = methods
        self._http = HttpServer(_app(bridge, config))
        self._http.config.load()
        self._state = ServerState()

    def paths(self) -> list[CallKind]:
        """All that are measured."""
        return _paths(self._loop.engines[1].answer, self._loop.engines[2].answer)

    def calls(self, path: CallKind, streams: int) -> "Calls":
        """That many at once, for as many rounds as are wanted."""
        port = 2 if path.name.endswith("parsers") else 1
        clients = _GrpcClients(self, path, streams) if path.is_grpc else _RestClients(self, path, streams)
        return Calls(path, streams, clients, self._loop, port)

    def http(self) -> HttpProtocol:
        """A connection of an HTTP client."""
        make: Any = self._http.config.http_protocol_class
        protocol: HttpProtocol = make(self._http.config, self._state, {})
        return protocol

    def grpc(self, target: str) -> ServerConnection:
        """A connection of a gRPC client, with the method that it calls."""
        service, name = target.strip("/").split("/")
        handler = self._methods.find(service, name)
        assert handler is not None
        methods: dict[str, Method] = {target: method_of(handler)}
        return ServerConnection(methods, 8 << 20, lambda _: None, lambda _: None)


class _RestClients:
    """A connection a stream."""

    def __init__(self, front: Front, path: CallKind, streams: int) -> None:
        head = (
            f"POST {path.target} HTTP/1.1\r\nhost: 127.0.0.1:8000\r\nuser-agent: client\r\naccept: */*\r\n"
            f"content-type: application/json\r\ncontent-length: {len(path.request)}\r\n\r\n"
        )
        self._request = head.encode() + path.request
        self._end = path.end
        self._wires = [Wire() for _ in range(streams)]
        self._protocols = [front.http() for _ in range(streams)]
        for protocol, wire in zip(self._protocols, self._wires, strict=True):
            protocol.connection_made(wire)

    def requests(self) -> list[tuple[Callable[[bytes], None], bytes]]:
        """What is to be received, by whom, for all to be asked once."""
        return [(protocol.data_received, self._request) for protocol in self._protocols]

    def written(self) -> bytes:
        """The beginning of what was written to the first of them."""
        return self._wires[0].take()[:500]

    def check(self) -> int:
        """How often the front wrote since the last time. Raises RuntimeError for a bad answer."""
        writes = 0
        for wire in self._wires:
            writes += len(wire.out)
            answer = wire.take()
            if not (answer.startswith(b"HTTP/1.1 200") and self._end in answer[-500:]):
                raise RuntimeError(f"a bad answer: {answer[:300]!r} … {answer[-300:]!r}")
        return writes


class _GrpcClients:
    """All streams on one connection."""

    def __init__(self, front: Front, path: CallKind, streams: int) -> None:
        self._path, self._streams = path, streams
        self._wire = Wire()
        self._protocol = front.grpc(path.target)
        self._protocol.connection_made(self._wire)
        self._encoder = hpack.Encoder()
        self._next = 1
        self._greeting = frames.PREFACE + frames.settings({frames.INITIAL_WINDOW_SIZE: frames.LARGEST_WINDOW})
        self._greeting += frames.window_update(0, 1 << 30)

    def requests(self) -> list[tuple[Callable[[bytes], None], bytes]]:
        if self._greeting:
            self._protocol.data_received(self._greeting)
            self._greeting = b""
            self._wire.take()
        flags = frames.END_HEADERS
        requests: list[tuple[Callable[[bytes], None], bytes]] = []
        for _ in range(self._streams):
            headers = [
                (":method", "POST"),
                (":scheme", "http"),
                (":path", self._path.target),
                (":authority", "127.0.0.1:50051"),
                ("te", "trailers"),
                ("content-type", "application/grpc"),
                ("user-agent", "client"),
            ]
            request = frames.frame(frames.HEADERS, flags, self._next, self._encoder.encode(headers))
            body = frames.grpc_message(self._path.request)
            request += frames.frame(frames.DATA, frames.END_STREAM, self._next, body)
            requests.append((self._protocol.data_received, request))
            self._next += 2
        return requests

    def written(self) -> bytes:
        return self._wire.take()[:500]

    def check(self) -> int:
        writes = len(self._wire.out)
        answers = self._wire.take()
        good = answers.count(self._path.end)
        if good != self._streams:
            raise RuntimeError(f"{good} good answers of {self._streams}: {answers[-300:]!r}")
        return writes


class Calls:
    """Calls of one path, `streams` at once: `round` makes them, and has their work metered."""

    def __init__(
        self, path: CallKind, streams: int, clients: _RestClients | _GrpcClients, loop: _Loop, port: int
    ) -> None:
        self.path = path
        self.streams = streams
        self._clients = clients
        self._loop = loop
        self._port = port
        #: Of a round: tokens that were metered as such, and those that count as the requests'.
        self.tokens = 0
        self.other_tokens = 0
        #: How often the front wrote to its clients.
        self.writes = 0

    async def round(self, meter: Meter, *, pause: Callable[[], None] | None = None, turns: int = 1) -> None:
        """Ask, and answer step by step: a step brings each stream's next token.

        The first token, and the last with the end, are the request's part. With `pause`, it is called before
        each step, unmetered. The loop turns `turns` times after a step.
        """
        requests = self._clients.requests()
        meter.start()
        for receive, data in requests:
            receive(data)
        for _ in range(_TURNS):
            await Turn()
        meter.stop("request")
        front, steps = await self._steps()
        first, middle, last = steps[0], steps[1:-1], steps[-1]
        receive = front.data_received
        meter.start()
        receive(first)
        for _ in range(_TURNS):
            await Turn()
        meter.stop("request")
        if pause is None:
            meter.start()
            for data in middle:
                receive(data)
                for _ in range(turns):
                    await Turn()
            meter.stop("token")
        else:
            for data in middle:
                pause()
                meter.start()
                receive(data)
                for _ in range(turns):
                    await Turn()
                meter.stop("token")
        if pause is not None:
            pause()
        meter.start()
        receive(last)
        for _ in range(_TURNS):
            await Turn()
        meter.stop("request")
        self.tokens = len(middle) * self.streams
        self.other_tokens = 2 * self.streams if middle else 0
        self.writes = self._clients.check()
        self._steps_done()

    async def _steps(self) -> tuple[Any, list[bytes]]:
        """The connection that was asked on, and all that the engine will write to it."""
        deadline = self._loop.time() + _PATIENCE
        while self._port not in self._loop.connections:
            # The first request of a model: what is loaded then is loaded in a thread.
            await Turn()
            if self._loop.time() > deadline:
                raise RuntimeError("the engine was not connected to")
        front, ours, engine, theirs = self._loop.connections[self._port]
        engine.data_received(ours.take())
        while len(engine.generations) < self.streams and self._loop.time() < deadline:
            await Turn()
            engine.data_received(ours.take())
        if len(engine.generations) != self.streams:
            came = f"{len(engine.generations)} of {self.streams} requests came to the engine"
            raise RuntimeError(f"{self.path.name}: {came}; {self._clients.written()!r}")
        steps = [theirs.take()]
        runtime = self._loop.engines[self._port]
        while engine.generations:
            runtime.step()
            if data := theirs.take():
                steps.append(data)
        return front, steps

    def _steps_done(self) -> None:
        front, ours, engine, theirs = self._loop.connections[self._port]
        engine.data_received(ours.take())
        if data := theirs.take():
            front.data_received(data)


@asynccontextmanager
async def running() -> AsyncIterator[Front]:
    """An inferd over simulated engines: one model without parsers and one with them. See `run`."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, _Loop)
    folder = tokenizer_folder(_FOLDER)
    for port, text in ((1, ""), (2, _WITH_CALL)):
        engine = Engine(folder)
        engine.answer = _Answer(folder / "tokenizer.json", text)
        # It steps when it is told to: not within a day.
        engine.pace.rate = 1e-5
        loop.engines[port] = engine
    parsers = [
        {"tool_call_parser": "none", "reasoning_parser": "none"},
        {"tool_call_parser": "hermes", "reasoning_parser": "qwen3"},
    ]
    models = [
        {"id": name, "path": str(folder), "runtimes": [{"grpc": f"127.0.0.1:{number}"}], **parser}
        for number, (name, parser) in enumerate(zip(_MODELS, parsers, strict=True), 1)
    ]
    config = Config.model_validate({"models": models})
    catalog = await load_models(config, lambda: None)
    for model in catalog:
        for runtime in model.replicas.runtimes:
            # Health checks would come in between.
            runtime._health.set_serving(True)  # type: ignore[attr-defined]
    queue = JobQueue(
        config.queue, catalog, run_seconds=10, encode=Encoder(JOB_MESSAGE).encode, on_available=lambda _: None
    )
    methods = create_methods(catalog, queue, config)
    yield Front(loop, methods, Bridge(SERVICES, InProcessTransport(methods)), config)


def run(main: Callable[[Front], Awaitable[None]]) -> None:
    """Run `main` with a front."""

    async def with_front() -> None:
        async with running() as front:
            await main(front)

    logging.basicConfig(level=logging.WARNING)
    with asyncio.Runner(loop_factory=_Loop) as runner:
        runner.run(with_front())


def _app(bridge: Bridge, config: Config) -> Any:
    async def serving() -> bool:
        return True

    pages = docs_routes(document(SERVICES))
    return create_app(bridge, serving, cors_origins=config.server.cors_origins, pages=pages, home="/docs")


def _paths(plain: Any, parsed: Any) -> list[CallKind]:
    chat, text = "/v1/chat/completions", "/v1/completions"
    messages = [{"role": "user", "content": PROMPT}]
    usage = f'"completion_tokens":{_UNARY_TOKENS}'.encode()
    tools = [{"type": "function", "function": _WEATHER}]
    done = b"data: [DONE]"
    ended = b"grpc-status\x010"

    def body(count: int, *, stream: bool, model: str = _MODELS[0], **fields: object) -> bytes:
        common = {"model": model, "max_tokens": count, "ignore_eos": True, "stream": stream}
        return json.dumps(common | fields).encode()

    def rpc(count: int) -> bytes:
        request: Message = completion_pb2.CreateCompletionRequest(
            model=_MODELS[0], prompt=[prompt_pb2.Prompt(text=PROMPT)], max_tokens=count, ignore_eos=True
        )
        return bytes(request.SerializeToString())

    return [
        CallKind("REST text stream", text, body(TOKENS, stream=True, prompt=PROMPT), done),
        CallKind("REST chat stream", chat, body(TOKENS, stream=True, messages=messages), done),
        CallKind(
            "REST chat stream, parsers",
            chat,
            body(parsed.length, stream=True, model=_MODELS[1], messages=messages, tools=tools),
            done,
        ),
        CallKind("gRPC text stream", _GRPC_PATH + "StreamCompletion", rpc(TOKENS), ended, is_grpc=True),
        CallKind(
            "REST unary", text, body(_UNARY_TOKENS, stream=False, prompt=PROMPT), usage, is_streamed=False
        ),
        CallKind(
            "REST chat unary",
            chat,
            body(_UNARY_TOKENS, stream=False, messages=messages),
            usage,
            is_streamed=False,
        ),
        CallKind(
            "gRPC unary",
            _GRPC_PATH + "CreateCompletion",
            rpc(_UNARY_TOKENS),
            ended,
            is_grpc=True,
            is_streamed=False,
        ),
    ]
