"""Decodes and encodes the inside of JSON strings, piece by piece.

Where a string ends is the scanners'.
"""

import json
import re

_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|([^u]))", re.DOTALL)
_BEGUN = re.compile(r"\\(?:u[0-9a-fA-F]{0,3})?\Z")
_MEANING = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", '"': '"', "\\": "\\", "/": "/"}


class StringDecoder:
    """What the inside of a JSON string means.

    An escape that JSON does not know stands for itself; half a surrogate pair, which no UTF-8 can hold,
    becomes U+FFFD.
    """

    __slots__ = ("_pending",)

    def __init__(self) -> None:
        self._pending = ""

    def decode(self, text: str, *, ended: bool = False) -> str:
        """The meaning of the next piece, as far as it is certain; all of it when the string has `ended`."""
        text = self._pending + text
        self._pending = ""
        if "\\" not in text:
            return text
        pieces, done, high = [], 0, -1
        for match in _ESCAPE.finditer(text):
            pieces.append(text[done : match.start()])
            code, char = match.groups()
            pieces.append(chr(int(code, 16)) if code else _MEANING.get(char, match.group()))
            done = match.end()
            high = match.start() if code and "\ud800" <= pieces[-1] <= "\udbff" else -1
        rest = text[done:]
        if not ended and (begun := _BEGUN.search(rest)):
            rest, self._pending = rest[: begun.start()], begun.group()
        if not ended and not rest and high >= 0:  # its other half may come yet
            pieces.pop()
            self._pending = text[high:done] + self._pending
        return _paired("".join((*pieces, rest)))


def decoded(text: str) -> str:
    """What the inside of a whole JSON string means."""
    return StringDecoder().decode(text, ended=True)


def encoded(text: str) -> str:
    """The inside of the JSON string that means the text."""
    return json.dumps(text, ensure_ascii=False)[1:-1]


def _paired(text: str) -> str:
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
