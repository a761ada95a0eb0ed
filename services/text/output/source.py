"""The text of an answer as it comes, and the ways to read it that do not depend on how it was cut.

A reader is a generator: it yields where it cannot tell what it sees before more text comes. It keeps no
position of its own over a yield, because what has been read is dropped.
"""

import re
from collections.abc import Callable, Generator
from typing import TypeAlias, TypeVar

from inferd.services.text.output.json_scanner import JsonScanner
from inferd.services.text.output.markers import MarkerFinder
from inferd.services.text.output.strings import decoded

_T = TypeVar("_T")
Steps: TypeAlias = Generator[None, None, _T]

_SPACES = re.compile(r"\s*")
_STRING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
# A name or a key longer than this is none: what is held back for one is bounded.
_LONGEST_NAME = 1024


class Malformed(Exception):
    """The text is not what its beginning promised, or ended before it was."""


class Source:
    """A text that grows, and the position up to which it has been read."""

    __slots__ = ("_dropped", "_held", "_markers", "cut", "ended", "position", "text")

    def __init__(self, markers: frozenset[str]) -> None:
        """`markers` are the texts that a tokenizer may hold as special tokens."""
        self._markers = markers
        self.text = ""
        self.position = 0
        self.ended = False
        self.cut = False
        """What was read last broke off because the text ended."""
        self._held: int | None = None
        self._dropped = 0

    def add(self, text: str) -> None:
        """Appends text, and drops what has been read and is not held."""
        done = self.position if self._held is None else self._held
        self.text = self.text[done:] + text
        self.position -= done
        self._dropped += done
        if self._held is not None:
            self._held = 0

    @property
    def offset(self) -> int:
        """Characters read since the beginning."""
        return self._dropped + self.position

    def hold(self) -> None:
        """Keeps the text from here on, to come back to it."""
        self._held = self.position

    @property
    def since_hold(self) -> str:
        """What was read since the hold."""
        return self.text[self._held : self.position]

    def release(self) -> None:
        """Keeps no text any more."""
        self._held = None

    def return_to_held(self) -> None:
        """Unreads what was read since the hold, and ends it."""
        if self._held is not None:
            self.position = self._held
        self._held = None

    def take(self, end: int) -> str:
        """Reads up to a position."""
        text = self.text[self.position : end]
        self.position = end
        return text

    def peek(self) -> Steps[str]:
        """The next character, unread; "" at the end."""
        while self.position >= len(self.text):
            if self.ended:
                self.cut = True
                return ""
            yield
        return self.text[self.position]

    def spaces(self) -> Steps[None]:
        """Reads whitespace, if there is some."""
        while True:
            match = _SPACES.match(self.text, self.position)
            self.position = match.end() if match else self.position
            if self.position < len(self.text) or self.ended:
                return
            yield

    def literal(self, *texts: str) -> Steps[str]:
        """Reads whichever of the texts stands here; "" if none does. None of them begins another."""
        longest = max(map(len, texts))
        while True:
            for text in texts:
                if self.text.startswith(text, self.position):
                    self.position += len(text)
                    return text
            rest = self.text[self.position : self.position + longest]
            if not any(text.startswith(rest) for text in texts):
                return ""
            if self.ended:
                self.cut = True
                return ""
            yield

    def words(self, words: tuple[str, ...]) -> Steps[None]:
        """Reads these, with any whitespace before each of them."""
        for word in words:
            yield from self.spaces()
            if not (yield from self.literal(word)):
                raise Malformed

    def run(self, pattern: re.Pattern[str]) -> Steps[str]:
        """Reads the characters that `pattern`, a repeated class of characters, matches; bounded in length."""
        while True:
            match = pattern.match(self.text, self.position)
            end = match.end() if match else self.position
            if end - self.position > _LONGEST_NAME:
                raise Malformed
            if end < len(self.text):
                return self.take(end)
            if self.ended:
                self.cut = True
                return self.take(end)
            yield

    def up_to(self, mark: str) -> Steps[str]:
        """Reads the text before `mark`, and the mark; bounded in length."""
        while True:
            end = self.text.find(mark, self.position)
            if end - self.position > _LONGEST_NAME or (
                end < 0 and len(self.text) - self.position > _LONGEST_NAME + len(mark)
            ):
                raise Malformed
            if end >= 0:
                text = self.take(end)
                self.position += len(mark)
                return text
            if self.ended:
                self.cut = True
                raise Malformed
            yield

    def string(self) -> Steps[str]:
        """Reads a short JSON string, such as a key or a name."""
        if (yield from self.peek()) != '"':
            raise Malformed
        while True:
            match = _STRING.match(self.text, self.position)
            if (match.end() if match else len(self.text)) - self.position > _LONGEST_NAME:
                raise Malformed
            if match:
                self.position = match.end()
                return decoded(match.group()[1:-1])
            if self.ended:
                self.cut = True
                raise Malformed
            yield

    def json(self, write: Callable[[str], None]) -> Steps[None]:
        """Reads a JSON value, and writes its text as it comes."""
        scanner = JsonScanner()
        while True:
            end = scanner.scan(self.text, self.position)
            if end > self.position:
                write(self.take(end))
            if scanner.done:
                return
            if scanner.broken:
                raise Malformed
            if self.ended:
                self.cut = True
                raise Malformed
            yield

    def until(self, marks: MarkerFinder, write: Callable[[str], None]) -> Steps[str]:
        """Reads and writes text up to a marker, and reads the marker; "" where the text ended first.

        The beginning of a marker with which the text ends is text, if no special token of a model's is in it.
        """
        return (yield from self._until(marks, write, whole=True))

    def value_until(self, marks: MarkerFinder, write: Callable[[str], None]) -> Steps[str]:
        """As `until`; but the beginning of a marker with which the text ends never is the value's."""
        return (yield from self._until(marks, write, whole=False))

    def _until(self, marks: MarkerFinder, write: Callable[[str], None], *, whole: bool) -> Steps[str]:
        while True:
            end, marker = marks.find(self.text, self.position, ended=self.ended and whole)
            if self.ended and whole and not marker:
                begun, _ = marks.find(self.text, self.position, ended=False)
                end = begun if self._has_marker(begun) else end
            if end > self.position:
                write(self.take(end))
            if marker:
                self.position += len(marker)
                return marker
            if self.ended:
                self.position = len(self.text)
                self.cut = True
                return ""
            yield

    def _has_marker(self, begin: int) -> bool:
        """Whether the text from there on has one of the markers in it."""
        return any(self.text.find(marker, begin) >= 0 for marker in self._markers)
