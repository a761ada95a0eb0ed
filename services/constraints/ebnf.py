"""Checks EBNF grammars of requests, in the engine's dialect (xgrammar 0.2). Matches no text itself.

Refuses grammars that the engine rejects, and grammars that would stall the engine. Errors give line and
column.
"""

import re
from typing import NoReturn

from inferd.services.constraints.grammar_cost import Costly, check_cost
from inferd.services.constraints.grammar_tree import (
    ALL,
    OTHERS,
    Alternatives,
    CharacterClass,
    Concatenation,
    Literal,
    Macro,
    Node,
    Repeat,
    RuleCall,
    range_bits,
    walk,
)
from inferd.services.constraints.regex import check_pattern
from inferd.services.errors import ServiceError, invalid

#: How deep groups may be nested.
MAX_DEPTH = 50
_ROOT = "root"
_MAX_COUNT = 10_000

#: White space and comments. Possessive, because a comment could be read as several: the number of ways to
#: read a line of "#" doubles with each.
_BLANK = r"(?:[ \t\r\n]|#[^\r\n]*+)*+"
_SPACE = re.compile(_BLANK)
_NAME = re.compile(r"[A-Za-z_.-][A-Za-z0-9_.-]*")
#: Attributes of a rule, between its name and ::= in brackets.
_ATTRIBUTE = r'[ \t]*(?:max_tokens[ \t]*=[ \t]*\d{1,9}|capture(?:[ \t]*=[ \t]*"[^"\n\r\\]+")?)[ \t]*'
_RULE = re.compile(rf"({_NAME.pattern})(?:\[{_ATTRIBUTE}(?:,{_ATTRIBUTE})?\])?(?=({_BLANK})::=)")
_COUNTS = re.compile(r"\{\s*(\d{1,18})\s*(,\s*(\d{1,18}|-1)?\s*)?\}")
_ESCAPE = re.compile(r"\\(?:([nrtabfve0\\\"'?])|x([0-9a-fA-F]{1,8})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8}))")
_CONTROLS = dict(zip("nrtabfve0", "\n\r\t\a\b\f\v\x1b\0", strict=True))
_IN_CLASS = frozenset("^$.*+()[]{}|/-")
_ARGUMENT = re.compile(rf"({_NAME.pattern})|[-+]?\d{{1,9}}|[(),=]")
_TRUTH = frozenset(("true", "false"))
_MACROS = frozenset(("TagDispatch", "TokenTagDispatch", "Token", "ExcludeToken", "Regex", "Substring"))


def check_grammar(text: str, field: str) -> None:
    """Raise ServiceError INVALID_ARGUMENT (INVALID_CONSTRAINT) if the engine would reject the grammar
    `text`, or would not enforce it in bounded time. The message has the line and the column, both counted
    from 1.
    """
    _GrammarReader(text, field).check()


