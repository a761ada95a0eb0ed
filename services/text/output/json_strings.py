"""Decodes and encodes the inside of JSON strings, piece by piece.

Does not find where a string ends: `json_scanner` does.
"""

import json
import re

_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|([^u]))", re.DOTALL)
_BEGUN = re.compile(r"\\(?:u[0-9a-fA-F]{0,3})?\Z")
_MEANING = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", '"': '"', "\\": "\\", "/": "/"}


class StringDecoder:
    """Decodes the inside of one JSON string.

    An escape that JSON does not have stays as it is. Half a surrogate pair becomes U+FFFD, because UTF-8
    cannot encode it.
    """

    __slots__ = ("_pending",)

    def __init__(self) -> None:
        self._pending = ""

    def decode(self, text: str, *, ended: bool = False) -> str:
        """Decode the next piece, except for an incomplete escape at its end. `ended`: it is the last
        piece."""
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
        if not ended and not rest and high >= 0:  # the other half of a surrogate pair may follow
            pieces.pop()
            self._pending = text[high:done] + self._pending
        return _paired("".join((*pieces, rest)))


def decoded(text: str) -> str:
    """Decode the inside of a whole JSON string."""
    return StringDecoder().decode(text, ended=True)


def encoded(text: str) -> str:
    """Encode a text as the inside of a JSON string."""
    return json.dumps(text, ensure_ascii=False)[1:-1]


def _paired(text: str) -> str:
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
