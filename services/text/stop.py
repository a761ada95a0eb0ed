"""Finds stop strings in a text that arrives in pieces. Knows no regular expressions: `stop_regex` does."""

import re
from collections.abc import Sequence


class StopStrings:
    """Cuts one text at the first stop string.

    The texts that `feed` and `finish` return, joined, are the text up to the stop string that is complete
    first (of several, the longest), or the whole text if no stop string appears. `trim` false: the stop
    string is included. No stop string may be empty.
    """

    def __init__(self, strings: Sequence[str], *, trim: bool = True) -> None:
        self._strings = strings
        self._trim = trim
        self._held = ""
        #: Finds a character with which a stop string may begin: most texts have none.
        self._first = re.compile("[" + re.escape("".join(sorted({string[0] for string in strings}))) + "]")
        #: The stop string that was found.
        self.matched: str | None = None

    def feed(self, text: str) -> str:
        """Add a piece, and return the text that is certain to come before any stop string.

        Sets `matched` if a stop string is complete.
        """
        if not self._held and not self._first.search(text):
            return text
        text = self._held + text
        found = [(at + len(string), at) for string in self._strings if (at := text.find(string)) >= 0]
        if found:
            end, start = min(found)
            self.matched = text[start:end]
            self._held = ""
            return text[: start if self._trim else end]
        keep = self._longest_beginning(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def finish(self) -> str:
        """The text that was held back because it might have become a stop string."""
        held, self._held = self._held, ""
        return held

    def _longest_beginning(self, text: str) -> int:
        """The length of the longest suffix of `text` that is the beginning of a stop string."""
        longest = 0
        for string in self._strings:
            for size in range(min(len(string) - 1, len(text)), longest, -1):
                if text.endswith(string[:size]):
                    longest = size
                    break
        return longest
