"""Writes the responses of one call that streams them; see `message_writer`. Knows nothing of connections."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from google.protobuf.message import Message

from inferd.services.net.flow import Flow
from inferd.services.net.http2.connection import ConnectionLost
from inferd.services.net.text_sink import TextSink


class ResponseStream(Protocol):
    """The part of a call that its writer uses. All methods raise ConnectionLost if the client has left."""

    def encode_response(self, message: Message) -> bytes:
        """The bytes of a message, with gRPC's prefix. Sends the response's headers before the first one."""
        ...

    def send_message(self, message: Message) -> bytes:
        """Send a message if there is room for all of it. Returns the bytes that are unsent: all or none."""
        ...

    async def send(self, data: bytes) -> None:
        """Send the bytes of a message, and wait while there is no room."""
        ...


class ServerWriter:
    """A `MessageWriter`. Drops messages if the client has left; the handler is cancelled then."""

    __slots__ = ("_buffer", "_sending", "_stream", "flow")

    def __init__(self, stream: ResponseStream) -> None:
        self.flow = Flow()
        self._stream = stream
        #: The bytes of messages that wait for room. Empty unless the flow is paused.
        self._buffer: deque[bytes] = deque()
        self._sending: asyncio.Task[None] | None = None

    def push(self, message: Message) -> None:
        """Send a message, or keep it until there is room."""
        try:
            if self.flow.is_paused:
                self._buffer.append(self._stream.encode_response(message))
                return
            unsent = self._stream.send_message(message)
        except ConnectionLost:
            return
        if unsent:
            self._buffer.append(unsent)
            self.flow.pause()
            self._sending = asyncio.get_running_loop().create_task(self._send_buffer())

    def text_sink(self, message: Message, part: Message, field: str) -> TextSink:
        """See `MessageWriter.text_sink`."""
        return ServerTextSink(self.push, message, part, field)

    async def finish(self) -> None:
        """Wait until everything is sent."""
        if self._sending is not None:
            await self._sending

    def close(self) -> None:
        """Stop sending, because the call is over."""
        if self._sending is not None:
            self._sending.cancel()

    async def _send_buffer(self) -> None:
        try:
            while self._buffer:
                await self._stream.send(self._buffer.popleft())
        except ConnectionLost:
            self._buffer.clear()
        finally:
            self._sending = None
            self.flow.resume()


class ServerTextSink(TextSink):
    """Pushes `message` with each text in the string `field` of `part`, which is `message` or a part of it."""

    __slots__ = ("_field", "_message", "_part", "_push")

    def __init__(self, push: Callable[[Any], None], message: Message, part: Message, field: str) -> None:
        self._push = push
        self._message = message
        self._part = part
        self._field = field

    def push(self, text: str) -> None:
        setattr(self._part, self._field, text)
        self._push(self._message)
