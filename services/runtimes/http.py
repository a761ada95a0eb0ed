"""The runtime behind SGLang's HTTP server: a stock `sglang serve`.

Tokens in and tokens out by `/generate`, and whether the engine can be reached. What the messages mean is in
`http_wire`.
"""

import asyncio
import contextlib
import logging
import socket
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import grpc
import httpcore
import httpx
import orjson
from inferd.services.errors import ServiceError
from inferd.services.runtimes.base import GenerateRequest, RuntimeInfo
from inferd.services.runtimes.engine_errors import aborted, failed, late, unavailable
from inferd.services.runtimes.http_wire import AnswerReader, EventReader, to_body, to_service_error
from inferd.services.runtimes.token_sink import TokenSink
from inferd.services.runtimes.watch import CHECK_TIMEOUT, Watch

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Seconds that a connection may take to be made.
CONNECT_TIMEOUT = 2.0
#: Seconds that a question that is no generation may take.
INFO_TIMEOUT = 5.0
#: Seconds that the end of an answer may take after its last token: the connection is then kept.
END_TIMEOUT = 0.5
#: Generations at once: each holds a connection. More wait for one.
MAX_GENERATIONS = 1024

#: Less than SGLang's server keeps an idle connection (5 s): else a request may meet its end.
_KEEPALIVE_EXPIRY = 3.0
# A host that vanished without a FIN.
_SOCKET_OPTIONS = [
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    *(
        (socket.IPPROTO_TCP, getattr(socket, name), value)
        for name, value in (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 2))
        if hasattr(socket, name)
    ),
]
#: What httpcore raises, and what the layers below it do not translate.
_LOST = (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError, OSError)


