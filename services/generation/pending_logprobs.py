"""Log probabilities that wait for the text of their tokens. A stop string that cuts the text drops them."""

from collections import deque
from collections.abc import Sequence

from inferd.services.runtimes.base import Logprobs


class PendingLogprobs:
    """The log probabilities of one continuation's tokens whose text was not sent yet."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[int, float | None, Sequence[tuple[int, float]]]] = deque()
        #: The position in the text at which each waiting token ends. An undecoded token has none.
        self._text_ends: deque[int] = deque()
        self._decoded = 0
        self._sent = 0

    def add(self, logprobs: Logprobs) -> None:
        """Add the log probabilities of the next tokens."""
        self._waiting.extend(zip(logprobs.token_ids, logprobs.values, logprobs.top, strict=True))

    def add_text(self, characters: int) -> None:
        """Count the characters that the next token completed when it was decoded."""
        self._decoded += characters
        self._text_ends.append(self._decoded)

    def take(self, characters: int, *, last: bool, cut: bool) -> Logprobs | None:
        """The log probabilities of the tokens whose text is sent, now that `characters` more are.

        The `last` call takes all that wait, unless the text was `cut`: then tokens that reach beyond the cut
        are left out.
        """
        self._sent += characters
        count = 0
        while count < len(self._text_ends) and self._text_ends[count] <= self._sent:
            count += 1
        if last and not cut:
            count = len(self._waiting)
        count = min(count, len(self._waiting))
        if not count:
            return None
        taken = [self._waiting.popleft() for _ in range(count)]
        for _ in range(min(count, len(self._text_ends))):
            self._text_ends.popleft()
        token_ids, values, top = zip(*taken, strict=True)
        return Logprobs(token_ids, values, top)
