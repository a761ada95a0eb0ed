"""One request and its response as the HTTP server has them: what ASGI would take tasks, events and turns of
the event loop for. Where there is none, or it says no, ASGI does it."""

from collections.abc import Callable

from inferd.rest_bridge.errors import Headers
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

#: The name of an `Exchange`, among ASGI's extensions.
EXCHANGE = "inferd.exchange"

#: What stands before a chunk of HTTP/1.1, by its bytes: those of most events.
_CHUNK_HEADS = [b"%x\r\n" % size for size in range(1024)]


class Exchange:
    """`on_disconnect` is called when the client leaves. `is_paused`: there is no room to write."""

    __slots__ = ("_cycle", "_is_open", "_transport", "is_paused", "on_disconnect")

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self._cycle = cycle
        self._transport = cycle.transport
        #: Whether parts of the body may be written: known here, so that a token need not ask the cycle.
        self._is_open = False
        self.is_paused = cycle.flow.write_paused
        self.on_disconnect: Callable[[], object] | None = None

    @property
    def is_disconnected(self) -> bool:
        """Whether the client has left."""
        return self._cycle.disconnected

    def watch_disconnect(self, on_disconnect: Callable[[], object]) -> None:
        """Have `on_disconnect` called when the client leaves, where it has not."""
        self.on_disconnect = on_disconnect
        # A request in the queue behind this one stops it: nobody would learn then that the client left.
        self._cycle.flow.resume_reading()

    def is_own_send(self, send: object) -> bool:
        """Whether ASGI's `send` is the server's own: no middleware has a say in the response."""
        return getattr(send, "__self__", None) is self._cycle

    def take_whole_body(self) -> bytes | None:
        """The request's body, once, where it has come whole. None: it is to be received."""
        cycle = self._cycle
        # After a large one, the server reads on only once it is received.
        if cycle.more_body or cycle.disconnected or len(cycle.body) > HIGH_WATER_LIMIT:
            return None
        body, cycle.body = bytes(cycle.body), bytearray()
        return body

    def respond(self, status: int, headers: Headers, body: bytes) -> bool:
        """Send the whole response. False: it is to be sent by ASGI."""
        head = self._head(status, headers)
        if head is None:
            return False
        self._cycle.transport.write(head + b"\r\n" + body)
        self._complete()
        return True

    def start(self, status: int, headers: Headers) -> bool:
        """Send the head of a response whose length is open. False: it is to be sent by ASGI."""
        head = self._head(status, headers)
        if head is None:
            return False
        self._cycle.chunked_encoding = self._is_open = True
        self._cycle.transport.write(head + b"transfer-encoding: chunked\r\n\r\n")
        return True

    def write(self, data: bytes) -> bool:
        """Write a part of the body, after headers that left its length open. False: there is no room, or no
        such response."""
        return self.write_parts(b"", data, b"")

    def write_parts(self, before: bytes, data: bytes, after: bytes) -> bool:
        """`write` what these are together."""
        if self.is_paused or not (self._is_open or self._check_chunked_body()):
            return False
        size = len(before) + len(data) + len(after)
        head = _CHUNK_HEADS[size] if size < len(_CHUNK_HEADS) else b"%x\r\n" % size
        self._transport.write(b"".join((head, before, data, after, b"\r\n")))
        return True

    def close(self) -> None:
        """The response has ended, or the client has left."""
        self._is_open = False

    def end(self, data: bytes) -> bool:
        """Write the last part of the body; as `write` does."""
        if not self.write(data):
            return False
        self._cycle.transport.write(b"0\r\n\r\n")
        self._complete()
        return True

    def _head(self, status: int, headers: Headers) -> bytes | None:
        """Status and headers, up to the last line; None where this is no case for it."""
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
        """Whether ASGI has opened it."""
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