class HttpRuntime:
    """One engine at `url` (http or https, with a path where it is behind one). To be made on the loop that
    uses it.

    `on_change` is called on that loop whenever `serving` changed. What the engine was started without is in
    `unsupported` and not in `media` once it serves: SGLang ignores a seed without
    --enable-deterministic-inference, a priority without --enable-priority-scheduling, and an image where the
    model has no eyes.
    """

    def __init__(self, url: str, *, on_change: Callable[[], None] = lambda: None) -> None:
        self.name = url.rstrip("/")
        self.unsupported: frozenset[str] = frozenset()
        self.media: frozenset[str] = frozenset({"image", "audio"})
        self._base = httpcore.URL(self.name)
        context = httpx.create_ssl_context() if self._base.scheme == b"https" else None

        def pool(connections: int) -> httpcore.AsyncConnectionPool:
            return httpcore.AsyncConnectionPool(
                context,
                max_connections=connections,
                keepalive_expiry=_KEEPALIVE_EXPIRY,
                socket_options=_SOCKET_OPTIONS,
            )

        self._generations = pool(MAX_GENERATIONS)
        # Of its own, so that a question never waits for a generation.
        self._questions = pool(16)
        self._watch = Watch(self.name, self._check, on_change)
        self._learned = False
        self._health_path = b"/ready"
        self._closed = False
        # Kept from the garbage collector until they are done.
        self._aborts: set[asyncio.Task[None]] = set()

    @property
    def serving(self) -> bool:
        """What the last health check said; False before the first."""
        return self._watch.serving

    async def start(self) -> None:
        """Begin to watch the engine's health. Returns at once."""
        self._watch.start()

    async def close(self) -> None:
        """Stop watching and close the connections. Calls under way end with UNAVAILABLE. Idempotent."""
        if self._closed:
            return
        self._closed = True
        await self._watch.close()
        for abort in list(self._aborts):
            abort.cancel()
        await asyncio.gather(*self._aborts, return_exceptions=True)
        await self._questions.aclose()
        await self._generations.aclose()
        self._watch.set_serving(False)

    async def info(self) -> RuntimeInfo:
        """What the engine says of itself; not when it was started.

        Raises ServiceError UNAVAILABLE where it is down, DEADLINE_EXCEEDED after `INFO_TIMEOUT`.
        """
        self._check_open()
        server = await self._ask(b"/server_info")
        return RuntimeInfo(
            model_path=server.get("model_path"), max_total_tokens=server.get("max_total_num_tokens")
        )

    async def waiting(self) -> int:
        """How many requests wait in the engine's queue."""
        self._check_open()
        status, body = await self._send(b"GET", b"/v1/loads?include=core")
        if status == 404:
            raise ServiceError(
                grpc.StatusCode.UNIMPLEMENTED, "NO_LOADS", "the runtime does not tell its load"
            )
        loads = _document(status, body).get("loads", [])
        return sum(load.get("num_waiting_reqs", 0) for load in loads)

    async def fetch_tokenizer(self, folder: Path) -> None:
        """UNIMPLEMENTED: SGLang hands its tokenizer out over gRPC only."""
        raise ServiceError(
            grpc.StatusCode.UNIMPLEMENTED, "NO_TOKENIZER", "an http runtime hands out no tokenizer"
        )

    async def generate(self, request: GenerateRequest, sink: TokenSink) -> None:
        """Generate; see `Runtime.generate`. With `stream` False, one delta.

        An empty prompt is INVALID_ARGUMENT. Ids beyond the model's vocabulary kill SGLang: the callers have
        checked these.
        """
        self._check_open()
        if not request.token_ids:
            raise ServiceError(grpc.StatusCode.INVALID_ARGUMENT, "EMPTY_PROMPT", "the prompt has no tokens")
        # All ids have one length, because SGLang aborts by prefix.
        rid = uuid.uuid4().hex
        message = self._request(b"POST", b"/generate", to_body(request, rid))
        generating = _Generating()
        self._watch.calls.add(generating)
        response: httpcore.Response | None = None
        try:
            response = await generating.wait(self._generations.handle_async_request(message))
            if response.status == 200 and request.stream:
                await _push_events(response, request, sink, generating)
            else:
                await _push_whole(response, request, sink, generating)
        except _Dropped:
            raise unavailable("the runtime went away") from None
        except _LOST as error:
            log.warning("%s: a call was lost: %r", self.name, error)
            raise unavailable() from None
        finally:
            try:
                if response is not None:
                    await response.aclose()
            finally:
                self._watch.calls.discard(generating)
                if not generating.is_finished and not self._closed:
                    self._abort(rid)

    def _abort(self, rid: str) -> None:
        """Tell the engine to end a request whose connection was closed: by itself it notices only after
        seconds. An abort of a request that it does not have does no harm."""
        task = asyncio.create_task(self._send_abort(rid), name=f"abort on {self.name}")
        self._aborts.add(task)
        task.add_done_callback(self._aborts.discard)

    async def _send_abort(self, rid: str) -> None:
        try:
            await self._send(b"POST", b"/abort_request", orjson.dumps({"rid": rid}))
        except ServiceError as error:
            log.debug("%s: abort: %s", self.name, error)

    def _check_open(self) -> None:
        if self._closed:
            raise unavailable("the runtime was closed")

    async def _check(self) -> bool:
        """Whether the engine can be reached; `serving` is set on the way.

        By /ready, which is answered from memory. An older SGLang has only /health, which takes a second and
        generates a token.
        """
        try:
            status, _ = await self._send(b"GET", self._health_path, seconds=CHECK_TIMEOUT)
            if status == 404 and self._health_path == b"/ready":
                self._health_path = b"/health"
                status, _ = await self._send(b"GET", self._health_path, seconds=CHECK_TIMEOUT)
        except ServiceError as error:
            self._watch.set_serving(False)
            self._learned = False
            # Late is not gone: keepalive ends the calls of a host that does not answer.
            return error.code is not grpc.StatusCode.UNAVAILABLE
        if status == 200 and not self._learned:
            await self._learn()
        self._watch.set_serving(status == 200)
        return True

    async def _learn(self) -> None:
        """Ask the engine, once after each start, what it was started with; what it does not tell, it is taken
        to have."""
        self._learned = True
        try:
            model, server = await self._ask(b"/model_info"), await self._ask(b"/server_info")
        except ServiceError as error:
            log.warning("%s does not tell of itself: %s", self.name, error)
            return
        self.media = frozenset(
            kind for kind in ("image", "audio") if model.get(f"has_{kind}_understanding", True)
        )
        self.unsupported = frozenset(
            name
            for name, key in (
                ("seed", "enable_deterministic_inference"),
                ("priority", "enable_priority_scheduling"),
            )
            if not server.get(key, True)
        )
        if not server.get("incremental_streaming_output", True):
            log.warning(
                "%s repeats all tokens in each message of a stream: "
                "start it with --incremental-streaming-output",
                self.name,
            )

    async def _ask(self, path: bytes) -> dict[str, Any]:
        return _document(*await self._send(b"GET", path))

    async def _send(
        self, method: bytes, path: bytes, body: bytes = b"", seconds: float = INFO_TIMEOUT
    ) -> tuple[int, bytes]:
        """The status and the body of the answer. Raises ServiceError UNAVAILABLE, DEADLINE_EXCEEDED."""
        try:
            async with asyncio.timeout(seconds):
                response = await self._questions.handle_async_request(self._request(method, path, body))
                try:
                    return response.status, await response.aread()
                finally:
                    await response.aclose()
        except httpcore.ConnectTimeout:
            raise unavailable() from None
        except TimeoutError:
            raise late() from None
        except _LOST:
            raise unavailable() from None

    def _request(self, method: bytes, path: bytes, body: bytes) -> httpcore.Request:
        base = self._base
        target = base.target.rstrip(b"/") + path
        url = httpcore.URL(scheme=base.scheme, host=base.host, port=base.port, target=target)
        host = b"[%b]" % base.host if b":" in base.host else base.host
        if base.port is not None:
            host += b":%d" % base.port
        headers = [(b"Host", host), (b"User-Agent", b"inferd")]
        if body:
            headers += [(b"Content-Type", b"application/json"), (b"Content-Length", b"%d" % len(body))]
        return httpcore.Request(
            method,
            url,
            headers=headers,
            content=body,
            extensions={"timeout": {"connect": CONNECT_TIMEOUT}},
        )


