"""The buffer that holds the text of an answer while it arrives in pieces, and the methods that read it.

A reader is a generator. It yields if it needs more text to decide, so its result does not depend on how the
text is cut into pieces. A reader keeps no position over a yield, because the buffer drops text that is read.
Knows no format of calls.
"""

import re
from collections.abc import Callable, Generator
from typing import TypeAlias, TypeVar

from inferd.services.text.output.json_scanner import JsonScanner
from inferd.services.text.output.json_strings import decoded
from inferd.services.text.output.markers import MarkerFinder

_T = TypeVar("_T")
#: A reader: each yield asks for more text.
Steps: TypeAlias = Generator[None, None, _T]

_SPACES = re.compile(r"\s*")
_STRING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
# A name or a key has at most so many characters. This bounds the text that is held back.
_LONGEST_NAME = 1024


class Malformed(Exception):
    """The text does not go on as its beginning requires, or it ends too early."""


class TextBuffer:
    """A text that grows at its end, and the position up to which it is read."""

    __slots__ = ("_dropped", "_held", "_markers", "cut", "ended", "hit_end", "position", "text")

    def __init__(self, markers: frozenset[str]) -> None:
        """`markers` are texts of the format that may be special tokens of the tokenizer."""
        self._markers = markers
        self.text = ""
        self.position = 0
        self.ended = False
        self.cut = False
        """The text has ended, and not because the model ended it."""
        self.hit_end = False
        """The last read stopped because the text has ended."""
        self._held: int | None = None
        self._dropped = 0

    def add(self, text: str) -> None:
        """Append text, and drop text that is read and not held."""
        done = self.position if self._held is None else self._held
        self.text = self.text[done:] + text
        self.position -= done
        self._dropped += done
        if self._held is not None:
            self._held = 0

    @property
    def offset(self) -> int:
        """Characters read since the start of the answer."""
        return self._dropped + self.position

    def hold(self) -> None:
        """Keep the text from this position on, so that `rewind` can come back to it."""
        self._held = self.position

    @property
    def held_text(self) -> str:
        """The text that was read since `hold`."""
        return self.text[self._held : self.position]

    def release(self) -> None:
        """End the hold without going back."""
        self._held = None

    def rewind(self) -> None:
        """Go back to the position of `hold`, and end the hold."""
        if self._held is not None:
            self.position = self._held
        self._held = None

    def discard_rest(self) -> None:
        """Skip all text that is there."""
        self.position = len(self.text)

    def take(self, end: int) -> str:
        """Read up to the position `end`, and return the text."""
        text = self.text[self.position : end]
        self.position = end
        return text

    def peek(self) -> Steps[str]:
        """The next character, without reading it; "" at the end of the text."""
        while self.position >= len(self.text):
            if self.ended:
                self.hit_end = True
                return ""
            yield
        return self.text[self.position]

    def skip_spaces(self) -> Steps[None]:
        """Read any whitespace."""
        while True:
            match = _SPACES.match(self.text, self.position)
            self.position = match.end() if match else self.position
            if self.position < len(self.text) or self.ended:
                return
            yield

    def accept(self, *texts: str) -> Steps[str]:
        """Read the one of `texts` that comes next, and return it; "" if none does.

        No text may be the beginning of another.
        """
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
                self.hit_end = True
                return ""
            yield

    def expect(self, words: tuple[str, ...]) -> Steps[None]:
        """Read these texts, each with any whitespace before it. Raises Malformed if one does not come
        next."""
        for word in words:
            yield from self.skip_spaces()
            if not (yield from self.accept(word)):
                raise Malformed

    def read_while(self, pattern: re.Pattern[str]) -> Steps[str]:
        """Read the characters that `pattern` matches, which is a repeated class of characters.

        Raises Malformed if they are more than 1024.
        """
        while True:
            match = pattern.match(self.text, self.position)
            end = match.end() if match else self.position
            if end - self.position > _LONGEST_NAME:
                raise Malformed
            if end < len(self.text):
                return self.take(end)
            if self.ended:
                self.hit_end = True
                return self.take(end)
            yield

    def read_up_to(self, mark: str) -> Steps[str]:
        """Read up to and including `mark`, and return the text before it.

        Raises Malformed if the text has more than 1024 characters, or ends before the mark.
        """
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
                self.hit_end = True
                raise Malformed
            yield

    def read_string(self) -> Steps[str]:
        """Read a JSON string of at most 1024 characters, such as a key or a name. Raises Malformed."""
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
                self.hit_end = True
                raise Malformed
            yield

    def read_json(self, write: Callable[[str], None]) -> Steps[None]:
        """Read a JSON value, and write its text piece by piece. Raises Malformed if it is no JSON."""
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
                self.hit_end = True
                raise Malformed
            yield

    def copy_until(self, marks: MarkerFinder, write: Callable[[str], None]) -> Steps[str]:
        """Write the text up to a marker, read the marker, and return it; "" if the text ends first.

        If the text ends with the beginning of a marker, that beginning is written as text, unless it
        contains a special token.
        """
        return (yield from self._copy_until(marks, write, whole=True))

    def copy_value_until(self, marks: MarkerFinder, write: Callable[[str], None]) -> Steps[str]:
        """As `copy_until`, but never write the beginning of a marker with which the text ends."""
        return (yield from self._copy_until(marks, write, whole=False))

    def _copy_until(self, marks: MarkerFinder, write: Callable[[str], None], *, whole: bool) -> Steps[str]:
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
                self.hit_end = True
                return ""
            yield

    def _has_marker(self, begin: int) -> bool:
        """Whether the text from the position `begin` on contains a marker that may be a special token."""
        return any(self.text.find(marker, begin) >= 0 for marker in self._markers)
