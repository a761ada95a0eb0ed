"""EBNF grammars of requests: what the engine (xgrammar 0.2) does not take, or would take too long for, is
refused with its line and column. Matches nothing itself.
"""

import re
from typing import NoReturn

from inferd.services.constraints.grammar_cost import Costly, check_cost
from inferd.services.constraints.grammar_tree import (
    ALL,
    OTHERS,
    Call,
    Chars,
    Either,
    Literal,
    Macro,
    Node,
    Repeat,
    Sequence,
    range_bits,
    walk,
)
from inferd.services.constraints.regex import check_pattern
from inferd.services.errors import ServiceError, invalid

#: Of groups in groups.
MAX_DEPTH = 50
_ROOT = "root"
_MAX_COUNT = 10_000

_SPACE = re.compile(r"(?:[ \t\r\n]|#[^\r\n]*)*")
_NAME = re.compile(r"[A-Za-z_.-][A-Za-z0-9_.-]*")
#: What the engine is to do with a rule, between its name and ::=.
_ATTRIBUTE = r'[ \t]*(?:max_tokens[ \t]*=[ \t]*\d{1,9}|capture(?:[ \t]*=[ \t]*"[^"\n\r\\]+")?)[ \t]*'
_RULE = re.compile(
    rf"({_NAME.pattern})(?:\[{_ATTRIBUTE}(?:,{_ATTRIBUTE})?\])?(?=((?:[ \t\r\n]|#[^\r\n]*)*)::=)"
)
_COUNTS = re.compile(r"\{\s*(\d{1,18})\s*(,\s*(\d{1,18}|-1)?\s*)?\}")
_ESCAPE = re.compile(r"\\(?:([nrtabfve0\\\"'?])|x([0-9a-fA-F]{1,8})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8}))")
_CONTROLS = dict(zip("nrtabfve0", "\n\r\t\a\b\f\v\x1b\0", strict=True))
_IN_CLASS = frozenset("^$.*+()[]{}|/-")
_ARGUMENT = re.compile(rf"({_NAME.pattern})|[-+]?\d{{1,9}}|[(),=]")
_TRUTH = frozenset(("true", "false"))
_MACROS = frozenset(("TagDispatch", "TokenTagDispatch", "Token", "ExcludeToken", "Regex", "Substring"))


def check_grammar(text: str, field: str) -> None:
    """Raise ServiceError INVALID_ARGUMENT (INVALID_CONSTRAINT) where the engine would not take the grammar
    `text`, or not enforce it in bounded time. The message has the line and column, from 1.
    """
    _Grammar(text, field).check()


