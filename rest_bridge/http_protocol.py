"""uvicorn's HTTP/1.1 protocol, with three changes.

A request's line and headers are bounded in bytes and in time. A request to upgrade the connection is ignored.
All requests of a pipeline learn that the connection is lost.

Also, requests start and end here in less time: without web sockets, without a limit of connections, and
without a timer for each request. This needs attributes of uvicorn that may change, so uvicorn is pinned to
one minor version.
"""

import asyncio
import re
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote

from httptools import parse_url
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from inferd.rest_bridge.errors import HttpError, from_http
from inferd.rest_bridge.exchange import EXCHANGE, Exchange
from inferd.services.net.batched_writes import batched_transport
from inferd.services.net.timeouts import SharedTimeout

#: Bytes that a request's line and headers may have. More is allowed if everything arrives in one read.
_HEAD_BYTES = 65536
#: Seconds that a client may take to send them, also after it has opened a connection.
_HEAD_SECONDS = 30.0

_UPGRADE = re.compile(rb"\r\nupgrade:", re.IGNORECASE)


class HttpProtocol(HttpToolsProtocol):
    """One connection."""

    _in_head = True
    _head_bytes = 0
    _head_timer: asyncio.TimerHandle | None = None
    _running: RequestResponseCycle | None = None
    _exchange: Exchange | None = None

    def __init__(self, *arguments: Any, idle: SharedTimeout, **settings: Any) -> None:
        """`idle` closes connections on which no request follows a response. The other arguments are
        uvicorn's."""
        super().__init__(*arguments, **settings)
        self._idle = idle

    def connection_made(self, transport: Any) -> None:
        super().connection_made(batched_transport(transport, self.loop))  # type: ignore[arg-type]
        self._time_head()
        self._scope = {
            "type": "http",
            "asgi": {"version": self.asgi_version, "spec_version": "2.3"},
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme,
            "root_path": self.root_path,
        }

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

    # Called by the parser.

    def on_message_begin(self) -> None:
        self.url = b""
        self.headers = []
        self.expect_100_continue = False

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._stop_timer()
        parser = self.parser
        version = parser.get_http_version()
        url = parse_url(self.url)
        path = url.path.decode("ascii")
        before = self.cycle
        self.cycle = cycle = RequestResponseCycle(
            scope={
                **self._scope,  # type: ignore[typeddict-item]
                "http_version": version,
                "method": parser.get_method().decode("ascii"),
                "path": self.root_path + (unquote(path) if "%" in path else path),
                "raw_path": self.root_path.encode("ascii") + url.path,
                "query_string": url.query or b"",
                "headers": self.headers,
                "state": self.app_state.copy(),
            },
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=self.access_log,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue,
            keep_alive=version != "1.0" and parser.should_keep_alive(),
            on_response=self.on_response_complete,
        )
        if before is None or before.response_complete:
            self._start_asgi_task(cycle, self.app)
        else:
            # Requests in a pipeline are answered one after the other (RFC 9112, 9.3.2).
            self.flow.pause_reading()
            self.pipeline.appendleft((cycle, self.app))

    def on_message_complete(self) -> None:
        self._in_head = True
        self._head_bytes = 0
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, "this is no valid HTTP/1.1 request")

    # Requests, from their start to their end.

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        self._exchange = exchange = Exchange(cycle)
        cycle.scope["extensions"] = {EXCHANGE: exchange}  # type: ignore[dict-item]
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        if self._exchange is not None:
            self._exchange.close()
        if self._running is not None:
            # They have the exchange, which refers to the cycle. Such a cycle would live long.
            self._running.scope.pop("extensions", None)
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        else:
            self._idle.start(self.timeout_keep_alive_handler)

    def _unset_keepalive_if_required(self) -> None:
        self._idle.cancel(self.timeout_keep_alive_handler)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self._unset_keepalive_if_required()
        # uvicorn tells only the newest request of a connection. If a client sends a second request and
        # disconnects, the first one would run to its end.
        running = self._running
        if running is not None and not running.response_complete:
            running.disconnected = True
            running.message_event.set()
            if self._exchange is not None:
                self._exchange.close()
                if self._exchange.on_disconnect is not None:
                    self._exchange.on_disconnect()
        super().connection_lost(exc)

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
    """Rename the header Upgrade, because the parser would obey it and drop the body.

    An upgrade may be ignored (RFC 9110, 7.8). Java's client asks for one to HTTP/2.
    """
    if not _UPGRADE.search(data):
        return data
    head, end, rest = data.partition(b"\r\n\r\n")
    return _UPGRADE.sub(b"\r\nx-upgrade:", head) + end + rest
