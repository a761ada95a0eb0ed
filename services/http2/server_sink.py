"""The short way of a call's responses; see `services.message_sink`."""

from collections.abc import Callable
from typing import Any, Protocol

from google.protobuf.message import Message


class Call(Protocol):
    """A call that answers by a stream."""

    def send_now(self, message: Any) -> bool:
        """Send it, if there is room."""
        ...


class ServerSink:
    """See `MessageSink`."""

    def __init__(self, call: Call) -> None:
        self.send = call.send_now

    def text(self, message: Message, place: Message, field: str) -> Callable[[str], bool]:
        send = self.send

        def send_text(text: str) -> bool:
            setattr(place, field, text)
            return send(message)

        return send_text
