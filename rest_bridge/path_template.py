"""Parses the path templates of google.api.http into segments and variables.

    Template  = "/" Segments [ ":" LITERAL ]
    Segments  = Segment { "/" Segment }
    Segment   = "*" | "**" | LITERAL | "{" FieldPath [ "=" Segments ] "}"
    FieldPath = IDENT { "." IDENT }

Only literals may follow `**`. Envoy allows them too; google/api/http.proto does not. Does not know messages:
`routes` checks that the variables name fields.
"""

import re
from dataclasses import dataclass
from enum import Enum
from urllib.parse import unquote


class Wildcard(Enum):
    """A segment that is not a literal: `*` matches one segment of a path, `**` any number of segments."""

    ONE = "*"
    MANY = "**"


Segment = str | Wildcard

_IDENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# pchar of RFC 3986, without ":" (which starts the verb) and "*".
_LITERAL = re.compile(r"(?:[A-Za-z0-9\-._~!$&'()+,;=@]|%[0-9A-Fa-f]{2})+")


class TemplateError(ValueError):
    """A template that does not follow the grammar; `column` counts characters from 1."""

    def __init__(self, column: int, fault: str) -> None:
        super().__init__(f"column {column}: {fault}")
        self.column = column


@dataclass(frozen=True)
class Variable:
    """A variable: its field path, and the template's segments that it captures, from `start` up to `stop`.

    `column` is the variable's place in the template's text, in characters from 1.
    """

    field_path: tuple[str, ...]
    start: int
    stop: int
    column: int


@dataclass(frozen=True)
class PathTemplate:
    """A parsed template. Literals are percent-decoded; at most one segment is `**`.

    `verb` is the literal after the colon at the end, or empty.
    """

    text: str
    segments: tuple[Segment, ...]
    variables: tuple[Variable, ...]
    verb: str

    @property
    def many_index(self) -> int | None:
        """Index of the segment `**`; None if there is none."""
        return self.segments.index(Wildcard.MANY) if Wildcard.MANY in self.segments else None


def parse(text: str) -> PathTemplate:
    """Parse a template. Raises TemplateError."""
    return _Parser(text).template()


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._segments: list[Segment] = []
        self._variables: list[Variable] = []

    def template(self) -> PathTemplate:
        self._expect("/")
        self._parse_segments(in_variable=False)
        verb = self._literal() if self._skip(":") else ""
        if self._at < len(self._text):
            raise self._error("expected the end" if verb else "expected '/', ':' or the end")
        return PathTemplate(self._text, tuple(self._segments), tuple(self._variables), verb)

    def _parse_segments(self, in_variable: bool) -> None:
        self._parse_segment(in_variable)
        while self._skip("/"):
            self._parse_segment(in_variable)

    def _parse_segment(self, in_variable: bool) -> None:
        if self._text.startswith("{", self._at):
            if in_variable:
                raise self._error("a variable cannot stand in a variable")
            self._parse_variable()
        elif self._text.startswith("**", self._at):
            self._add(Wildcard.MANY, 2)
        elif self._text.startswith("*", self._at):
            self._add(Wildcard.ONE, 1)
        else:
            self._segments.append(self._literal())

    def _parse_variable(self) -> None:
        column = self._at + 1
        self._expect("{")
        path = [self._match(_IDENT, "a field name")]
        while self._skip("."):
            path.append(self._match(_IDENT, "a field name"))
        field_path = tuple(path)
        for other in self._variables:
            shared = min(len(other.field_path), len(field_path))
            if other.field_path[:shared] == field_path[:shared]:
                raise TemplateError(
                    column, f"{'.'.join(field_path)} is bound already, at column {other.column}"
                )
        start = len(self._segments)
        if self._skip("="):
            self._parse_segments(in_variable=True)
        else:
            self._add(Wildcard.ONE, 0)
        self._expect("}")
        self._variables.append(Variable(field_path, start, len(self._segments), column))

    def _add(self, wildcard: Wildcard, width: int) -> None:
        if Wildcard.MANY in self._segments:
            raise self._error(f"'{wildcard.value}' cannot follow '**': only literals can")
        self._segments.append(wildcard)
        self._at += width

    def _literal(self) -> str:
        at = self._at
        literal = self._match(_LITERAL, "a segment")
        try:
            return unquote(literal, errors="strict")
        except UnicodeDecodeError:
            raise TemplateError(at + 1, "the percent-encoding is not of UTF-8") from None

    def _match(self, pattern: re.Pattern[str], what: str) -> str:
        found = pattern.match(self._text, self._at)
        if found is None:
            raise self._error(f"expected {what}")
        self._at = found.end()
        return found.group()

    def _skip(self, character: str) -> bool:
        if self._text.startswith(character, self._at):
            self._at += 1
            return True
        return False

    def _expect(self, character: str) -> None:
        if not self._skip(character):
            raise self._error(f"expected '{character}'")

    def _error(self, fault: str) -> TemplateError:
        found = f"'{self._text[self._at]}'" if self._at < len(self._text) else "the end"
        return TemplateError(self._at + 1, f"{fault}, got {found}")
