"""Writes an HTTP response: whole, as server-sent events, or as an error. Encodes no messages."""

import re
from collections.abc import Callable

from starlette.types import Send

from inferd.rest_bridge import sse
from inferd.rest_bridge.dialects import OPENAI_ERRORS
from inferd.rest_bridge.errors import ErrorResponse, Headers
from inferd.rest_bridge.exchange import Exchange
from inferd.services.net.message_writer import Metadata

_PASSED_ON = "x-inferd-"
# Other characters are not passed on as the value of an HTTP header.
_PRINTABLE = re.compile(r"[\x20-\x7e]*")


class Response:
    """The response to one request. Its headers have the request's id.

    `error_form` is the form of errors in the method's dialect. To be set once the method is known.
    """

    def __init__(self, exchange: Exchange | None, send: Send, request_id: str) -> None:
        self._exchange = exchange if exchange is not None and exchange.is_own_send(send) else None
        self._send = send
        self.error_form = OPENAI_ERRORS
        #: Whether the headers of an event stream were sent.
        self.is_stream = False
        self.request_id = request_id
        self._id: Headers = [(b"x-request-id", request_id.encode("ascii"))]
        self._is_started = False
        self._is_ended = False

    async def send(self, status: int, body: bytes, headers: Headers) -> None:
        """Send a whole response with a JSON document."""
        headers = [*_json_headers(body), *headers]
        if self._exchange is not None and self._exchange.respond(status, self._id + headers, body):
            self._is_started = self._is_ended = True
            return
        await self._start(status, headers)
        await self.end(body)

    def start_events_now(self, headers: Callable[[], Headers]) -> bool:
        """Send status 200 and the headers of an event stream, if they can be sent without waiting.

        True also if they were sent before. `headers` gives further headers.
        """
        if self._is_started:
            return True
        if self._exchange is not None:
            self._is_started = self._exchange.start(200, self._id + _EVENT_HEADERS + headers())
            self.is_stream = self._is_started
        return self._is_started

    async def start_events(self, headers: Callable[[], Headers]) -> None:
        """`start_events_now`, but waits if that is needed."""
        if not self.start_events_now(headers):
            self.is_stream = True
            await self._start(200, _EVENT_HEADERS + headers())

    def write_now(self, frames: bytes) -> bool:
        """Write a part of the body, if that is possible without waiting."""
        return self._exchange is not None and self._exchange.write(frames)

    async def write(self, frames: bytes) -> None:
        """Write a part of the body, and wait while the client is slow to read."""
        if not self.write_now(frames):
            await self._send({"type": "http.response.body", "body": frames, "more_body": True})

    async def end(self, frames: bytes) -> None:
        """Write the last part of the body."""
        self._is_ended = True
        if self._exchange is not None and frames and self._exchange.end(frames):
            return
        await self._send({"type": "http.response.body", "body": frames, "more_body": False})

    async def fail(self, error: ErrorResponse) -> None:
        """Send the error as the response, or as an event after other events. Call `close` next."""
        if self._is_ended:
            return
        if self._is_started:
            await self.write(error.event)
        else:
            await self._start(error.status, _json_headers(error.body) + error.headers)
            await self.write(error.body)

    async def close(self) -> None:
        """End the body, if it has not ended."""
        if not self._is_ended:
            await self.end(b"")

    async def _start(self, status: int, headers: Headers) -> None:
        self._is_started = True
        await self._send({"type": "http.response.start", "status": status, "headers": self._id + headers})


_EVENT_HEADERS: Headers = [
    (b"content-type", sse.CONTENT_TYPE),
    (b"cache-control", b"no-cache"),
    # Without this header, nginx holds a response back until its buffer is full.
    (b"x-accel-buffering", b"no"),
]


def metadata_headers(metadata: Metadata) -> Headers:
    """The response headers for an RPC's initial metadata. Only x-inferd-* is passed on."""
    return [
        (key.encode("ascii"), value.encode("ascii"))
        for key, value in metadata
        if key.startswith(_PASSED_ON) and isinstance(value, str) and _PRINTABLE.fullmatch(value)
    ]


def _json_headers(body: bytes) -> Headers:
    return [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
