"""Messages written as server-sent events at once, where the HTTP server has a way to do so."""

from collections.abc import Callable

import orjson
from google.protobuf.message import Message
from inferd.rest_bridge.exchange import Exchange
from inferd.services.net.random_id import random_id
from inferd.services.net.text_sender import TextSender


class TextEvents(TextSender):
    """Events that differ in one text only: what stands before its JSON, and after it. `sent` is set where one
    was."""

    __slots__ = ("_after", "_before", "_exchange", "sent")

    def __init__(self, exchange: Exchange, before: bytes, after: bytes) -> None:
        self._exchange = exchange
        self._before = before
        self._after = after
        self.sent = False

    def send(self, text: str) -> bool:
        if not self._exchange.write_parts(self._before, orjson.dumps(text), self._after):
            return False
        self.sent = True
        return True


class EventSink:
    """See `MessageSink`. `encode` makes a message's event."""

    def __init__(self, exchange: Exchange, encode: Callable[[Message], bytes]) -> None:
        self._exchange = exchange
        self._encode = encode
        self._sent = False
        self._texts: TextEvents | None = None

    def send(self, message: Message) -> bool:
        if not self._exchange.write(self._encode(message)):
            return False
        self._sent = True
        return True

    def text(self, message: Message, place: Message, field: str) -> TextSender:
        # No text of the message's own is this one.
        mark = random_id()
        setattr(place, field, mark)
        before, after = self._encode(message).split(orjson.dumps(mark))
        self._texts = TextEvents(self._exchange, before, after)
        return self._texts

    def was_used(self) -> bool:
        """Whether it sent anything since this was asked last."""
        used, self._sent = self._sent, False
        if self._texts is not None:
            used, self._texts.sent = used or self._texts.sent, False
        return used
