"""Checks regular expressions of requests, in the engine's dialect (xgrammar 0.2). Matches no text itself.

Refuses expressions that the engine rejects, misreads, or takes minutes for. Errors give place and reason.
"""

import re
from dataclasses import dataclass
from typing import NoReturn

from inferd.services.errors import invalid

#: How deep groups may be nested.
MAX_DEPTH = 50
#: In how many ways nested repeats may share out a text. For each token the engine follows all ways, and other
#: requests wait meanwhile. With 100 ways, a token can take half a second.
_MAX_WAYS = 48
#: The same for repeats side by side, which cost the engine less.
_MAX_WAYS_BESIDE = _MAX_WAYS**2
#: Optional elements one after the other: any, and those that match most characters, which cost more.
_MAX_OPTIONAL, _MAX_WIDE_OPTIONAL = 64, 8
#: The sum of the counts of all different counted repeats, each counted up to _COUNT_COST: the engine takes a
#: second to compile 200 repeats of an element that matches most characters.
_MAX_COUNTED = 1_000
_COUNT_COST = 200

_COUNTS = re.compile(r"\{(\d{1,9})(,(\d{1,9})?)?\}")
_CODE = re.compile(r"x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|u\{[0-9a-fA-F]{1,6}\}|U[0-9a-fA-F]{8}|c[a-zA-Z]")
_WIDE = re.compile(r"\.|\[\^|\\[wWDS]|\[\\[wWDS]")
#: Characters that JSON escapes, and for each element that matches some of them an element that does not.
_ESCAPED = r'"\\\x00-\x1f'
_IN_JSON = {
    ".": f"[^{_ESCAPED}]",
    r"\D": rf"[^\d{_ESCAPED}]",
    r"\W": rf"[^\w{_ESCAPED}]",
    r"\S": rf"[^\s{_ESCAPED}]",
    r"\s": " ",
}
_CLASSES = frozenset("dDwWsS")
_CONTROLS = frozenset("nrtfv0")
_NOT_KNOWN = {
    "b": "word boundaries",
    "B": "word boundaries",
    "A": "\\A (the expression always matches the whole text)",
    "Z": "\\Z (the expression always matches the whole text)",
    "z": "\\z (the expression always matches the whole text)",
    "p": "Unicode properties",
    "P": "Unicode properties",
    "k": "backreferences",
}


def check_pattern(pattern: str, field: str) -> None:
    """Raise ServiceError INVALID_ARGUMENT (INVALID_CONSTRAINT) if the engine would not enforce `pattern` as
    it is meant, or not in bounded time. The message has the place, in characters counted from 1.
    """
    _PatternReader(pattern, field, in_json=False).check()


def json_pattern(pattern: str, field: str) -> str:
    """The expression, narrowed for the inside of a JSON string: it matches no quote, backslash or control
    character, because the engine does not escape them.

    Raises as `check_pattern` does, and if the expression asks for one of these characters.
    """
    return _PatternReader(pattern, field, in_json=True).check()


@dataclass(slots=True)
class _PartSummary:
    """A summary of a part of an expression.

    `optional`: it may match nothing. `ways`: see _MAX_WAYS; 1 if the part holds something fixed. `wide`: it
    matches most characters.
    """

    optional: bool
    ways: int = 1
    wide: bool = False


