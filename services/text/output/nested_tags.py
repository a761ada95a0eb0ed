"""Reads arguments that are tags within tags (MiniMax M3), and writes them as one JSON object.

A string that stands at the top goes through as it grows; what is nested is written when it is all there.
"""

import json
from collections.abc import Mapping
from typing import Any

from inferd.services.text.output.description import NestedTags
from inferd.services.text.output.literals import json_of_text
from inferd.services.text.output.markers import finder
from inferd.services.text.output.reader import Reader
from inferd.services.text.output.source import Malformed, Source, Steps
from inferd.services.text.output.strings import encoded
from inferd.services.text.output.value_types import STRING, member_schema, schema_types

# Deeper nesting than this is no call: the reader goes as deep as the text does.
_DEEPEST = 64


def read_nested_tags(reader: Reader, name: str, tags: NestedTags) -> Steps[None]:
    """Reads an announced call's arguments, and the closing tag after them."""
    function = reader.functions.get(name)
    nested = _Nested(reader.source, tags.mark, (function.parameters if function else None) or {})
    write = reader.writer.arguments
    separator = "{"
    while not (tag := (yield from nested.tag())).startswith("/"):
        write(f"{separator}{json.dumps(tag, ensure_ascii=False)}: ")
        separator = ", "
        schema = nested.member(nested.root, tag)
        if schema_types(schema, nested.root) == STRING:
            write('"')
            end = finder(frozenset({nested.end(tag)}))
            if not (yield from reader.source.value_until(end, lambda text: write(encoded(text)))):
                raise Malformed
            write('"')
        else:
            write((yield from nested.value(tag, schema, 0)))
    write("{}" if separator == "{" else "}")
    reader.end()


class _Nested:
    """The tags of one call. `mark` stands before every tag; `root` is the schema of the arguments."""

    def __init__(self, source: Source, mark: str, root: Mapping[str, Any]) -> None:
        self._source, self._mark, self.root = source, mark, root

    def end(self, tag: str) -> str:
        return f"{self._mark}</{tag}>"

    def member(self, schema: Any, tag: str) -> Any:
        return member_schema(schema, self.root, tag)

    def tag(self) -> Steps[str]:
        """Reads a tag; a closing one's name begins with a slash."""
        yield from self._source.words((self._mark, "<"))
        tag = (yield from self._source.up_to(">")).strip()
        if not tag:
            raise Malformed
        return tag

    def value(self, tag: str, schema: Any, depth: int) -> Steps[str]:
        """Reads a value and its closing tag; returns its JSON."""
        source = self._source
        if depth > _DEEPEST:
            raise Malformed
        pieces: list[str] = []
        mark = yield from source.value_until(finder(frozenset({self._mark + "<"})), pieces.append)
        if not mark:
            raise Malformed
        source.position -= len(mark)
        text = "".join(pieces)
        inner = yield from self.tag()
        if inner == "/" + tag:
            types = schema_types(schema, self.root)
            if not text.strip() and types and types <= {"object", "array", "null"}:
                return "[]" if "array" in types else "{}"
            return json_of_text(text, types)
        if text.strip():
            raise Malformed
        members: list[tuple[str, str]] = []
        while not inner.startswith("/"):
            members.append((inner, (yield from self.value(inner, self.member(schema, inner), depth + 1))))
            inner = yield from self.tag()
        if inner != "/" + tag:
            raise Malformed
        return _json_of(members, is_array="array" in schema_types(schema, self.root))


def _json_of(members: list[tuple[str, str]], *, is_array: bool) -> str:
    """An array where the schema says so, or where it says nothing and all are items; else an object, in which
    a tag that stands there more than once has a list."""
    if is_array or {tag for tag, _ in members} == {"item"}:
        return "[" + ", ".join(value for _, value in members) + "]"
    found: dict[str, list[str]] = {}
    for tag, value in members:
        found.setdefault(tag, []).append(value)
    entries = []
    for tag, values in found.items():
        value = values[0] if len(values) == 1 else "[" + ", ".join(values) + "]"
        entries.append(f"{json.dumps(tag, ensure_ascii=False)}: {value}")
    return "{" + ", ".join(entries) + "}"
