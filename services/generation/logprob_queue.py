"""Log probabilities on their way out: each goes with its token's text, and none where a stop string took that
text away."""

from collections import deque
from collections.abc import Sequence

from inferd.services.runtimes.base import Logprobs


class LogprobQueue:
    """The log probabilities of one continuation's tokens, while their text waits."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[int, float | None, Sequence[tuple[int, float]]]] = deque()
        #: Where each waiting token's text ends, in characters, as far as it is decoded.
        self._text_ends: deque[int] = deque()
        self._decoded = 0
        self._out = 0

    def add(self, logprobs: Logprobs) -> None:
        """Those of the next tokens."""
        self._waiting.extend(zip(logprobs.token_ids, logprobs.values, logprobs.top, strict=True))

    def decoded(self, characters: int) -> None:
        """The next token was decoded, and completed so many characters."""
        self._decoded += characters
        self._text_ends.append(self._decoded)

    def take(self, characters: int, *, last: bool, cut: bool) -> Logprobs | None:
        """Those of the tokens whose text is out, now that so many more characters are.

        The `last` time all that wait; or, where the text was `cut`, none that reach beyond the cut.
        """
        self._out += characters
        count = 0
        while count < len(self._text_ends) and self._text_ends[count] <= self._out:
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
