"""How a tokenizer cuts text into the words that it encodes one by one, as expressions of Python's `re` for
ASCII text. Of what it does not know it says so: there the library has to do it.
"""

import json
import re
from typing import Any

from tokenizers import Tokenizer as Backend

#: What does not change ASCII text.
_IDENTITIES = {"NFC", "NFD", "NFKC", "NFKD"}
#: The expression of the `ByteLevel` pre-tokenizer, which is GPT-2's.
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

#: Characters of a class that is none of ASCII's: those that do not occur.
_NONE = r"\x80-\xff"
#: Unicode's classes, of ASCII, as ranges.
_PROPERTIES = {
    "L": "A-Za-z",
    "Lu": "A-Z",
    "Ll": "a-z",
    "N": "0-9",
    "Nd": "0-9",
    "P": r"!-#%-*,-/:;?@\[-\]_{}",
    "S": r"$+<->\^`|~",
} | dict.fromkeys(("Lt", "Lm", "Lo", "M", "Mn", "Mc", "Me", "Nl", "No", "Han"), _NONE)

_PART = re.compile(
    r"\\p\{(?P<has>\w+)\}|\\P\{(?P<lacks>\w+)\}"
    r"|(?P<opens>\[\^?)|(?P<closes>\])|(?P<group>\((?!\?))|(?P<anchor>[\^$])"
    r"|\\[sSdDwWrntfv]|\\[^\w\s]|\(\?(?:[:!=>]|i:)|[^\\(]",
    re.DOTALL,
)


class UnknownForm(Exception):
    """The tokenizer cuts text in a way that cannot be said here."""


def word_patterns(backend: Backend) -> list[re.Pattern[str]]:
    """The cuts, one after the other: each goes on with the pieces of the one before, and matches all of
    them, piece by piece. The pieces of the last are spelled by their bytes. Raises UnknownForm."""
    for normalizer in normalizers(backend):
        if normalizer not in _IDENTITIES:
            raise UnknownForm(f"normalizer {normalizer}")
    *cuts, last = _parts(backend.pre_tokenizer, "pretokenizers") or [{"type": "none"}]
    if last["type"] != "ByteLevel" or last["add_prefix_space"]:
        raise UnknownForm(f"pre-tokenizer {last['type']}")
    expressions = [_expression(cut) for cut in cuts]
    if last.get("use_regex", True):
        expressions.append(_GPT2)
    return [_compiled(expression) for expression in expressions]


def normalizers(backend: Backend) -> list[str]:
    """The types of a tokenizer's normalizers."""
    return [part["type"] for part in _parts(backend.normalizer, "normalizers")]


def _parts(component: Any, key: str) -> list[dict[str, Any]]:
    """A component of a tokenizer, or the components that it is a sequence of."""
    if component is None:
        return []
    try:
        document = json.loads(component.__getstate__())
    except Exception as error:  # one that is written in Python
        raise UnknownForm(f"{key}: {error}") from None
    return document[key] if document["type"] == "Sequence" else [document]


def _expression(cut: dict[str, Any]) -> str:
    match cut:
        case {"type": "Digits", "individual_digits": individual}:
            return r"\p{N}" if individual else r"\p{N}+"
        case {
            "type": "Split",
            "pattern": {"Regex": str(expression)},
            "behavior": "Isolated",
            "invert": False,
        }:
            return expression
        case _:
            raise UnknownForm(f"pre-tokenizer {cut['type']}")


def _compiled(expression: str) -> re.Pattern[str]:
    """Oniguruma's expression as one of Python's, for ASCII text."""
    parts, position, inside = [], 0, False
    while position < len(expression):
        part = _PART.match(expression, position)
        if part is None or _differs(part, inside):
            raise UnknownForm(f"expression {expression!r} at {position}")
        parts.append(_translated(part, inside))
        inside = (inside or bool(part["opens"])) and not part["closes"]
        position = part.end()
    cut = "".join(parts)
    try:
        if re.match(cut, ""):
            raise UnknownForm(f"expression {expression!r} matches nothing as well")
        # What it leaves between two matches is a piece too.
        return re.compile(rf"(?:{cut})|(?:(?!{cut})[\s\S])+", re.ASCII)
    except re.error as error:
        raise UnknownForm(f"expression {expression!r}: {error}") from None


def _differs(part: re.Match[str], inside: bool) -> bool:
    """Whether Python's `re` has no such part, or takes it for something else."""
    if inside:
        return bool(part["opens"] or part["lacks"]) or part.string.startswith("&&", part.start())
    return bool(part["anchor"]) or part.string.startswith("}+", part.start())


def _translated(part: re.Match[str], inside: bool) -> str:
    """One part of an expression; `inside` a class of characters."""
    if part["group"] and not inside:
        return "(?:"
    name = part["has"] or part["lacks"]
    if not name:
        return part[0]
    if name not in _PROPERTIES:
        raise UnknownForm(f"class {name}")
    ranges = _PROPERTIES[name]
    return ranges if inside else f"[^{ranges}]" if part["lacks"] else f"[{ranges}]"
