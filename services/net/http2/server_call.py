"""One call that we serve: its request read, its handler run in a task, its responses and status sent."""

import asyncio
import logging
import math
from collections.abc import Iterable
from typing import Any, Protocol

import grpc
from inferd.services.net.http2.compression import decompress
from inferd.services.net.http2.connection import ConnectionLost
from inferd.services.net.http2.framing import FramingError, MessageSplitter, encode_message, frame
from inferd.services.net.http2.header_block import header_block, metadata_block
from inferd.services.net.http2.method import Method
from inferd.services.net.http2.request_head import RequestHead
from inferd.services.net.http2.request_stream import RequestStream
from inferd.services.net.http2.server_context import Aborted, ServerContext

log = logging.getLogger("inferd.rpc")

#: Of every response, before its metadata.
HEAD = header_block([(b":status", b"200"), (b"content-type", b"application/grpc")])
_OK = header_block([(b"grpc-status", b"0")])


def status_block(code: grpc.StatusCode, details: str) -> bytes:
    """The trailers that say how a call ended."""
    if code is grpc.StatusCode.OK and not details:
        return _OK
    status = str(code.value[0]).encode()
    return header_block([(b"grpc-status", status), (b"grpc-message", encode_message(details).encode())])


class Streams(Protocol):
    """The connection, as its calls use it."""

    peer: str

    def send_headers(self, stream_id: int, block: bytes, *, end_stream: bool) -> None: ...
    def send_now(self, stream_id: int, data: bytes) -> bool: ...
    async def send(self, stream_id: int, data: bytes) -> None: ...
    def acknowledge(self, stream_id: int, size: int) -> None: ...
    def hold(self, size: int) -> bool: ...
    def forget(self, stream_id: int) -> None: ...


