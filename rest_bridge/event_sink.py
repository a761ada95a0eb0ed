"""Messages written as server-sent events at once, where the HTTP server has a way to do so."""

import secrets
from collections.abc import Callable

import orjson
from google.protobuf.message import Message

from rest_bridge.body_writer import BodyWriter


class TextEvents:
    """Events that differ in one text only: what stands before its JSON, and after it."""

    __slots__ = ("_after", "_before", "_body")

    def __init__(self, body: BodyWriter, before: bytes, after: bytes) -> None:
        self._body = body
        self._before = before
        self._after = after

    def send(self, text: str) -> bool:
        return self._body.write(self._before + orjson.dumps(text) + self._after)


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
        return TextEvents(self._body, before, after).send

    def was_used(self) -> bool:
        """Whether it sent anything since this was asked last."""
        used, self._body.wrote = self._body.wrote, False
        return used
