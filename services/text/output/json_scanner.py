"""Finds the end of a JSON value in a text that is still growing.

Builds no value. Checks all of RFC 8259's grammar except escapes and control characters in strings.
"""

import re
from enum import Enum, auto

_SPACES = re.compile(r"[ \t\r\n]*")
_IN_STRING = re.compile(r'[^"\\]*(?:\\.[^"\\]*)*', re.DOTALL)
_SCALAR_PART = re.compile(r"[0-9A-Za-z+\-.]*")
_SCALAR = re.compile(r"true|false|null|-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")


class _Next(Enum):
    """What the scanner expects next."""

    VALUE = auto()
    VALUE_OR_END = auto()
    KEY = auto()
    KEY_OR_END = auto()
    COLON = auto()
    COMMA_OR_END = auto()
    IN_KEY = auto()
    IN_STRING = auto()
    IN_SCALAR = auto()


class JsonScanner:
    """Scans one JSON value, piece by piece."""

    __slots__ = ("_escaped", "_next", "_open", "_scalar", "broken", "done")

    def __init__(self) -> None:
        self.done = False
        self.broken = False
        self._next = _Next.VALUE
        self._open = ""  # the closing brackets of the open arrays and objects, innermost last
        self._escaped = False
        self._scalar = ""

    def scan(self, text: str, start: int) -> int:
        """Scan from the position `start` on, and return the position where the scan stops.

        That is the end of the value, the end of the text, or the first character that JSON does not allow.
        """
        position, end = start, len(text)
        while position < end and not self.done and not self.broken:
            if self._next is _Next.IN_STRING or self._next is _Next.IN_KEY:
                position = self._in_string(text, position)
            elif self._next is _Next.IN_SCALAR:
                position = self._in_scalar(text, position)
            else:
                match = _SPACES.match(text, position)
                position = match.end() if match else position
                if position < end:
                    position = self._structure(text[position], position)
        return position

    def _in_string(self, text: str, position: int) -> int:
        if self._escaped:
            self._escaped = False
            position += 1
        match = _IN_STRING.match(text, position)
        position = match.end() if match else position
        if position == len(text):
            return position
        if text[position] == "\\":  # the character after the backslash has not come yet
            self._escaped = True
        elif self._next is _Next.IN_KEY:
            self._next = _Next.COLON
        else:
            self._value_ended()
        return position + 1

    def _in_scalar(self, text: str, position: int) -> int:
        match = _SCALAR_PART.match(text, position)
        end = match.end() if match else position
        self._scalar += text[position:end]
        if end < len(text):
            if _SCALAR.fullmatch(self._scalar):
                self._scalar = ""
                self._value_ended()
            else:
                self.broken = True
        return end

    def _structure(self, char: str, position: int) -> int:
        match self._next, char:
            case (_Next.COLON, ":"):
                self._next = _Next.VALUE
            case (_Next.COMMA_OR_END, ","):
                self._next = _Next.KEY if self._open[-1] == "}" else _Next.VALUE
            case (_Next.COMMA_OR_END | _Next.KEY_OR_END | _Next.VALUE_OR_END, "}" | "]") if (
                char == self._open[-1]
            ):
                self._open = self._open[:-1]
                self._value_ended()
            case (_Next.KEY | _Next.KEY_OR_END, '"'):
                self._next = _Next.IN_KEY
            case (_Next.VALUE | _Next.VALUE_OR_END, '"'):
                self._next = _Next.IN_STRING
            case (_Next.VALUE | _Next.VALUE_OR_END, "{"):
                self._open += "}"
                self._next = _Next.KEY_OR_END
            case (_Next.VALUE | _Next.VALUE_OR_END, "["):
                self._open += "]"
                self._next = _Next.VALUE_OR_END
            case (_Next.VALUE | _Next.VALUE_OR_END, _) if _SCALAR_PART.match(char).end():  # type: ignore[union-attr]
                self._next = _Next.IN_SCALAR
                return position
            case _:
                self.broken = True
                return position
        return position + 1

    def _value_ended(self) -> None:
        self._next = _Next.COMMA_OR_END
        self.done = not self._open
