"""The short way of a stream's messages to its client: sent at once, by whoever has one, past the generators
and the task that the stream's other messages come by.

A token costs a third of what it does on the long way, which what ends a stream or finds no room always goes.
"""

from typing import Any, Protocol

from google.protobuf.message import Message
from inferd.services.net.text_sender import TextSender


class MessageSink(Protocol):
    """To be used only while the stream's generator is waited for: what it yielded before was sent."""

    def send(self, message: Message) -> bool:
        """Send it. False: there is no room now, and it is to be yielded."""
        ...

    def text(self, message: Message, place: Message, field: str) -> TextSender:
        """What sends `message` with another text in the string `field` of `place`, which is a part of it.

        The message is the sink's from now on.
        """
        ...


def message_sink(context: Any) -> MessageSink | None:
    """The sink of a call; None where it has none."""
    return getattr(context, "sink", None)
