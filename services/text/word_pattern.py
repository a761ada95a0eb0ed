"""Translates the pre-tokenizer of a tokenizer into regular expressions of Python, for ASCII text only.

A pre-tokenizer splits text into the words that are encoded one by one. Raises UnsupportedTokenizer if it
cannot translate one. Encodes no text.
"""

import json
import re
from typing import Any

from tokenizers import Tokenizer as Backend

#: Normalizers that do not change ASCII text.
_ASCII_IDENTITIES = {"NFC", "NFD", "NFKC", "NFKD"}
#: The expression of the pre-tokenizer `ByteLevel`, which is GPT-2's.
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

#: The range for Unicode classes without ASCII characters: it matches nothing in ASCII text.
_NO_ASCII = r"\x80-\xff"
#: The ASCII characters of Unicode's classes, as ranges.
_PROPERTIES = {
    "L": "A-Za-z",
    "Lu": "A-Z",
    "Ll": "a-z",
    "N": "0-9",
    "Nd": "0-9",
    "P": r"!-#%-*,-/:;?@\[-\]_{}",
    "S": r"$+<->\^`|~",
} | dict.fromkeys(("Lt", "Lm", "Lo", "M", "Mn", "Mc", "Me", "Nl", "No", "Han"), _NO_ASCII)

_PART = re.compile(
    r"\\p\{(?P<has>\w+)\}|\\P\{(?P<lacks>\w+)\}"
    r"|(?P<opens>\[\^?)|(?P<closes>\])|(?P<group>\((?!\?))|(?P<anchor>[\^$])"
    r"|\\[sSdDwWrntfv]|\\[^\w\s]|\(\?(?:[:!=>]|i:)|[^\\(]",
    re.DOTALL,
)


class UnsupportedTokenizer(Exception):
    """The tokenizer does something that cannot be translated; the tokenizers library has to encode texts."""


def word_patterns(backend: Backend) -> list[re.Pattern[str]]:
    """The expressions that split ASCII text into words, to be applied one after the other.

    Each splits the pieces that the one before has found, and its matches together are the whole piece. Raises
    UnsupportedTokenizer.
    """
    for normalizer in normalizers(backend):
        if normalizer not in _ASCII_IDENTITIES:
            raise UnsupportedTokenizer(f"normalizer {normalizer}")
    *splits, last = _components(backend.pre_tokenizer, "pretokenizers") or [{"type": "none"}]
    if last["type"] != "ByteLevel" or last["add_prefix_space"]:
        raise UnsupportedTokenizer(f"pre-tokenizer {last['type']}")
    expressions = [_split_expression(split) for split in splits]
    if last.get("use_regex", True):
        expressions.append(_GPT2)
    return [_translate(expression) for expression in expressions]


def normalizers(backend: Backend) -> list[str]:
    """The types of the normalizers of a tokenizer."""
    return [part["type"] for part in _components(backend.normalizer, "normalizers")]


def _components(component: Any, key: str) -> list[dict[str, Any]]:
    """The components of a sequence, or the one component, of a tokenizer, as dictionaries."""
    if component is None:
        return []
    try:
        document = json.loads(component.__getstate__())
    except Exception as error:  # a component that is written in Python
        raise UnsupportedTokenizer(f"{key}: {error}") from None
    return document[key] if document["type"] == "Sequence" else [document]


def _split_expression(split: dict[str, Any]) -> str:
    match split:
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
            raise UnsupportedTokenizer(f"pre-tokenizer {split['type']}")


def _translate(expression: str) -> re.Pattern[str]:
    """Translate an expression of Oniguruma to one of Python, for ASCII text."""
    parts, position, inside = [], 0, False
    while position < len(expression):
        part = _PART.match(expression, position)
        if part is None or _is_untranslatable(part, inside):
            raise UnsupportedTokenizer(f"expression {expression!r} at {position}")
        parts.append(_translate_part(part, inside))
        inside = (inside or bool(part["opens"])) and not part["closes"]
        position = part.end()
    cut = "".join(parts)
    try:
        if re.match(cut, ""):
            raise UnsupportedTokenizer(f"expression {expression!r} matches nothing as well")
        # The text between two matches is a piece, too.
        return re.compile(rf"(?:{cut})|(?:(?!{cut})[\s\S])+", re.ASCII)
    except re.error as error:
        raise UnsupportedTokenizer(f"expression {expression!r}: {error}") from None


def _is_untranslatable(part: re.Match[str], inside: bool) -> bool:
    """Whether Python's `re` does not know this part, or reads it differently."""
    if inside:
        return bool(part["opens"] or part["lacks"]) or part.string.startswith("&&", part.start())
    return bool(part["anchor"]) or part.string.startswith("}+", part.start())


def _translate_part(part: re.Match[str], inside: bool) -> str:
    """One part of an expression in Python's syntax. `inside`: the part is in a class of characters."""
    if part["group"] and not inside:
        return "(?:"
    name = part["has"] or part["lacks"]
    if not name:
        return part[0]
    if name not in _PROPERTIES:
        raise UnsupportedTokenizer(f"class {name}")
    ranges = _PROPERTIES[name]
    return ranges if inside else f"[^{ranges}]" if part["lacks"] else f"[{ranges}]"
