"""Sends the texts of a stream whose messages differ in nothing else; see `message_sink`."""


class TextSender:
    """To be subclassed. (A class, and not a protocol: what is compiled calls it without a detour.)"""

    __slots__ = ()

    def send(self, text: str) -> bool:
        """Send the message with this text. False: there is no room now, and it is to be yielded."""
        raise NotImplementedError
