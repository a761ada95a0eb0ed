"""Writes the responses of one call that streams them; see `message_writer`."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from google.protobuf.message import Message
from inferd.services.net.flow import Flow
from inferd.services.net.http2.connection import ConnectionLost
from inferd.services.net.text_sink import TextSink


class ResponseStream(Protocol):
    """The call's stream, for its writer. All methods raise ConnectionLost if nobody reads the stream."""

    def frame_of(self, message: Message) -> bytes:
        """The message as it goes into a DATA frame. Sends the response's headers before the first one."""
        ...

    def send_message(self, message: Message) -> bytes:
        """Send a message, if there is room for all of it. Else its frame; empty if it was sent."""
        ...

    async def send(self, data: bytes) -> None:
        """Send a frame as room for it comes."""
        ...


class ServerWriter:
    """A `MessageWriter`. Messages to a client that has left are dropped: its handler is cancelled as well."""

    __slots__ = ("_buffer", "_sending", "_stream", "flow")

    def __init__(self, stream: ResponseStream) -> None:
        self.flow = Flow()
        self._stream = stream
        #: Messages that there was no room for. Empty unless the flow is paused.
        self._buffer: deque[bytes] = deque()
        self._sending: asyncio.Task[None] | None = None

    def push(self, message: Message) -> None:
        """Send a message, or keep it until there is room."""
        try:
            if self.flow.is_paused:
                self._buffer.append(self._stream.frame_of(message))
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
        return ServerTexts(self.push, message, part, field)

    async def finish(self) -> None:
        """Wait until everything is sent."""
        if self._sending is not None:
            await self._sending

    def close(self) -> None:
        """Nobody reads the responses any more."""
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


class ServerTexts(TextSink):
    """Pushes messages that differ in the string `field` of `part`, a part of `message`."""

    __slots__ = ("_field", "_message", "_part", "_push")

    def __init__(self, push: Callable[[Any], None], message: Message, part: Message, field: str) -> None:
        self._push = push
        self._message = message
        self._part = part
        self._field = field

    def push(self, text: str) -> None:
        setattr(self._part, self._field, text)
        self._push(self._message)
