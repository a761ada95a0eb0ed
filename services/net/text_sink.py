"""Where the texts of a stream go whose messages differ in one text only; see `message_writer`."""


class TextSink:
    """To be subclassed. It is a class and no protocol, because compiled code calls its methods directly."""

    __slots__ = ()

    def push(self, text: str) -> None:
        """Send the stream's next message, with this text in it."""
        raise NotImplementedError
