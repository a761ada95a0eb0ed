"""The short way of a continuation's pieces and texts, from the runtime's relay to who writes the answer."""

from collections.abc import Callable

from services.piece_reader import Piece, PieceReader
from services.runtimes.base import Delta


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
        self.send_text: Callable[[str], bool] | None = None

    def push(self, piece: Piece) -> bool:
        """Pass a piece on."""
        if piece.finish is not None:
            return False
        count = len(piece.token_ids)
        # Before it is sent: it may tell of the usage.
        self.completion_tokens += count
        if self.send_text is not None:
            taken = not piece.text or self.send_text(piece.text)
        else:
            taken = self.send is not None and self.send(piece)
        if not taken:
            self.completion_tokens -= count
        return taken

    def push_text(self, text: str) -> bool:
        """Pass the text of one token on."""
        send = self.send_text
        if send is None or not send(text):
            return False
        self.completion_tokens += 1
        return True


class TokenRelay:
    """A runtime's relay (`services.runtimes.base.Relay`): `push` passes on pieces that `reader` makes."""

    __slots__ = ("_push_text", "_reader", "push")

    def __init__(self, reader: PieceReader, push: Callable[[Delta], bool], relay: PieceRelay) -> None:
        self._reader = reader
        self._push_text = relay.push_text
        self.push = push

    def push_token(self, token_id: int) -> bool:
        """Pass one token on, where its text is all there is to say of it."""
        text = self._reader.text_of(token_id)
        if text is None or not self._push_text(text):
            return False
        self._reader.passed()
        return True
