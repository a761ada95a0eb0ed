"""The runtime behind SGLang's HTTP server: a stock `sglang serve`.

Sends the HTTP requests, and watches whether the engine can be reached. Knows nothing of the documents'
contents: see `http_wire`.
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
from inferd.services.runtimes.adapter import QUERY_TIMEOUT, RuntimeAdapter
from inferd.services.runtimes.base import GenerateRequest, RuntimeInfo
from inferd.services.runtimes.engine_errors import (
    runtime_aborted,
    runtime_deadline,
    runtime_error,
    runtime_unavailable,
)
from inferd.services.runtimes.health_watch import CHECK_TIMEOUT
from inferd.services.runtimes.http_wire import AnswerReader, EventReader, to_body, to_service_error
from inferd.services.runtimes.running_generation import RunningGeneration
from inferd.services.runtimes.token_sink import TokenSink

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Seconds that a connection may take to be made.
CONNECT_TIMEOUT = 2.0
#: Seconds that the end of an answer may take after its last token. Then the connection is kept.
END_TIMEOUT = 0.5
#: Generations at once, each on a connection of its own. Further generations wait for a connection.
MAX_GENERATIONS = 1024

#: Seconds that an idle connection is kept. SGLang's server closes it after 5 s, and a request that was sent
#: just then would be lost.
_KEEPALIVE_EXPIRY = 3.0
# TCP's keepalive finds a host that vanished without closing its connections.
_SOCKET_OPTIONS = [
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    *(
        (socket.IPPROTO_TCP, getattr(socket, name), value)
        for name, value in (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 2))
        if hasattr(socket, name)
    ),
]
#: Exceptions of httpcore, and of the layers below it that httpcore does not translate.
_CONNECTION_ERRORS = (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError, OSError)


class HttpRuntime(RuntimeAdapter):
    """One engine at `url` (http or https; with a path, if a proxy serves the engine below one).

    `unsupported` and `media` depend on the options that the engine was started with, and are read once it
    serves. SGLang ignores a seed without --enable-deterministic-inference, a priority without
    --enable-priority-scheduling, and media of a kind that its model does not take.
    """

    def __init__(self, url: str, *, on_change: Callable[[], None] = lambda: None) -> None:
        super().__init__(url.rstrip("/"), on_change)
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

        self._generation_pool = pool(MAX_GENERATIONS)
        # Queries have connections of their own, so that they never wait for a generation.
        self._query_pool = pool(16)
        self._knows_capabilities = False
        self._health_path = b"/ready"

    async def info(self) -> RuntimeInfo:
        """See `Runtime.info`. Raises ServiceError DEADLINE_EXCEEDED after
        `QUERY_TIMEOUT`."""
        self._check_open()
        server = await self._query(b"/server_info")
        return RuntimeInfo(
            model_path=server.get("model_path"), max_total_tokens=server.get("max_total_num_tokens")
        )

    async def waiting(self) -> int:
        """See `Runtime.waiting`."""
        self._check_open()
        status, body = await self._send(b"GET", b"/v1/loads?include=core")
        if status == 404:
            raise ServiceError(
                grpc.StatusCode.UNIMPLEMENTED, "NO_LOADS", "the runtime does not tell its load"
            )
        loads = _json_object(status, body).get("loads", [])
        return sum(load.get("num_waiting_reqs", 0) for load in loads)

    async def fetch_tokenizer(self, folder: Path) -> None:
        """Raises UNIMPLEMENTED, because SGLang hands its tokenizer out over gRPC only."""
        raise ServiceError(
            grpc.StatusCode.UNIMPLEMENTED, "NO_TOKENIZER", "an http runtime hands out no tokenizer"
        )

    def _new_generation(self, request: GenerateRequest, sink: TokenSink) -> RunningGeneration:
        # All ids have one length, because SGLang aborts every request whose id begins with the given one.
        rid = uuid.uuid4().hex
        message = self._request(b"POST", b"/generate", to_body(request, rid))
        return HttpGeneration(self.name, self._generation_pool, rid, message, request, sink)

    async def _send_abort(self, request_id: str) -> None:
        # SGLang notices only after seconds that a connection was closed.
        try:
            await self._send(b"POST", b"/abort_request", orjson.dumps({"rid": request_id}))
        except ServiceError as error:
            log.debug("%s: abort: %s", self.name, error)

    async def _check_health(self) -> bool:
        # /ready is answered from memory. An older SGLang has only /health, which generates a token.
        try:
            status, _ = await self._send(b"GET", self._health_path, seconds=CHECK_TIMEOUT)
            if status == 404 and self._health_path == b"/ready":
                self._health_path = b"/health"
                status, _ = await self._send(b"GET", self._health_path, seconds=CHECK_TIMEOUT)
        except ServiceError as error:
            self._health.set_serving(False)
            self._knows_capabilities = False
            # An engine that answers too late is not gone. If its host is, TCP's keepalive notices.
            return error.code is not grpc.StatusCode.UNAVAILABLE
        if status == 200 and not self._knows_capabilities:
            await self._read_capabilities()
        self._health.set_serving(status == 200)
        return True

    async def _read_capabilities(self) -> None:
        """Ask the engine, once after each of its starts, for the options that it was started with.

        An option that the engine does not report counts as set.
        """
        self._knows_capabilities = True
        try:
            model, server = await self._query(b"/model_info"), await self._query(b"/server_info")
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

    async def _close_connections(self) -> None:
        await self._query_pool.aclose()
        await self._generation_pool.aclose()

    async def _query(self, path: bytes) -> dict[str, Any]:
        return _json_object(*await self._send(b"GET", path))

    async def _send(
        self, method: bytes, path: bytes, body: bytes = b"", seconds: float = QUERY_TIMEOUT
    ) -> tuple[int, bytes]:
        """The status and the body of the answer. Raises ServiceError UNAVAILABLE, DEADLINE_EXCEEDED."""
        try:
            async with asyncio.timeout(seconds):
                response = await self._query_pool.handle_async_request(self._request(method, path, body))
                try:
                    return response.status, await response.aread()
                finally:
                    await response.aclose()
        except httpcore.ConnectTimeout:
            raise runtime_unavailable() from None
        except TimeoutError:
            raise runtime_deadline() from None
        except _CONNECTION_ERRORS:
            raise runtime_unavailable() from None

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


class HttpGeneration(RunningGeneration):
    """A request to `/generate`, on a connection of `pool`. `name` is the runtime's, for the log."""

    __slots__ = (
        "_is_finished",
        "_last_message_at",
        "_message",
        "_name",
        "_pool",
        "_request",
        "_sink",
        "_timeout",
    )

    def __init__(
        self,
        name: str,
        pool: httpcore.AsyncConnectionPool,
        rid: str,
        message: httpcore.Request,
        request: GenerateRequest,
        sink: TokenSink,
    ) -> None:
        super().__init__(rid)
        self._name = name
        self._pool = pool
        self._message = message
        self._request = request
        self._sink = sink
        self._last_message_at = time.monotonic()
        #: Whether the engine has nothing left to do for it.
        self._is_finished = False
        #: The timeout of the wait for the next message. It expires only if the generation is dropped.
        self._timeout: asyncio.Timeout | None = None

    @property
    def last_message_at(self) -> float:
        return self._last_message_at

    @property
    def needs_abort(self) -> bool:
        return not self._is_finished

    async def run(self) -> None:
        response: httpcore.Response | None = None
        try:
            response = await self._wait(self._pool.handle_async_request(self._message))
            chunks = response.aiter_stream()
            if response.status != 200 or not self._request.stream:
                self._push_whole(response.status, await self._wait(_read_all(chunks)))
                return
            # Read here and not in a method, because that would take longer for each token.
            reader, events = AnswerReader(self._request), EventReader()
            while (data := await self._wait(anext(chunks, None))) is not None:
                for document in events.feed(data):
                    delta = reader.read(document)
                    # If each event has all tokens so far, the last of several is enough.
                    events.last_only = reader.cumulative
                    if delta is None:
                        continue
                    if delta.finish is not None:
                        self._is_finished = True
                        await _read_rest(chunks)
                    if not self._sink.push(delta) or self._is_finished:
                        return
                    await self._sink.flow.room()
            raise runtime_aborted()
        except _CONNECTION_ERRORS as error:
            log.warning("%s: a call was lost: %r", self._name, error)
            raise runtime_unavailable() from None
        finally:
            if response is not None:
                await response.aclose()

    def drop(self) -> None:
        if not self.is_dropped:
            self.is_dropped = True
            if self._timeout is not None:
                # A time in the past expires at once. A timeout that is over cannot be rescheduled.
                with contextlib.suppress(RuntimeError):
                    self._timeout.reschedule(0)

    async def _wait(self, answer: Awaitable[T]) -> T:
        """Wait for the engine's next message. Raises UNAVAILABLE if the generation was dropped."""
        try:
            async with asyncio.timeout(0 if self.is_dropped else None) as self._timeout:
                result = await answer
        except TimeoutError:
            if self.is_dropped:
                raise runtime_unavailable("the runtime went away") from None
            raise
        self._last_message_at = time.monotonic()
        return result

    def _push_whole(self, status: int, body: bytes) -> None:
        """Push the one delta of a whole answer. Raises ServiceError, also for an answer that is an error."""
        self._is_finished = True
        if status != 200:
            raise to_service_error(status, body, self._request)
        delta = AnswerReader(self._request).read(body)
        if delta is None or delta.finish is None:
            raise runtime_error("the runtime's answer has no end")
        self._sink.push(delta)


async def _read_all(chunks: AsyncIterator[bytes]) -> bytes:
    return b"".join([chunk async for chunk in chunks])


async def _read_rest(chunks: AsyncIterator[bytes]) -> None:
    """Read the bytes after the last token, so that the connection can be used again."""
    with contextlib.suppress(TimeoutError, *_CONNECTION_ERRORS):
        async with asyncio.timeout(END_TIMEOUT):
            await _read_all(chunks)


def _json_object(status: int, body: bytes) -> dict[str, Any]:
    """The JSON object that answers a query. Raises ServiceError if the answer is none."""
    if status in (502, 503):
        raise runtime_unavailable()
    try:
        document = orjson.loads(body) if status == 200 else None
    except orjson.JSONDecodeError:
        document = None
    if not isinstance(document, dict):
        raise runtime_error(f"the runtime gave no answer that could be read (HTTP {status})")
    return document
