"""uvicorn's HTTP/1.1 protocol, with what it leaves open: bounds of a request's head, in bytes and time; an
upgrade that is ignored; requests in a pipeline that learn of the connection's loss."""

import asyncio
import re
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from rest_bridge.errors import HttpError, from_http
from rest_bridge.exchange import EXCHANGE, Exchange
from services.writes import joined

#: Bytes that a request's line and headers may have; what comes with them in one read is not counted.
_HEAD_BYTES = 65536
#: Seconds that a client may take to send them, a new connection's first ones included.
_HEAD_SECONDS = 30.0

_UPGRADE = re.compile(rb"\r\nupgrade:", re.IGNORECASE)


class HttpProtocol(HttpToolsProtocol):
    """One connection."""

    _in_head = True
    _head_bytes = 0
    _head_timer: asyncio.TimerHandle | None = None
    _running: RequestResponseCycle | None = None
    _exchange: Exchange | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(joined(transport, self.loop))  # type: ignore[arg-type]
        self._time_head()

    def data_received(self, data: bytes) -> None:
        if self._in_head:
            self._head_bytes += len(data)
            data = _without_upgrade(data)
        super().data_received(data)
        if not (self._in_head and self._head_bytes):
            return
        if self._head_bytes > _HEAD_BYTES:
            self._refuse(431, f"the request's line and headers are over {_HEAD_BYTES} bytes")
        elif self._head_timer is None:
            self._time_head()

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._stop_timer()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._in_head = True
        self._head_bytes = 0
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, "this is no valid HTTP/1.1 request")

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        self._exchange = exchange = Exchange(cycle)
        extensions: dict[str, Any] = {EXCHANGE: exchange}
        cycle.scope["extensions"] = extensions
        super()._start_asgi_task(cycle, app)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        # uvicorn tells only the newest request of a connection: a client that pipelines a second one, and
        # leaves, would have the first one run to its end for nobody.
        running = self._running
        if running is not None and not running.response_complete:
            running.disconnected = True
            running.message_event.set()
            if self._exchange is not None:
                self._exchange.close()
                if self._exchange.on_gone is not None:
                    self._exchange.on_gone()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        if self._exchange is not None:
            self._exchange.close()
        super().on_response_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._exchange is not None:
            self._exchange.is_paused = True

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._exchange is not None:
            self._exchange.is_paused = False

    def _time_head(self) -> None:
        self._head_timer = self.loop.call_later(_HEAD_SECONDS, self._head_is_late)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_is_late(self) -> None:
        self._head_timer = None
        if self._head_bytes:
            self._refuse(408, f"the request's headers did not arrive within {_HEAD_SECONDS:g} seconds")
        else:
            self.transport.close()

    def _refuse(self, status: int, message: str) -> None:
        """Answer in place of the application, and close."""
        if self.transport.is_closing():
            return
        code = HTTPStatus(status).phrase.lower().replace(" ", "_")
        body = from_http(HttpError(status, code, message)).body
        head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-type: application/json\r\n"
        head += f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        self.transport.write(head.encode() + body)
        self.transport.close()


def _without_upgrade(data: bytes) -> bytes:
    """An upgrade, such as to HTTP/2 that Java's client offers, may be ignored (RFC 9110, 7.8). The parser
    would take it, and drop the body."""
    if not _UPGRADE.search(data):
        return data
    head, end, rest = data.partition(b"\r\n\r\n")
    return _UPGRADE.sub(b"\r\nx-upgrade:", head) + end + rest
