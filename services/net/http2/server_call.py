"""One call that is served: reads requests, runs the handler in a task, sends responses and the status.

Knows nothing of frames: the connection sends and receives them.
"""

import asyncio
import logging
import math
from collections.abc import Iterable
from typing import Any, Protocol

import grpc

from inferd.services.errors import ServiceError
from inferd.services.net.http2.call_errors import (
    deadline_exceeded,
    malformed_message,
    malformed_stream,
    too_much_at_once,
    unexpected,
    wrong_request_count,
)
from inferd.services.net.http2.compression import decompress
from inferd.services.net.http2.connection import ConnectionLost
from inferd.services.net.http2.framing import FramingError, MessageSplitter, encode_message, frame
from inferd.services.net.http2.header_block import header, header_block, metadata_block
from inferd.services.net.http2.method import Method
from inferd.services.net.http2.request_head import RequestHead
from inferd.services.net.http2.request_stream import RequestStream, TooManyUnread
from inferd.services.net.http2.server_context import Aborted, ServerContext

log = logging.getLogger("inferd.rpc")

_RESPONSE_HEADERS = header_block([(b":status", b"200"), (b"content-type", b"application/grpc")])
_OK = header_block([(b"grpc-status", b"0")])


def response_headers(request_id: str) -> bytes:
    """The headers of every response, before the handler's initial metadata."""
    return _RESPONSE_HEADERS + header(b"x-request-id", request_id.encode())


def status_block(code: grpc.StatusCode, details: str) -> bytes:
    """The trailers with the status of a call."""
    if code is grpc.StatusCode.OK and not details:
        return _OK
    status = str(code.value[0]).encode()
    return header_block([(b"grpc-status", status), (b"grpc-message", encode_message(details).encode())])


def error_block(error: ServiceError, request_id: str) -> bytes:
    """The trailers of a call that fails with an error of the server itself."""
    log.debug("%s %s; request id %s", error.code.name, error.reason, request_id)
    status = error.to_grpc_status(request_id)
    return status_block(status.code, status.details) + metadata_block(status.trailing_metadata)


class CallConnection(Protocol):
    """The part of a connection that its calls use."""

    peer: str

    def send_headers(self, stream_id: int, block: bytes, *, end_stream: bool) -> None: ...
    def send_now(self, stream_id: int, data: bytes) -> bool: ...
    async def send(self, stream_id: int, data: bytes) -> None: ...
    def acknowledge(self, stream_id: int, size: int) -> None: ...
    def count_buffered(self, size: int) -> bool: ...
    def remove_call(self, stream_id: int) -> None: ...