class _Dropped(Exception):
    """The engine of a generation is gone."""


class _Generating:
    """A generation under way."""

    __slots__ = ("_is_dropped", "_limit", "heard", "is_finished")

    def __init__(self) -> None:
        #: When the engine sent its last message, in monotonic seconds.
        self.heard = time.monotonic()
        #: Whether the engine has nothing left to do for it.
        self.is_finished = False
        self._is_dropped = False
        self._limit: asyncio.Timeout | None = None

    async def wait(self, answer: Awaitable[T]) -> T:
        """Wait for the engine's next message. Raises _Dropped if the generation was dropped."""
        try:
            async with asyncio.timeout(0 if self._is_dropped else None) as self._limit:
                said = await answer
        except TimeoutError:
            if self._is_dropped:
                raise _Dropped from None
            raise
        self.heard = time.monotonic()
        return said

    def drop(self) -> None:
        """End it with UNAVAILABLE."""
        if not self._is_dropped:
            self._is_dropped = True
            if self._limit is not None:
                # A time in the past expires at once. A timeout that is over takes no other time.
                with contextlib.suppress(RuntimeError):
                    self._limit.reschedule(0)


async def _push_whole(
    response: httpcore.Response, request: GenerateRequest, sink: TokenSink, generating: _Generating
) -> None:
    """Push the one delta of a whole answer. Raises ServiceError, also for an answer that is an error."""
    body = await generating.wait(_join(response.aiter_stream()))
    generating.is_finished = True
    if response.status != 200:
        raise to_service_error(response.status, body, request)
    delta = AnswerReader(request).read(body)
    if delta is None or delta.finish is None:
        raise failed("the runtime's answer has no end")
    sink.push(delta)


async def _push_events(
    response: httpcore.Response, request: GenerateRequest, sink: TokenSink, generating: _Generating
) -> None:
    """Push the deltas of a stream of events, up to the last one or until the sink wants no more."""
    reader, events = AnswerReader(request), EventReader()
    chunks = response.aiter_stream()
    while (data := await generating.wait(anext(chunks, None))) is not None:
        for document in events.feed(data):
            delta = reader.read(document)
            # If each event has all tokens so far, the last of several is enough.
            events.last_only = reader.cumulative
            if delta is None:
                continue
            if delta.finish is not None:
                generating.is_finished = True
                await _end(chunks)
            if not sink.push(delta) or generating.is_finished:
                return
            await sink.flow.room()
    raise aborted()


async def _join(chunks: AsyncIterator[bytes]) -> bytes:
    return b"".join([chunk async for chunk in chunks])


async def _end(chunks: AsyncIterator[bytes]) -> None:
    """Read what follows the last token, so that the connection can be used again."""
    with contextlib.suppress(TimeoutError, *_LOST):
        async with asyncio.timeout(END_TIMEOUT):
            await _join(chunks)


def _document(status: int, body: bytes) -> dict[str, Any]:
    """The JSON object of a question's answer."""
    if status in (502, 503):
        raise unavailable()
    try:
        document = orjson.loads(body) if status == 200 else None
    except orjson.JSONDecodeError:
        document = None
    if not isinstance(document, dict):
        raise failed(f"the runtime gave no answer that could be read (HTTP {status})")
    return document
