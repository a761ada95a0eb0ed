"""The short way of a call's responses; see `inferd.services.net.message_sink`."""

from collections.abc import Callable
from typing import Any, Protocol

from google.protobuf.message import Message
from inferd.services.net.text_sender import TextSender


class Call(Protocol):
    """A call that answers by a stream."""

    def send_now(self, message: Any) -> bool:
        """Send it, if there is room."""
        ...


class ServerTexts(TextSender):
    """Messages that differ in `field` of `place`, a part of `message`, only."""

    __slots__ = ("_field", "_message", "_place", "_send")

    def __init__(self, send: Callable[[Message], bool], message: Message, place: Message, field: str) -> None:
        self._send = send
        self._message = message
        self._place = place
        self._field = field

    def send(self, text: str) -> bool:
        setattr(self._place, self._field, text)
        return self._send(self._message)


class ServerSink:
    """See `MessageSink`."""

    def __init__(self, call: Call) -> None:
        self.send = call.send_now

    def text(self, message: Message, place: Message, field: str) -> TextSender:
        return ServerTexts(self.send, message, place, field)
