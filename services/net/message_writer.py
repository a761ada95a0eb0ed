"""Where the messages of a stream go: the end of the chain that a token passes.

gRPC's server and the REST bridge each have a writer. A handler finds its call's writer in the context.
"""

from collections.abc import Sequence
from typing import Protocol

from google.protobuf.message import Message

from inferd.services.net.flow import Flow
from inferd.services.net.text_sink import TextSink

#: Pairs of a key in lower case and its value, which is bytes if the key ends with "-bin".
Metadata = Sequence[tuple[str, str | bytes]]


class MessageWriter(Protocol):
    """Writes the messages of one stream to its client.

    A message that the client has no room for waits in the writer's buffer, and the flow is paused until the
    buffer is empty.
    """

    flow: Flow

    def push(self, message: Message) -> None:
        """Send a message, or keep it until there is room. The message may be changed afterwards."""
        ...

    def text_sink(self, message: Message, part: Message, field: str) -> TextSink:
        """A sink that sends `message` again and again, each time with another text in it.

        The text goes into the string `field` of `part`, which is `message` or a part of it. The writer owns
        the message from now on.
        """
        ...
