"""The short way of a continuation's pieces and texts, from the runtime's relay to who writes the answer."""

from collections.abc import Callable

from inferd.services.generation.piece_reader import Piece, PieceReader
from inferd.services.net.text_sender import TextSender
from inferd.services.runtimes.base import Delta
from inferd.services.runtimes.relay import Relay


class PieceRelay:
    """Passes on what comes while the pieces are waited for, and counts its tokens. What it refuses (False)
    comes as a piece, and so does the last one."""

    __slots__ = ("completion_tokens", "send", "send_text")

    def __init__(self) -> None:
        #: Of pieces that were waited for too: whoever waits adds theirs.
        self.completion_tokens = 0
        #: Take a piece, …
        self.send: Callable[[Piece], bool] | None = None
        #: … or, where nothing else of it matters, its text.
        self.send_text: TextSender | None = None

    def push(self, piece: Piece) -> bool:
        """Pass a piece on."""
        if piece.finish is not None:
            return False
        count = len(piece.token_ids)
        # Before it is sent: it may tell of the usage.
        self.completion_tokens += count
        if self.send_text is not None:
            taken = not piece.text or self.send_text.send(piece.text)
        else:
            taken = self.send is not None and self.send(piece)
        if not taken:
            self.completion_tokens -= count
        return taken

    def push_text(self, text: str) -> bool:
        """Pass the text of one token on."""
        sender = self.send_text
        if sender is None or not sender.send(text):
            return False
        self.completion_tokens += 1
        return True

    def close(self) -> None:
        """Pass on nothing more. Those who took it know whom this serves: all would wait for the garbage
        collector together."""
        self.send = self.send_text = None


class TokenRelay(Relay):
    """The relay of pieces that `reader` makes, where it does not do without; `push` passes on those."""

    __slots__ = ("_push", "_reader", "_relay")

    def __init__(self, reader: PieceReader, push: Callable[[Delta], bool], relay: PieceRelay) -> None:
        self._reader = reader
        self._relay = relay
        self._push = push

    def push(self, delta: Delta) -> bool:
        """Pass on what is made of a delta."""
        return self._push(delta)

    def push_token(self, token_id: int) -> bool:
        """Pass one token on, where its text is all there is to say of it."""
        text = self._reader.text_of(token_id)
        if text is None or not self._relay.push_text(text):
            return False
        self._reader.passed()
        return True
