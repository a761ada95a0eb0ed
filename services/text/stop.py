"""Stop strings: finds the first one in a text that comes in pieces, and lets nothing of it out."""

import re
from collections.abc import Sequence


class StopStrings:
    """Feeds pieces of one text through. What `feed` and `finish` return, joined, is the text up to the
    stop string that is complete first (of several, the longest), or all of it where none appears.

    Not to `trim` is to let that stop string out too. No string may be empty.
    """

    def __init__(self, strings: Sequence[str], *, trim: bool = True) -> None:
        self._strings = strings
        self._trim = trim
        self._held = ""
        #: Finds where one may begin: most texts have no such place.
        self._first = re.compile("[" + re.escape("".join(sorted({string[0] for string in strings}))) + "]")
        #: The stop string that was met.
        self.matched: str | None = None

    def feed(self, text: str) -> str:
        """The text that is certain to precede any stop string. Sets `matched` where one is complete."""
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
        """What was held back because it might have become a stop string."""
        held, self._held = self._held, ""
        return held

    def _longest_beginning(self, text: str) -> int:
        """Length of the longest end of `text` that begins a stop string."""
        longest = 0
        for string in self._strings:
            for size in range(min(len(string) - 1, len(text)), longest, -1):
                if text.endswith(string[:size]):
                    longest = size
                    break
        return longest
