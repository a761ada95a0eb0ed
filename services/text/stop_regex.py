"""Finds matches of stop expressions (the field stop_regex) in a text that arrives in pieces.

Bounds the time of a search, because the expressions are the client's. Requests with stop strings alone use
`stop`, which is faster.
"""

import re
from collections.abc import Sequence

import regex

from inferd.services.errors import invalid

#: Seconds that one search for one expression may take. The search runs on the event loop.
_SEARCH_SECONDS = 0.1


class StopPatterns:
    """Does what StopStrings does, for requests with stop expressions: finds these, and stop strings as well.

    An expression is searched for each time the text of a token is complete, as in SGLang. `matched` is the
    stop string, or the expression itself.
    """

    def __init__(self, strings: Sequence[str], patterns: Sequence[str], *, trim: bool = True) -> None:
        self._patterns = [(string, regex.compile(regex.escape(string)), "stop") for string in strings]
        self._patterns += [
            (pattern, compile_stop_regex(pattern, f"stop_regex[{index}]"), f"stop_regex[{index}]")
            for index, pattern in enumerate(patterns)
        ]
        self._trim = trim
        #: The whole text, because an expression may look back.
        self._text = ""
        self._out = 0
        self.matched: str | None = None

    def feed(self, text: str) -> str:
        """Add a piece, and return the text that is certain to come before any match.

        Sets `matched` if there is a match. Raises ServiceError INVALID_ARGUMENT if a search takes too long.
        """
        self._text += text
        found: list[tuple[int, int, str]] = []
        certain = len(self._text)
        for name, pattern, field in self._patterns:
            try:
                match = pattern.search(self._text, self._out, partial=True, timeout=_SEARCH_SECONDS)
            except TimeoutError:
                raise invalid(field, f"{field} takes too long to match") from None
            if match is None:
                continue
            if match.partial:
                certain = min(certain, match.start())
            else:
                found.append((match.end(), match.start(), name))
        if found:
            end, start, self.matched = min(found)
            certain = start if self._trim else end
        return self._take(certain)

    def finish(self) -> str:
        """The text that was held back because it might have become a match."""
        return self._take(len(self._text))

    def _take(self, end: int) -> str:
        start, self._out = self._out, end
        return self._text[start:end]


def compile_stop_regex(pattern: str, field: str) -> "regex.Pattern[str]":
    """Compile an expression. Raises ServiceError INVALID_ARGUMENT for `field` if it is no valid
    expression."""
    if not pattern:
        raise invalid(field, f"{field} must not be empty")
    try:
        # The runtime compiles it with `re`. Here `regex` is needed, because it finds partial matches.
        re.compile(pattern)
        return regex.compile(pattern)
    except (re.error, regex.error, OverflowError, RecursionError) as error:
        raise invalid(field, f"{field} is no regular expression: {error}") from error