class _GrammarReader:
    """Reads one grammar from left to right. `_position` is in characters."""

    def __init__(self, text: str, field: str) -> None:
        self._text = text
        self._field = field
        self._position = 0
        self._rules: dict[str, Node] = {}
        self._places: dict[str, int] = {}

    def check(self) -> None:
        if "\0" in self._text:
            self._refuse("has a null character", self._text.index("\0"))
        self._space()
        while self._position < len(self._text):
            self._rule()
        if _ROOT not in self._rules:
            self._refuse("has no rule root, with which it must begin", 0)
        for rule in self._rules.values():
            for node in walk(rule):
                if isinstance(node, RuleCall) and node.rule not in self._rules:
                    self._refuse(f"has no rule {node.rule[:64]}", node.at)
        try:
            check_cost(self._reached(), self._places)
        except Costly as error:
            self._refuse(error.problem, error.at)

    def _reached(self) -> dict[str, Node]:
        """The root rule, and the rules that it refers to directly or indirectly. The engine drops the
        others."""
        reached: dict[str, Node] = {}
        waiting = [_ROOT]
        while waiting:
            name = waiting.pop()
            if name not in reached:
                reached[name] = self._rules[name]
                waiting.extend(node.rule for node in walk(reached[name]) if isinstance(node, RuleCall))
        return reached

    def _rule(self) -> None:
        found = _RULE.match(self._text, self._position)
        if not found:
            self._refuse("has something that is no rule: name ::= ...", self._position)
        name = found[1]
        line = self._text[
            max(self._text.rfind("\n", 0, self._position), self._text.rfind("\r", 0, self._position))
            + 1 : self._position
        ]
        if line.strip():
            self._refuse(f"has the rule {name[:64]} within a line", self._position)
        if name in self._rules:
            self._refuse(f"has the rule {name[:64]} more than once", self._position)
        if name in _TRUTH:
            self._refuse(f"has a rule of the name {name}", self._position)
        self._places[name] = self._position
        self._position = found.end(2) + 3
        self._space()
        self._rules[name] = self._choices(0)
        if self._peek("(="):
            # A lookahead assertion. The engine does not check texts against it; it only saves the engine
            # time.
            self._position += 2
            self._space()
            self._choices(0)
            self._close()
        if self._position < len(self._text) and not _RULE.match(self._text, self._position):
            self._refuse("has something that is neither an element nor a rule", self._position)

    def _choices(self, depth: int) -> Node:
        parts = [self._sequence(depth)]
        while self._peek("|"):
            self._position += 1
            self._space()
            parts.append(self._sequence(depth))
        return parts[0] if len(parts) == 1 else Alternatives(tuple(parts))

    def _sequence(self, depth: int) -> Node:
        start = self._position
        parts = [self._repeated(depth)]
        while not self._ended():
            parts.append(self._repeated(depth))
        return parts[0] if len(parts) == 1 else Concatenation(tuple(parts), start)

    def _ended(self) -> bool:
        """Whether the sequence ends at this position: at a delimiter, or because the next rule begins."""
        following = self._text[self._position : self._position + 1]
        return (
            following in ("", "|", ")") or self._peek("(=") or bool(_RULE.match(self._text, self._position))
        )

    def _repeated(self, depth: int) -> Node:
        start = self._position
        part = self._element(depth)
        self._space()
        match self._text[self._position : self._position + 1]:
            case "*":
                part, length = Repeat(part, 0, None, start), 1
            case "+":
                part, length = Repeat(part, 1, None, start), 1
            case "?":
                part, length = Repeat(part, 0, 1, start), 1
            case "{":
                found = _COUNTS.match(self._text, self._position)
                if not found:
                    self._refuse("has a { that begins no count: {2}, {2,} or {2,5}", self._position)
                least = int(found[1])
                most = least if not found[2] else int(found[3]) if found[3] not in (None, "-1") else None
                if max(least, most or 0) > _MAX_COUNT:
                    self._refuse(f"has a count of more than {_MAX_COUNT}", self._position)
                if most is not None and most < least:
                    self._refuse("has a count whose first number is the greater one", self._position)
                part, length = Repeat(part, least, most, start), len(found[0])
            case _:
                return part
        self._position += length
        self._space()
        return part

    def _element(self, depth: int) -> Node:
        start = self._position
        match self._text[start : start + 1]:
            case "(":
                return self._group(depth)
            case '"':
                return Literal(self._literal())
            case "[":
                return self._class()
        found = _NAME.match(self._text, start)
        if not found:
            self._refuse("has no element where there must be one", start)
        self._position = found.end()
        if found[0] in _TRUTH:
            self._refuse(f"has {found[0]} where an element must be", start)
        return self._macro(found[0], start) if found[0] in _MACROS else RuleCall(found[0], start)

    def _group(self, depth: int) -> Node:
        if depth >= MAX_DEPTH:
            self._refuse(f"has groups nested deeper than {MAX_DEPTH}", self._position)
        if self._peek("(="):
            self._refuse("has a lookahead that is not at the end of a rule", self._position)
        self._position += 1
        self._space()
        if self._peek(")"):
            self._position += 1
            return Literal("")
        part = self._choices(depth + 1)
        self._close()
        return part

    def _close(self) -> None:
        if not self._peek(")"):
            self._refuse("has a ( that nothing closes", self._position)
        self._position += 1
        self._space()

    def _literal(self) -> str:
        start = self._position
        self._position += 1
        written = []
        while not self._peek('"'):
            character = self._text[self._position : self._position + 1]
            if character in ("", "\n", "\r"):
                self._refuse('has a " that nothing closes in its line', start)
            written.append(self._escaped("") if character == "\\" else character)
            if character != "\\":
                self._position += 1
        self._position += 1
        return "".join(written)

    def _class(self) -> Node:
        start = self._position
        self._position += 1
        negated = self._peek("^")
        self._position += negated
        ranges: list[tuple[str, str]] = []
        while not self._peek("]"):
            low = high = self._member(start)
            if self._peek("-") and not self._peek("-]"):
                self._position += 1
                high = self._member(start)
                if high < low:
                    self._refuse("has a range in [...] that ends before it begins", self._position)
            ranges.append((low, high))
        self._position += 1
        matched = 0
        for low, high in ranges:
            matched |= range_bits(low, high)
        if not negated:
            return CharacterClass(matched, bool(ranges))
        # Characters beyond ASCII are left, unless one range excludes all of them.
        ascii_only = matched & ((1 << OTHERS) - 1)
        left = ALL & ~ascii_only
        if any(ord(low) <= OTHERS and high == "\U0010ffff" for low, high in ranges):
            left &= ~(1 << OTHERS)
        return CharacterClass(left, bool(left))

    def _member(self, start: int) -> str:
        character = self._text[self._position : self._position + 1]
        if character in ("", "\n", "\r"):
            self._refuse("has a [ that nothing closes in its line", start)
        if character == "\\":
            return self._escaped(_IN_CLASS)
        self._position += 1
        return character

    def _escaped(self, others: frozenset[str] | str) -> str:
        following = self._text[self._position + 1 : self._position + 2]
        found = _ESCAPE.match(self._text, self._position)
        if following and following in others:
            self._position += 2
            return following
        if not found:
            self._refuse(f"has \\{following}, which the engine does not know", self._position)
        code = next((group for group in found.groups()[1:] if group), None)
        if code is not None and int(code, 16) > 0x10FFFF:
            self._refuse(f"has {found[0]}, which is no character", self._position)
        self._position = found.end()
        return chr(int(code, 16)) if code is not None else _CONTROLS.get(found[1], found[1])

    def _macro(self, name: str, start: int) -> Node:
        """Read the arguments of a macro. The engine itself checks whether the arguments fit the macro."""
        self._space()
        if not self._peek("("):
            self._refuse(f"has {name} without its arguments", start)
        calls, texts, depth = [], [], 0
        while True:
            if self._peek('"'):
                texts.append(self._literal())
            else:
                found = _ARGUMENT.match(self._text, self._position)
                if not found:
                    self._refuse(f"has {name} with something that is no argument", self._position)
                at, self._position = self._position, found.end()
                depth += {"(": 1, ")": -1}.get(found[0], 0)
                self._space()
                if found[1] and found[1] not in _TRUTH and not self._peek("="):
                    calls.append(RuleCall(found[1], at))
            self._space()
            if not depth:
                break
            if self._position >= len(self._text):
                self._refuse(f"has {name} with a ( that nothing closes", start)
        if name == "Regex":
            for text in texts:
                self._regex(text, start)
        return CharacterClass(ALL) if name in ("Token", "ExcludeToken") else Macro(tuple(calls))

    def _regex(self, pattern: str, start: int) -> None:
        try:
            check_pattern(pattern, "Regex")
        except ServiceError as error:
            self._refuse(f"has a regular expression that is refused: {error.message}", start)

    def _peek(self, text: str) -> bool:
        return self._text.startswith(text, self._position)

    def _space(self) -> None:
        found = _SPACE.match(self._text, self._position)
        assert found is not None
        self._position = found.end()

    def _refuse(self, problem: str, at: int) -> NoReturn:
        before = self._text[:at].replace("\r\n", "\n").replace("\r", "\n")
        line = before.count("\n") + 1
        column = len(before) - before.rfind("\n")
        raise invalid(
            self._field, f"{self._field} {problem} (line {line}, column {column})", "INVALID_CONSTRAINT"
        )
