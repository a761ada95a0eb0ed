"""Writes the messages of one stream as server-sent events: the end of a token's way over REST.

Encodes no messages: `events` does.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Self

import orjson
from google.protobuf.message import Message

from inferd.rest_bridge import sse
from inferd.rest_bridge.exchange import Exchange
from inferd.rest_bridge.response import Response, metadata_headers
from inferd.rest_bridge.transport import RpcFailed
from inferd.services.net.flow import Flow
from inferd.services.net.message_writer import Metadata
from inferd.services.net.random_id import random_id
from inferd.services.net.text_sink import TextSink
from inferd.services.net.timeouts import SharedTimeout


class EventWriter:
    """A `MessageWriter`. To be used as a context manager, while the call runs.

    `encode` makes the event of a message. Nothing is sent before the first message, so that an early error
    has its own HTTP status. But if `idle` expires without a message, a comment is sent.
    """

    def __init__(
        self,
        exchange: Exchange | None,
        response: Response,
        encode: Callable[[Message], bytes],
        idle: SharedTimeout,
    ) -> None:
        self.flow = Flow()
        #: The call's initial metadata. To be set before the first message.
        self.metadata: Metadata = ()
        #: The error in the stream's last message, if it has one.
        self.failure: RpcFailed | None = None
        self._exchange = exchange
        self._response = response
        self._encode = encode
        self._idle = idle
        self._loop = asyncio.get_running_loop()
        #: When the last event was written, on the clock of the loop. Text sinks do not set it.
        self._last_write = self._loop.time()
        #: Set if the stream is to be looked at sooner than `idle` expires.
        self._timer: asyncio.TimerHandle | None = None
        self._text_sinks: list[TextEventSink] = []
        #: Events that wait for room. Empty unless the flow is paused.
        self._buffer = bytearray()
        self._sending: asyncio.Task[None] | None = None

    def __enter__(self) -> Self:
        self._idle.start(self._check_idle)
        return self

    def __exit__(self, *_: Any) -> None:
        self._idle.cancel(self._check_idle)
        if self._timer is not None:
            self._timer.cancel()
        # The sinks refer to the writer. Such a cycle would live until the garbage collector runs.
        self._text_sinks.clear()
        if self._sending is not None:
            self._sending.cancel()

    def push(self, message: Message) -> None:
        """Send the event of a message, or keep it until there is room. Drops messages after a failure."""
        if self.failure is not None:
            return
        try:
            event = self._encode(message)
        except RpcFailed as failure:
            self.failure = failure
            return
        self.write(event)

    def text_sink(self, message: Message, part: Message, field: str) -> TextSink:
        """See `MessageWriter.text_sink`. The event is encoded once, and split where the text is."""
        # No other text of the message can be equal, because the placeholder is random.
        placeholder = random_id()
        setattr(part, field, placeholder)
        before, after = self._encode(message).split(orjson.dumps(placeholder))
        texts = TextEventSink(self, self._exchange, before, after)
        self._text_sinks.append(texts)
        return texts

    def write(self, event: bytes) -> None:
        """Send an event, or keep it until there is room."""
        self._last_write = self._loop.time()
        response = self._response
        if not self.flow.is_paused and response.start_events_now(self._headers) and response.write_now(event):
            return
        self._buffer += event
        if self._sending is None:
            self.flow.pause()
            self._sending = self._loop.create_task(self._send_buffer())

    async def finish(self) -> None:
        """Wait until everything is sent."""
        if self._sending is not None:
            await self._sending

    def _headers(self) -> list[tuple[bytes, bytes]]:
        return metadata_headers(self.metadata)

    async def _send_buffer(self) -> None:
        try:
            await self._response.start_events(self._headers)
            while self._buffer:
                data = bytes(self._buffer)
                self._buffer.clear()
                await self._response.write(data)
        finally:
            self._sending = None
            self.flow.resume()

    def _check_idle(self) -> None:
        """Send a comment if nothing was sent for the time of `idle`, and look again when it may be due."""
        now = self._loop.time()
        for texts in self._text_sinks:
            if texts.was_used:
                self._last_write, texts.was_used = now, False
        quiet = now - self._last_write
        # A client that has not read all events needs no comment to keep the connection.
        if quiet >= self._idle.seconds and not self.flow.is_paused:
            self.write(sse.KEEP_ALIVE)
        if 0 < quiet < self._idle.seconds:
            self._timer = self._loop.call_later(self._idle.seconds - quiet, self._check_idle)
        else:
            self._idle.start(self._check_idle)


class TextEventSink(TextSink):
    """Sends events that differ in one text. `before` and `after` are the bytes around the text's JSON.

    Each event sets `was_used`.
    """

    __slots__ = ("_after", "_before", "_exchange", "_flow", "_writer", "was_used")

    def __init__(self, writer: EventWriter, exchange: Exchange | None, before: bytes, after: bytes) -> None:
        self._writer = writer
        self._flow = writer.flow
        self._exchange = exchange
        self._before = before
        self._after = after
        self.was_used = False

    def push(self, text: str) -> None:
        data = orjson.dumps(text)
        self.was_used = True
        if (
            self._flow.is_paused
            or self._exchange is None
            or not self._exchange.write_parts(self._before, data, self._after)
        ):
            self._writer.write(self._before + data + self._after)
