"""What is wrong with a JSON value, in words that name where it stands and what was expected."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from inferd.rest_bridge.spelling import NUMBER, Kinds
from inferd.services.errors import ServiceError, invalid

_SPOKEN = {
    str: "a string",
    bool: "a boolean",
    int: "an integer",
    float: "a number",
    list: "a list",
    dict: "an object",
    type(None): "null",
}


class Mismatch(Exception):
    """A JSON value that its field cannot hold. Its path grows on the way out, so that good values pay
    nothing for it; `text` follows the path in the message."""

    def __init__(self, text: str, reason: str = "INVALID_ARGUMENT") -> None:
        super().__init__(text)
        self.path = ""
        self.text = text
        self.reason = reason

    def under(self, step: str) -> "Mismatch":
        """The same mismatch, seen from a level further out: `step` is a member, or [index], or ["key"]."""
        dot = "." if self.path and not self.path.startswith("[") else ""
        self.path = f"{step}{dot}{self.path}"
        return self

    def error(self) -> ServiceError:
        return invalid(self.path, f"{self.path}{self.text}", self.reason)


def expected(what: str, value: Any) -> Mismatch:
    return Mismatch(f": expected {what}, got {kind(value)}")


def required() -> Mismatch:
    return Mismatch(" is required", "REQUIRED_FIELD_MISSING")


def unknown_word(offered: Sequence[str], value: Any) -> Mismatch:
    words = either([shown(word) for word in offered])
    return Mismatch(f": expected {words}, got {shown(value) if type(value) is str else kind(value)}")


def kind(value: Any) -> str:
    return _SPOKEN.get(type(value), type(value).__name__)


def shown(value: Any) -> str:
    """A value in a message, as JSON: cut short, since it is the client's."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 64 else f"{text[:60]}…"


def spoken(kinds: Kinds | Iterable[type]) -> str:
    kinds = set(kinds)
    if kinds >= NUMBER:
        kinds.discard(int)
    return either([spoken for kind, spoken in _SPOKEN.items() if kind in kinds])


def either(words: Sequence[str]) -> str:
    *others, last = words or ["nothing"]
    return f"{', '.join(others)} or {last}" if others else last
