"""Stop expressions: finds where one matches in a text that comes in pieces, and lets nothing of it out.

Bounds the time of a search: expressions are the client's.
"""

import re
from collections.abc import Sequence

import regex
from inferd.services.errors import invalid

#: Seconds that looking for one expression in one text may take. It is done on the event loop.
_SEARCH_SECONDS = 0.1


class StopPatterns:
    """As StopStrings, for requests that have stop expressions: these, and the stop strings beside them.

    An expression matches where it does once a token's text is complete, as in SGLang. `matched` is the stop
    string, or the expression itself.
    """

    def __init__(self, strings: Sequence[str], patterns: Sequence[str], *, trim: bool = True) -> None:
        self._patterns = [(string, regex.compile(regex.escape(string)), "stop") for string in strings]
        self._patterns += [
            (pattern, compiled(pattern, f"stop_regex[{index}]"), f"stop_regex[{index}]")
            for index, pattern in enumerate(patterns)
        ]
        self._trim = trim
        #: All of the text: an expression may look back.
        self._text = ""
        self._out = 0
        self.matched: str | None = None

    def feed(self, text: str) -> str:
        """The text that is certain to precede any match. Sets `matched` where there is one.

        Raises ServiceError INVALID_ARGUMENT where an expression takes too long.
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
        """What was held back because it might have become a match."""
        return self._take(len(self._text))

    def _take(self, end: int) -> str:
        start, self._out = self._out, end
        return self._text[start:end]


def compiled(pattern: str, field: str) -> "regex.Pattern[str]":
    """The expression, compiled. Raises ServiceError INVALID_ARGUMENT naming `field` where it is none."""
    if not pattern:
        raise invalid(field, f"{field} must not be empty")
    try:
        # The runtime reads it as Python does; here it has to be found by its beginnings, too.
        re.compile(pattern)
        return regex.compile(pattern)
    except (re.error, regex.error, OverflowError, RecursionError) as error:
        raise invalid(field, f"{field} is no regular expression: {error}") from error
