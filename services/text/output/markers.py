"""Finds the first of several markers in a text that is still growing. Knows no format of calls."""

import re
from functools import lru_cache


class MarkerFinder:
    """Finds the first of `markers`, and how much of the text is certain not to be part of a marker."""

    __slots__ = ("_beginnings", "_first", "_longest", "_pattern")

    def __init__(self, markers: frozenset[str]) -> None:
        longest_first = sorted(markers, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
        first = "".join(re.escape(char) for char in sorted({marker[0] for marker in markers}))
        self._first = re.compile(f"[{first}]" if first else "(?!)")
        self._beginnings = {marker[:end] for marker in markers for end in range(1, len(marker))}
        self._longest = len(longest_first[0]) if markers else 0

    def find(self, text: str, start: int, *, ended: bool) -> tuple[int, str]:
        """The position of the first marker from `start` on, and the marker.

        If no marker is complete: the position where one may have begun (the end of the text, if none has),
        and "". `ended`: no text follows, so an incomplete marker is none.
        """
        if not self._first.search(text, start):
            return len(text), ""
        if match := self._pattern.search(text, start):
            if ended or text[match.start() :] not in self._beginnings:
                return match.start(), match.group()
            return match.start(), ""
        if ended:
            return len(text), ""
        begin = self._first.search(text, max(start, len(text) - self._longest + 1))
        while begin:
            if text[begin.start() :] in self._beginnings:
                return begin.start(), ""
            begin = self._first.search(text, begin.end())
        return len(text), ""


@lru_cache(maxsize=1024)
def marker_finder(markers: frozenset[str]) -> MarkerFinder:
    """The MarkerFinder of these markers. Finders are cached."""
    return MarkerFinder(markers)
