"""A direct way from the bridge to the HTTP server, for one request and its response.

ASGI needs tasks, events and turns of the event loop for the same. It is used if there is no exchange, or if a
method here returns False or None.
"""

from collections.abc import Callable

from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from inferd.rest_bridge.errors import Headers

#: The key of the `Exchange` in ASGI's extensions.
EXCHANGE = "inferd.exchange"

#: The line before a chunk (RFC 9112, 7.1), by the size of the chunk. Most events are shorter than these.
_CHUNK_HEADS = [b"%x\r\n" % size for size in range(1024)]


class Exchange:
    """`on_disconnect` is called when the client disconnects. `is_paused`: there is no room to write."""

    __slots__ = ("_cycle", "_is_open", "_transport", "is_paused", "on_disconnect")

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self._cycle = cycle
        self._transport = cycle.transport
        #: Whether a chunked body has begun. A copy, because asking the cycle takes longer for each token.
        self._is_open = False
        self.is_paused = cycle.flow.write_paused
        self.on_disconnect: Callable[[], object] | None = None

    @property
    def is_disconnected(self) -> bool:
        """Whether the client has disconnected."""
        return self._cycle.disconnected

    def watch_disconnect(self, on_disconnect: Callable[[], object]) -> None:
        """Call `on_disconnect` when the client disconnects. To be called only if it has not."""
        self.on_disconnect = on_disconnect
        # uvicorn stops reading if the next request has arrived. Then it would not notice a disconnect.
        self._cycle.flow.resume_reading()

    def is_own_send(self, send: object) -> bool:
        """Whether `send` is the server's. Otherwise a middleware may change the response."""
        return getattr(send, "__self__", None) is self._cycle

    def take_whole_body(self) -> bytes | None:
        """Take the request's body if it has arrived whole. To be called once. None: ASGI must receive it."""
        cycle = self._cycle
        # After a large body, the server reads on only when the body is received by ASGI.
        if cycle.more_body or cycle.disconnected or len(cycle.body) > HIGH_WATER_LIMIT:
            return None
        body, cycle.body = bytes(cycle.body), bytearray()
        return body

    def respond(self, status: int, headers: Headers, body: bytes) -> bool:
        """Send the whole response. Returns False if it must be sent by ASGI."""
        head = self._head(status, headers)
        if head is None:
            return False
        self._cycle.transport.write(head + b"\r\n" + body)
        self._complete()
        return True

    def start(self, status: int, headers: Headers) -> bool:
        """Send the status and headers of a chunked response. Returns False if they must be sent by ASGI."""
        head = self._head(status, headers)
        if head is None:
            return False
        self._cycle.chunked_encoding = self._is_open = True
        self._cycle.transport.write(head + b"transfer-encoding: chunked\r\n\r\n")
        return True

    def write(self, data: bytes) -> bool:
        """Write a chunk of the body. Returns False if there is no room, or if the response is not chunked."""
        return self.write_parts(b"", data, b"")

    def write_parts(self, before: bytes, data: bytes, after: bytes) -> bool:
        """`write` the three as one chunk."""
        if self.is_paused or not (self._is_open or self._check_chunked_body()):
            return False
        size = len(before) + len(data) + len(after)
        head = _CHUNK_HEADS[size] if size < len(_CHUNK_HEADS) else b"%x\r\n" % size
        self._transport.write(b"".join((head, before, data, after, b"\r\n")))
        return True

    def close(self) -> None:
        """Write no more, because the response has ended or the client has disconnected."""
        self._is_open = False

    def end(self, data: bytes) -> bool:
        """Write the last chunk of the body. Returns as `write` does."""
        if not self.write(data):
            return False
        self._cycle.transport.write(b"0\r\n\r\n")
        self._complete()
        return True

    def _head(self, status: int, headers: Headers) -> bytes | None:
        """Status and headers, without the empty line after them. None: they must be sent by ASGI."""
        cycle = self._cycle
        if (
            cycle.response_started
            or cycle.disconnected
            or cycle.flow.write_paused
            or cycle.scope["method"] == "HEAD"
        ):
            return None
        parts = [STATUS_LINE[status]]
        for name, value in (*cycle.default_headers, *headers):
            if name == b"connection" or b"\n" in value or b"\r" in value:
                return None
            parts += (name, b": ", value, b"\r\n")
        if not cycle.keep_alive:
            parts.append(b"connection: close\r\n")
        cycle.response_started = True
        cycle.waiting_for_100_continue = False
        return b"".join(parts)

    def _check_chunked_body(self) -> bool:
        """Whether a chunked body was begun by ASGI."""
        cycle = self._cycle
        self._is_open = bool(
            cycle.chunked_encoding and not cycle.disconnected and not cycle.response_complete
        )
        return self._is_open

    def _complete(self) -> None:
        cycle = self._cycle
        cycle.response_complete = True
        cycle.message_event.set()
        if not cycle.keep_alive:
            cycle.transport.close()
        cycle.on_response()
