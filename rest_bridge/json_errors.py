"""Errors of a JSON value that its field cannot hold: its path, the expected kind of value, the actual one.

Does not check values itself: `json_scalars`, `decode` and others raise these errors.
"""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from inferd.rest_bridge.json_kinds import NUMBER, Kinds
from inferd.services.errors import ServiceError, invalid

_KIND_NAMES = {
    str: "a string",
    bool: "a boolean",
    int: "an integer",
    float: "a number",
    list: "a list",
    dict: "an object",
    type(None): "null",
}


class Mismatch(Exception):
    """A JSON value that its field cannot hold.

    `path` is the value's place in the document, such as `messages[0].role`. It grows while the exception
    passes outwards through the document's levels, so that decoding a valid value builds no paths. The message
    is the path followed by `text`.
    """

    def __init__(self, text: str, reason: str = "INVALID_ARGUMENT") -> None:
        super().__init__(text)
        self.path = ""
        self.text = text
        self.reason = reason

    def prefixed(self, step: str) -> "Mismatch":
        """The same exception, with `step` before its path: a member, `[index]` or `["key"]`."""
        dot = "." if self.path and not self.path.startswith("[") else ""
        self.path = f"{step}{dot}{self.path}"
        return self

    def error(self) -> ServiceError:
        """The error of the call: INVALID_ARGUMENT naming the path."""
        return invalid(self.path, f"{self.path}{self.text}", self.reason)


def expected(what: str, value: Any) -> Mismatch:
    """The mismatch of a value of the wrong kind."""
    return Mismatch(f": expected {what}, got {kind_name(value)}")


def required() -> Mismatch:
    """The mismatch of a member that is absent, but required."""
    return Mismatch(" is required", "REQUIRED_FIELD_MISSING")


def not_one_of(offered: Sequence[str], value: Any) -> Mismatch:
    """The mismatch of a value that is none of the offered strings."""
    words = joined([quoted(word) for word in offered])
    return Mismatch(f": expected {words}, got {quoted(value) if type(value) is str else kind_name(value)}")


def kind_name(value: Any) -> str:
    """Name of a JSON value's kind, such as "a string"."""
    return _KIND_NAMES.get(type(value), type(value).__name__)


def kind_names(kinds: Kinds | Iterable[type]) -> str:
    """Names of several kinds, such as "a string or a list"."""
    kinds = set(kinds)
    if kinds >= NUMBER:
        kinds.discard(int)
    return joined([name for kind, name in _KIND_NAMES.items() if kind in kinds])


def quoted(value: Any) -> str:
    """A client's value as JSON, cut to 61 characters if it is longer than 64."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 64 else f"{text[:60]}…"


def joined(words: Sequence[str]) -> str:
    """The words as a list of alternatives: "a, b or c"."""
    *others, last = words or ["nothing"]
    return f"{', '.join(others)} or {last}" if others else last