class ServerCall:
    """Exists until its handler is done. That may be after the status is sent.

    The handler starts when the request is complete, or at once if requests are streamed. It is cancelled at
    the deadline, when the client resets the stream, and when the connection is lost.
    """

    __slots__ = (
        "_buffered",
        "_connection",
        "_head",
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
        "has_sent_headers",
        "is_over",
    )

    def __init__(
        self, connection: CallConnection, stream_id: int, method: Method, head: RequestHead, limit: int
    ) -> None:
        """A request has at most `limit` bytes."""
        self._connection = connection
        self._stream_id = stream_id
        self._method = method
        self._head = head
        self._limit = limit
        self._loop = asyncio.get_running_loop()
        self._splitter = MessageSplitter(limit)
        #: Bytes of an incomplete request.
        self._buffered = 0
        self._request: bytes | None = None
        self._requests: RequestStream | None = None
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        #: Whether the response's headers were sent.
        self.has_sent_headers = False
        #: Whether the status was sent, or the client has left.
        self.is_over = False
        #: On the event loop's clock; infinite without a timeout.
        self.deadline = math.inf
        if head.timeout != math.inf:
            self.deadline = self._loop.time() + head.timeout
            self._timer = self._loop.call_later(head.timeout, self._on_deadline)
        if method.streams_requests:
            self._requests = RequestStream(method.deserialize, self._acknowledge)
            self._start(self._requests)

    @property
    def peer(self) -> str:
        return self._connection.peer

    def now(self) -> float:
        return self._loop.time()

    # Called by the connection.

    def receive_data(self, data: bytes, size: int) -> None:
        """Take the payload of a DATA frame. `size` is its size with padding, which the window counts."""
        if self._requests is None or self.is_over:
            # Nothing waits for a reader: the whole request is needed, and data after the end is dropped.
            self._acknowledge(size)
        else:
            self._requests.received(size)
        if self.is_over:
            return
        if self._requests is None:
            self._buffered += size
            if not self._connection.count_buffered(size):
                self.fail(too_much_at_once("too much is sent at once on this connection"))
                return
        try:
            for compressed, message in self._splitter.feed(data):
                if compressed:
                    message = decompress(message, self._head.encoding, self._limit)
                self._add_request(message)
        except FramingError as error:
            self.fail(malformed_stream(error))
        except TooManyUnread as error:
            self.fail(too_much_at_once(str(error)))

    def _add_request(self, message: bytes) -> None:
        if self._requests is not None:
            self._requests.put(message)
        elif self._request is None:
            self._request = message
        else:
            self.fail(wrong_request_count("several were"))

    def receive_end(self) -> None:
        """The client has ended its side of the stream (END_STREAM)."""
        if self.is_over:
            return
        if not self._splitter.is_empty:
            self.fail(malformed_stream(FramingError("the last message is incomplete")))
        elif self._requests is not None:
            self._requests.end()
        elif self._request is None:
            self.fail(wrong_request_count("none was"))
        else:
            try:
                request = self._method.deserialize(self._request)
            except Exception:
                self.fail(malformed_message())
                return
            self._request = None
            self._free_buffer()
            self._start(request)

    def cancel(self) -> None:
        """Cancel the handler, because the client has left."""
        self._set_over()
        self._cancel_handler()

    def fail(self, error: ServiceError) -> None:
        """End the call with this error, and cancel the handler."""
        self._finish_with(error)
        self._cancel_handler()

    # Called by the context, for the handler.

    def send_initial_metadata(self, metadata: Iterable[tuple[str, str | bytes]]) -> None:
        if self.has_sent_headers:
            raise RuntimeError("the response's headers were already sent")
        self._send_headers(metadata_block(metadata))

    def encode_response(self, message: Any) -> bytes:
        """The bytes of a response, with gRPC's prefix. Sends the headers before the first response."""
        if self.is_over:
            raise ConnectionLost
        data = frame(self._method.serialize(message))
        if not self.has_sent_headers:
            self._send_headers()
        return data

    def send_message(self, message: Any) -> bytes:
        """Send a response if there is room for all of it. Returns the bytes that are unsent: all or none.

        Raises ConnectionLost.
        """
        if self.is_over:
            raise ConnectionLost
        data = frame(self._method.serialize(message))
        if not self.has_sent_headers:
            self._send_headers()
        return b"" if self._connection.send_now(self._stream_id, data) else data

    async def send(self, data: bytes) -> None:
        """Send the bytes of a response, and wait while there is no room. Raises ConnectionLost."""
        await self._connection.send(self._stream_id, data)

    # The handler's task, and the end.

    def _start(self, request: Any) -> None:
        context = ServerContext(self, self._head.metadata)
        self._task = self._loop.create_task(self._run(request, context))
        self._task.add_done_callback(lambda _: self._on_handler_done(context))

    async def _run(self, request: Any, context: ServerContext) -> None:
        try:
            response = await self._method.behaviour(request, context)
            if self._method.streams_responses:
                await context.finish()
            elif context.code() is grpc.StatusCode.OK:
                unsent = self.send_message(response)
                if unsent:
                    await self.send(unsent)
        except Aborted:
            await context.finish()
        except ConnectionLost:
            # The call is over already.
            return
        except asyncio.CancelledError:
            if not self.is_over:
                log.error("the handler was cancelled; request id %s", self._head.request_id)
                self._finish_with(unexpected())
            raise
        except Exception:
            # If a servicer lacks the method, the generated code has set the code before it raises.
            if context.code() is grpc.StatusCode.OK:
                log.exception("unexpected error; request id %s", self._head.request_id)
                self._finish_with(unexpected())
                return
        self._finish(context.code(), context.details(), context.trailing_metadata())

    def _send_headers(self, metadata: bytes = b"") -> None:
        self.has_sent_headers = True
        headers = response_headers(self._head.request_id)
        self._connection.send_headers(self._stream_id, headers + metadata, end_stream=False)

    def _finish(
        self, code: grpc.StatusCode, details: str, trailers: Iterable[tuple[str, str | bytes]] = ()
    ) -> None:
        """Send the status that the handler gave."""
        if self.is_over:
            return
        try:
            block = status_block(code, details) + metadata_block(trailers)
        except ValueError:
            log.exception("invalid trailers; request id %s", self._head.request_id)
            self._finish_with(unexpected())
            return
        self._send_trailers(block)

    def _finish_with(self, error: ServiceError) -> None:
        """Send the status of an error of the server itself."""
        if not self.is_over:
            self._send_trailers(error_block(error, self._head.request_id))

    def _send_trailers(self, block: bytes) -> None:
        self._set_over()
        if not self.has_sent_headers:
            # A single block for both (Trailers-Only): clients repeat no call whose headers were sent before
            # its status (gRFC A6).
            block = response_headers(self._head.request_id) + block
        self._connection.send_headers(self._stream_id, block, end_stream=True)

    def _set_over(self) -> None:
        self.is_over = True
        if self._timer is not None:
            self._timer.cancel()
        self._free_buffer()
        if self._requests is not None:
            self._requests.acknowledge()

    def _free_buffer(self) -> None:
        self._connection.count_buffered(-self._buffered)
        self._buffered = 0

    def _cancel_handler(self) -> None:
        if self._task is None:
            self._connection.remove_call(self._stream_id)
        else:
            self._task.cancel()

    def _on_handler_done(self, context: ServerContext) -> None:
        self._set_over()
        context.close()
        self._connection.remove_call(self._stream_id)
        context.run_callbacks()

    def _on_deadline(self) -> None:
        self.fail(deadline_exceeded())

    def _acknowledge(self, size: int) -> None:
        self._connection.acknowledge(self._stream_id, size)
