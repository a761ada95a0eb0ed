"""Messages written as server-sent events at once, where the HTTP server has a way to do so."""

import secrets
from collections.abc import Callable
from typing import Protocol

import orjson
from google.protobuf.message import Message


class BodyWriter(Protocol):
    """Writes parts of a response's body."""

    def write(self, data: bytes) -> bool:
        """Write it. False: there is no room, or no response to be written."""
        ...


class EventSink:
    """See `MessageSink`. `encode` makes a message's event."""

    def __init__(self, body: BodyWriter, encode: Callable[[Message], bytes]) -> None:
        self._write = body.write
        self._encode = encode
        #: Called after each event.
        self.on_sent: Callable[[], None] = lambda: None

    def send(self, message: Message) -> bool:
        return self._send(self._encode(message))

    def text(self, message: Message, place: Message, field: str) -> Callable[[str], bool]:
        # No text of the message's own is this one.
        mark = secrets.token_hex(16)
        setattr(place, field, mark)
        before, after = self._encode(message).split(orjson.dumps(mark))
        send = self._send

        def send_text(text: str) -> bool:
            return send(before + orjson.dumps(text) + after)

        return send_text

    def _send(self, event: bytes) -> bool:
        if not self._write(event):
            return False
        self.on_sent()
        return True
