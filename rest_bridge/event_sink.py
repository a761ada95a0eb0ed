"""Messages written as server-sent events at once, where the HTTP server has a way to do so."""

import secrets
from collections.abc import Callable
from typing import Protocol

import orjson
from google.protobuf.message import Message


class BodyWriter(Protocol):
    """Writes parts of a response's body. `wrote` is set whenever it did."""

    wrote: bool

    def write(self, data: bytes) -> bool:
        """Write it. False: there is no room, or no response to be written."""
        ...


class EventSink:
    """See `MessageSink`. `encode` makes a message's event."""

    def __init__(self, body: BodyWriter, encode: Callable[[Message], bytes]) -> None:
        self._body = body
        self._encode = encode

    def send(self, message: Message) -> bool:
        return self._body.write(self._encode(message))

    def text(self, message: Message, place: Message, field: str) -> Callable[[str], bool]:
        # No text of the message's own is this one.
        mark = secrets.token_hex(16)
        setattr(place, field, mark)
        before, after = self._encode(message).split(orjson.dumps(mark))
        write, dumps = self._body.write, orjson.dumps

        def send_text(text: str) -> bool:
            return write(before + dumps(text) + after)

        return send_text

    def was_used(self) -> bool:
        """Whether it sent anything since this was asked last."""
        used, self._body.wrote = self._body.wrote, False
        return used