class _PatternReader:
    """Reads one expression from left to right, and writes it anew. `_position` is in characters."""

    def __init__(self, pattern: str, field: str, in_json: bool) -> None:
        self._pattern = pattern
        self._field = field
        self._in_json = in_json
        self._position = 0
        self._written: list[str] = []
        self._counted: dict[tuple[str, str], int] = {}

    def check(self) -> str:
        """The expression as the engine gets it."""
        self._alternatives(0)
        if self._position < len(self._pattern):
            self._refuse("has a ) that closes nothing")
        return "".join(self._written)

    def _copy_to(self, end: int) -> None:
        """Copy the expression up to the position `end` to the result."""
        self._written.append(self._pattern[self._position : end])
        self._position = end

    def _peek(self, text: str) -> bool:
        return self._pattern.startswith(text, self._position)

    def _alternatives(self, depth: int) -> _PartSummary:
        if depth > MAX_DEPTH:
            self._refuse(f"has groups nested deeper than {MAX_DEPTH}")
        parts = [self._sequence(depth)]
        while self._peek("|"):
            self._copy_to(self._position + 1)
            parts.append(self._sequence(depth))
        return _PartSummary(
            any(part.optional for part in parts),
            max(part.ways for part in parts),
            any(part.wide for part in parts),
        )

    def _sequence(self, depth: int) -> _PartSummary:
        optional, fixed, wide, ways = True, False, False, 1
        beside, run, wide_run = 1, 0, 0
        start = self._position
        while self._position < len(self._pattern) and self._pattern[self._position] not in "|)":
            if self._anchor(first=self._position == start, depth=depth):
                continue
            part = self._repeated(depth)
            run = run + 1 if part.optional else 0
            wide_run = (wide_run + part.wide) if part.optional else 0
            if run > _MAX_OPTIONAL or wide_run > _MAX_WIDE_OPTIONAL:
                self._refuse("has too many optional elements one after the other")
            # An element that is fixed in length separates the repeats before and after it.
            separates = not part.optional and part.ways == 1
            beside = 1 if separates else beside * (part.ways if part.wide else 1)
            if beside > _MAX_WAYS_BESIDE:
                self._refuse("has repeats side by side that could share out a text in too many ways")
            fixed = fixed or separates
            optional = optional and part.optional
            wide = wide or part.wide
            ways = max(ways, part.ways)
        return _PartSummary(optional, 1 if fixed else ways, wide)

    def _anchor(self, *, first: bool, depth: int) -> bool:
        """Read a ^ at the start or a $ at the end, and tell whether there is one.

        They are redundant, because an expression always matches the whole text. Elsewhere they are refused.
        """
        if self._peek("^"):
            if not first or depth:
                self._refuse("has a ^ within it, which the engine would ignore")
        elif self._peek("$"):
            if depth or self._pattern[self._position + 1 : self._position + 2] not in ("", "|"):
                self._refuse("has a $ within it, which the engine would ignore")
        else:
            return False
        self._copy_to(self._position + 1)
        return True

    def _repeated(self, depth: int) -> _PartSummary:
        start = self._position
        part = self._element(depth)
        element = self._pattern[start : self._position]
        counts = self._quantifier()
        if counts is None:
            return part
        least, most = counts
        many = part.ways > 1 or part.optional
        if most is None:
            factor = 2
        else:
            # Even a fixed count varies if the repeated part varies.
            factor = max(most, 1) if many else most - least + 1
            if most > 1:
                self._count(element, most)
        ways = max(part.ways, 2 if part.optional and factor > 1 else 1) * factor
        if many and ways > _MAX_WAYS:
            self._refuse("repeats what varies itself, with nothing fixed in it: in too many ways")
        return _PartSummary(part.optional or least == 0, min(ways, _MAX_WAYS), part.wide)

    def _count(self, element: str, most: int) -> None:
        self._counted[element, str(most)] = min(most, _COUNT_COST)
        if sum(self._counted.values()) > _MAX_COUNTED:
            self._refuse("has too many different counted repeats")

    def _quantifier(self) -> tuple[int, int | None] | None:
        counts: tuple[int, int | None]
        length = 1
        match self._pattern[self._position : self._position + 1]:
            case "*":
                counts = (0, None)
            case "+":
                counts = (1, None)
            case "?":
                counts = (0, 1)
            case "{":
                found = _COUNTS.match(self._pattern, self._position)
                if not found:
                    self._refuse("has a { that begins no count: {2}, {2,} or {2,5}; as a character it is \\{")
                least = int(found[1])
                most = least if not found[2] else int(found[3]) if found[3] else None
                if most is not None and most < least:
                    self._refuse("has a count whose first number is the greater one")
                counts, length = (least, most), len(found[0])
            case _:
                return None
        self._copy_to(self._position + length)
        if self._peek("?"):
            self._copy_to(self._position + 1)
        if self._position < len(self._pattern) and self._pattern[self._position] in "*+?{":
            self._refuse("has a repeat of a repeat")
        return counts

    def _element(self, depth: int) -> _PartSummary:
        start = self._position
        character = self._pattern[start]
        match character:
            case "(":
                return self._group(depth)
            case "[":
                self._class()
                taken = self._pattern[start : self._position]
                self._written.append(_json_class(taken) if self._in_json else taken)
            case "\\":
                self._escape()
                taken = self._pattern[start : self._position]
                self._written.append(_IN_JSON.get(taken, taken) if self._in_json else taken)
            case "*" | "+" | "?" | "{":
                self._refuse(f"has a {character} with nothing before it; as a character it is \\{character}")
            case _:
                self._literal(character)
                self._written.append(_IN_JSON.get(character, character) if self._in_json else character)
                self._position += 1
        return _PartSummary(optional=False, wide=bool(_WIDE.match(self._pattern, start)))

    def _group(self, depth: int) -> _PartSummary:
        self._copy_to(self._position + 1)
        if self._peek("?"):
            named = re.compile(r"\?<\w+>").match(self._pattern, self._position)
            if self._peek("?:"):
                self._copy_to(self._position + 2)
            elif named:
                self._copy_to(named.end())
            elif self._pattern[self._position : self._position + 2] in ("?=", "?!") or self._peek("?<"):
                self._refuse("has a lookahead or lookbehind, which the engine does not know")
            else:
                self._refuse("has a group with ? that is none of (?:...) and (?<name>...)")
        part = self._alternatives(depth + 1)
        if not self._peek(")"):
            self._refuse("has a ( that nothing closes")
        self._copy_to(self._position + 1)
        return part

    def _class(self) -> None:
        start = self._position
        self._position += 1
        negated = self._peek("^")
        if negated:
            self._position += 1
        if self._peek("]"):
            self._refuse("has an empty [] or begins one with ]; as a character it is \\]")
        while not self._peek("]"):
            if self._position >= len(self._pattern):
                self._position = start
                self._refuse("has a [ that nothing closes")
            character = self._pattern[self._position]
            if character == "\\":
                self._escape(in_class=True, negated=negated)
                continue
            if self._pattern[self._position : self._position + 2] in ("[:", "[=", "[."):
                self._refuse("has a POSIX class, which the engine does not know")
            if negated and not character.isascii():
                self._refuse("has a character beyond ASCII in [^...], where the engine misreads it")
            if not negated:
                self._literal(character)
            self._position += 1
        self._position += 1

    def _escape(self, *, in_class: bool = False, negated: bool = False) -> None:
        following = self._pattern[self._position + 1 : self._position + 2]
        code = _CODE.match(self._pattern, self._position + 1)
        if not following:
            self._refuse("ends with a backslash")
        if following in _NOT_KNOWN and not (in_class and following == "b"):
            self._refuse(f"has {_NOT_KNOWN[following]}, which the engine does not know")
        if following in "123456789":
            self._refuse("has a backreference, which the engine does not know")
        if following == "0" and self._pattern[self._position + 2 : self._position + 3].isdigit():
            self._refuse("has an octal number, which the engine does not know")
        if code:
            self._position += 1 + len(code[0])
            if self._in_json or (negated and following in "uU"):
                self._refuse("has a character by its number: write the character itself")
            return
        if following.isalpha() and following not in _CLASSES | _CONTROLS | {"b", "e"}:
            self._refuse(f"has \\{following}, which the engine does not know")
        if in_class and not negated and self._in_json and following in "DWS":
            self._refuse(f"has \\{following} in [...], which matches quotes: write the characters")
        if following in _CONTROLS | {"b", "e"} and self._in_json and not negated:
            self._refuse("has a control character: JSON has none in its strings")
        if not negated and not following.isalnum():
            self._literal(following)
        self._position += 2

    def _literal(self, character: str) -> None:
        if character == "\0":
            self._refuse("has a null character")
        if self._in_json and (character in '"\\' or character < " "):
            self._refuse("has a quote, backslash or control character: the engine would not escape it")

    def _refuse(self, problem: str) -> NoReturn:
        raise invalid(
            self._field, f"{self._field} {problem} (at character {self._position + 1})", "INVALID_CONSTRAINT"
        )


def _json_class(text: str) -> str:
    """A class [...], narrowed to characters that JSON does not escape."""
    if text.startswith("[^"):
        body = text[2:-1]
        if body.endswith("-") and not body.endswith(r"\-"):
            body = body[:-1] + r"\-"
        return f"[^{body}{_ESCAPED}]"
    members = re.findall(r"\\?.", text[1:-1], re.DOTALL)
    written = []
    while members:
        member = members.pop(0)
        if len(members) > 1 and members[0] == "-" and member not in (r"\d", r"\w", r"\s"):
            low, high = member[-1], members[1][-1]
            del members[:2]
            written += _ranges(low, high)
        else:
            written.append(_IN_JSON.get(member, member) if member == r"\s" else member)
    return f"[{''.join(written)}]"


def _ranges(low: str, high: str) -> list[str]:
    """The range from `low` to `high`, split so that it omits the characters that JSON escapes."""
    ranges = []
    for first, last in ((" ", "!"), ("#", "["), ("]", chr(0x10FFFF))):
        start, end = max(low, first), min(high, last)
        if start <= end:
            ranges.append(f"{_member(start)}-{_member(end)}")
    return ranges


def _member(character: str) -> str:
    return f"\\{character}" if character in "[]^-" else character