class ServerCall:
    """Lives until its handler is done, which may be after its end is told to the client.

    The handler starts when a request has come whole, or at once where requests are streamed. It is cancelled
    at the deadline, when the client cancels, and when the connection is lost.
    """

    __slots__ = (
        "_connection",
        "_head",
        "_held",
        "_limit",
        "_loop",
        "_method",
        "_request",
        "_requests",
        "_splitter",
        "_stream_id",
        "_task",
        "_timer",
        "deadline",
        "has_answered",
        "is_over",
    )

    def __init__(
        self, connection: Streams, stream_id: int, method: Method, head: RequestHead, limit: int
    ) -> None:
        """`limit` is the most bytes of one request."""
        self._connection = connection
        self._stream_id = stream_id
        self._method = method
        self._head = head
        self._limit = limit
        self._loop = asyncio.get_running_loop()
        self._splitter = MessageSplitter(limit)
        #: Bytes of a request that has not come whole.
        self._held = 0
        self._request: bytes | None = None
        self._requests: RequestStream | None = None
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        #: Whether the response's headers were sent.
        self.has_answered = False
        #: Whether the status was sent, or nobody waits for it.
        self.is_over = False
        #: On the loop's clock.
        self.deadline = math.inf
        if head.timeout != math.inf:
            self.deadline = self._loop.time() + head.timeout
            self._timer = self._loop.call_later(head.timeout, self._expire)
        if method.takes_stream:
            self._requests = RequestStream(method.deserialize, self._acknowledge)
            self._start(self._requests)

    @property
    def peer(self) -> str:
        return self._connection.peer

    def now(self) -> float:
        return self._loop.time()

    # What the connection tells.

    def data(self, data: bytes, size: int) -> None:
        """Bytes of requests; `size` is what they took of the window."""
        if self._requests is None or self.is_over:
            # A request is needed whole, so that there is nothing to wait for.
            self._acknowledge(size)
        else:
            self._requests.received(size)
        if self.is_over:
            return
        if self._requests is None:
            self._held += size
            if not self._connection.hold(size):
                self.fail(grpc.StatusCode.RESOURCE_EXHAUSTED, "too much is sent at once on this connection")
                return
        try:
            for compressed, message in self._splitter.feed(data):
                if compressed:
                    message = decompress(message, self._head.encoding, self._limit)
                self._take(message)
        except FramingError as error:
            too_large = grpc.StatusCode.RESOURCE_EXHAUSTED
            self.fail(too_large if error.too_large else grpc.StatusCode.INTERNAL, str(error))

    def _take(self, message: bytes) -> None:
        if self._requests is not None:
            self._requests.put(message)
        elif self._request is None:
            self._request = message
        else:
            self.fail(grpc.StatusCode.UNIMPLEMENTED, "the method takes one request, and several were sent")

    def end(self) -> None:
        """The client sends no more."""
        if self.is_over:
            return
        if not self._splitter.is_empty:
            self.fail(grpc.StatusCode.INTERNAL, "the last message is incomplete")
        elif self._requests is not None:
            self._requests.end()
        elif self._request is None:
            self.fail(grpc.StatusCode.UNIMPLEMENTED, "the method takes one request, and none was sent")
        else:
            try:
                request = self._method.deserialize(self._request)
            except Exception:
                self.fail(grpc.StatusCode.INTERNAL, "the request is no valid message of this method's type")
                return
            self._request = None
            self._release()
            self._start(request)

    def cancel(self) -> None:
        """Nobody waits for its end."""
        self._close()
        self._stop()

    def fail(self, code: grpc.StatusCode, details: str) -> None:
        """End it with this status, whatever its handler does."""
        self._finish(code, details)
        self._stop()

    # What the handler does.

    def send_head(self, metadata: Iterable[tuple[str, str | bytes]]) -> None:
        if self.has_answered:
            raise RuntimeError("the response's headers were already sent")
        self._send_head(metadata_block(metadata))

    def frame_of(self, message: Any) -> bytes:
        """A response as it goes into a DATA frame. Sends the response's headers before the first one."""
        if self.is_over:
            raise ConnectionLost
        data = frame(self._method.serialize(message))
        if not self.has_answered:
            self._send_head()
        return data

    def send_message(self, message: Any) -> bytes:
        """Send a response, if there is room for all of it. Else its frame; empty if it was sent.

        Raises ConnectionLost.
        """
        if self.is_over:
            raise ConnectionLost
        data = frame(self._method.serialize(message))
        if not self.has_answered:
            self._send_head()
        return b"" if self._connection.send_now(self._stream_id, data) else data

    async def send(self, data: bytes) -> None:
        """Send a framed response as room for it comes. Raises ConnectionLost."""
        await self._connection.send(self._stream_id, data)

    # Its own.

    def _start(self, request: Any) -> None:
        context = ServerContext(self, self._head.metadata)
        self._task = self._loop.create_task(self._run(request, context))
        self._task.add_done_callback(lambda _: self._done(context))

    async def _run(self, request: Any, context: ServerContext) -> None:
        try:
            response = await self._method.behaviour(request, context)
            if self._method.gives_stream:
                await context.finish()
            elif context.code() is grpc.StatusCode.OK:
                unsent = self.send_message(response)
                if unsent:
                    await self.send(unsent)
        except Aborted:
            await context.finish()
        except ConnectionLost:
            # Whoever closed it has also cancelled this.
            return
        except asyncio.CancelledError:
            self._finish(grpc.StatusCode.CANCELLED, "the handler was cancelled")
            raise
        except Exception:
            # The generated code says so what a servicer lacks.
            if context.code() is grpc.StatusCode.OK:
                log.exception("unexpected error in %s", self._head.path)
                context.set_code(grpc.StatusCode.UNKNOWN)
                context.set_details("an unexpected error, which the server has logged")
        self._finish(context.code(), context.details(), context.trailing_metadata())

    def _send_head(self, metadata: bytes = b"") -> None:
        self.has_answered = True
        self._connection.send_headers(self._stream_id, HEAD + metadata, end_stream=False)

    def _finish(
        self, code: grpc.StatusCode, details: str, trailers: Iterable[tuple[str, str | bytes]] = ()
    ) -> None:
        if self.is_over:
            return
        self._close()
        try:
            block = status_block(code, details) + metadata_block(trailers)
        except ValueError:
            log.exception("unexpected trailers of %s", self._head.path)
            block = status_block(grpc.StatusCode.UNKNOWN, "an unexpected error, which the server has logged")
        if not self.has_answered:
            block = HEAD + block
        self._connection.send_headers(self._stream_id, block, end_stream=True)

    def _close(self) -> None:
        self.is_over = True
        if self._timer is not None:
            self._timer.cancel()
        self._release()
        if self._requests is not None:
            self._requests.acknowledge()

    def _release(self) -> None:
        self._connection.hold(-self._held)
        self._held = 0

    def _stop(self) -> None:
        if self._task is None:
            self._connection.forget(self._stream_id)
        else:
            self._task.cancel()

    def _done(self, context: ServerContext) -> None:
        self._close()
        context.close()
        self._connection.forget(self._stream_id)
        context.run_callbacks()

    def _expire(self) -> None:
        self.fail(grpc.StatusCode.DEADLINE_EXCEEDED, "the call's deadline passed before it was complete")

    def _acknowledge(self, size: int) -> None:
        self._connection.acknowledge(self._stream_id, size)