class _Grammar:
    def __init__(self, text: str, field: str) -> None:
        self._text = text
        self._field = field
        self._at = 0
        self._rules: dict[str, Node] = {}
        self._places: dict[str, int] = {}

    def check(self) -> None:
        if "\0" in self._text:
            self._refuse("has a null character", self._text.index("\0"))
        self._space()
        while self._at < len(self._text):
            self._rule()
        if _ROOT not in self._rules:
            self._refuse("has no rule root, with which it must begin", 0)
        for rule in self._rules.values():
            for node in walk(rule):
                if isinstance(node, Call) and node.rule not in self._rules:
                    self._refuse(f"has no rule {node.rule[:64]}", node.at)
        try:
            check_cost(self._reached(), self._places)
        except Costly as error:
            self._refuse(error.problem, error.at)

    def _reached(self) -> dict[str, Node]:
        """The root and the rules that it calls, by way of others too. The engine drops the rest."""
        reached: dict[str, Node] = {}
        waiting = [_ROOT]
        while waiting:
            name = waiting.pop()
            if name not in reached:
                reached[name] = self._rules[name]
                waiting.extend(node.rule for node in walk(reached[name]) if isinstance(node, Call))
        return reached

    def _rule(self) -> None:
        found = _RULE.match(self._text, self._at)
        if not found:
            self._refuse("has something that is no rule: name ::= ...", self._at)
        name = found[1]
        line = self._text[
            max(self._text.rfind("\n", 0, self._at), self._text.rfind("\r", 0, self._at)) + 1 : self._at
        ]
        if line.strip():
            self._refuse(f"has the rule {name[:64]} within a line", self._at)
        if name in self._rules:
            self._refuse(f"has the rule {name[:64]} more than once", self._at)
        if name in _TRUTH:
            self._refuse(f"has a rule of the name {name}", self._at)
        self._places[name] = self._at
        self._at = found.end(2) + 3
        self._space()
        self._rules[name] = self._choices(0)
        if self._peek("(="):
            # The engine trusts this assertion, and holds it against no text: it only saves time.
            self._at += 2
            self._space()
            self._choices(0)
            self._close()
        if self._at < len(self._text) and not _RULE.match(self._text, self._at):
            self._refuse("has something that is neither an element nor a rule", self._at)

    def _choices(self, depth: int) -> Node:
        parts = [self._sequence(depth)]
        while self._peek("|"):
            self._at += 1
            self._space()
            parts.append(self._sequence(depth))
        return parts[0] if len(parts) == 1 else Either(tuple(parts))

    def _sequence(self, depth: int) -> Node:
        start = self._at
        parts = [self._repeated(depth)]
        while not self._ended():
            parts.append(self._repeated(depth))
        return parts[0] if len(parts) == 1 else Sequence(tuple(parts), start)

    def _ended(self) -> bool:
        """Whether the sequence ends here: at what does, or where the next rule begins."""
        following = self._text[self._at : self._at + 1]
        return following in ("", "|", ")") or self._peek("(=") or bool(_RULE.match(self._text, self._at))

    def _repeated(self, depth: int) -> Node:
        start = self._at
        part = self._element(depth)
        self._space()
        match self._text[self._at : self._at + 1]:
            case "*":
                part, length = Repeat(part, 0, None, start), 1
            case "+":
                part, length = Repeat(part, 1, None, start), 1
            case "?":
                part, length = Repeat(part, 0, 1, start), 1
            case "{":
                found = _COUNTS.match(self._text, self._at)
                if not found:
                    self._refuse("has a { that begins no count: {2}, {2,} or {2,5}", self._at)
                least = int(found[1])
                most = least if not found[2] else int(found[3]) if found[3] not in (None, "-1") else None
                if max(least, most or 0) > _MAX_COUNT:
                    self._refuse(f"has a count of more than {_MAX_COUNT}", self._at)
                if most is not None and most < least:
                    self._refuse("has a count whose first number is the greater one", self._at)
                part, length = Repeat(part, least, most, start), len(found[0])
            case _:
                return part
        self._at += length
        self._space()
        return part

    def _element(self, depth: int) -> Node:
        start = self._at
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
        self._at = found.end()
        if found[0] in _TRUTH:
            self._refuse(f"has {found[0]} where an element must be", start)
        return self._macro(found[0], start) if found[0] in _MACROS else Call(found[0], start)

    def _group(self, depth: int) -> Node:
        if depth >= MAX_DEPTH:
            self._refuse(f"has groups nested deeper than {MAX_DEPTH}", self._at)
        if self._peek("(="):
            self._refuse("has a lookahead that is not at the end of a rule", self._at)
        self._at += 1
        self._space()
        if self._peek(")"):
            self._at += 1
            return Literal("")
        part = self._choices(depth + 1)
        self._close()
        return part

    def _close(self) -> None:
        if not self._peek(")"):
            self._refuse("has a ( that nothing closes", self._at)
        self._at += 1
        self._space()

    def _literal(self) -> str:
        start = self._at
        self._at += 1
        written = []
        while not self._peek('"'):
            character = self._text[self._at : self._at + 1]
            if character in ("", "\n", "\r"):
                self._refuse('has a " that nothing closes in its line', start)
            written.append(self._escaped("") if character == "\\" else character)
            if character != "\\":
                self._at += 1
        self._at += 1
        return "".join(written)

    def _class(self) -> Node:
        start = self._at
        self._at += 1
        negated = self._peek("^")
        self._at += negated
        ranges: list[tuple[str, str]] = []
        while not self._peek("]"):
            low = high = self._member(start)
            if self._peek("-") and not self._peek("-]"):
                self._at += 1
                high = self._member(start)
                if high < low:
                    self._refuse("has a range in [...] that ends before it begins", self._at)
            ranges.append((low, high))
        self._at += 1
        matched = 0
        for low, high in ranges:
            matched |= range_bits(low, high)
        if not negated:
            return Chars(matched, bool(ranges))
        # Some of the others are left, but for a class that says so much that it is a riddle.
        ascii_only = matched & ((1 << OTHERS) - 1)
        left = ALL & ~ascii_only
        if any(ord(low) <= OTHERS and high == "\U0010ffff" for low, high in ranges):
            left &= ~(1 << OTHERS)
        return Chars(left, bool(left))

    def _member(self, start: int) -> str:
        character = self._text[self._at : self._at + 1]
        if character in ("", "\n", "\r"):
            self._refuse("has a [ that nothing closes in its line", start)
        if character == "\\":
            return self._escaped(_IN_CLASS)
        self._at += 1
        return character

    def _escaped(self, others: frozenset[str] | str) -> str:
        following = self._text[self._at + 1 : self._at + 2]
        found = _ESCAPE.match(self._text, self._at)
        if following and following in others:
            self._at += 2
            return following
        if not found:
            self._refuse(f"has \\{following}, which the engine does not know", self._at)
        code = next((group for group in found.groups()[1:] if group), None)
        if code is not None and int(code, 16) > 0x10FFFF:
            self._refuse(f"has {found[0]}, which is no character", self._at)
        self._at = found.end()
        return chr(int(code, 16)) if code is not None else _CONTROLS.get(found[1], found[1])

    def _macro(self, name: str, start: int) -> Node:
        """The arguments of what the engine knows by a name. Whether they are right ones it says itself."""
        self._space()
        if not self._peek("("):
            self._refuse(f"has {name} without its arguments", start)
        calls, texts, depth = [], [], 0
        while True:
            if self._peek('"'):
                texts.append(self._literal())
            else:
                found = _ARGUMENT.match(self._text, self._at)
                if not found:
                    self._refuse(f"has {name} with something that is no argument", self._at)
                at, self._at = self._at, found.end()
                depth += {"(": 1, ")": -1}.get(found[0], 0)
                self._space()
                if found[1] and found[1] not in _TRUTH and not self._peek("="):
                    calls.append(Call(found[1], at))
            self._space()
            if not depth:
                break
            if self._at >= len(self._text):
                self._refuse(f"has {name} with a ( that nothing closes", start)
        if name == "Regex":
            for text in texts:
                self._regex(text, start)
        return Chars(ALL) if name in ("Token", "ExcludeToken") else Macro(tuple(calls))

    def _regex(self, pattern: str, start: int) -> None:
        try:
            check_pattern(pattern, "Regex")
        except ServiceError as error:
            self._refuse(f"has a regular expression that is refused: {error.message}", start)

    def _peek(self, text: str) -> bool:
        return self._text.startswith(text, self._at)

    def _space(self) -> None:
        found = _SPACE.match(self._text, self._at)
        assert found is not None
        self._at = found.end()

    def _refuse(self, problem: str, at: int) -> NoReturn:
        before = self._text[:at].replace("\r\n", "\n").replace("\r", "\n")
        line = before.count("\n") + 1
        column = len(before) - before.rfind("\n")
        raise invalid(
            self._field, f"{self._field} {problem} (line {line}, column {column})", "INVALID_CONSTRAINT"
        )
