"""Reads arguments that are nested XML-like tags (MiniMax M3), and writes them as one JSON object.

A string at the top level is written while it grows. A nested value is written when it is complete. Reads no
other notation for arguments.
"""

import json
from collections.abc import Mapping
from typing import Any

from inferd.services.text.output.format_types import NestedTags
from inferd.services.text.output.json_strings import encoded
from inferd.services.text.output.json_types import STRING, member_schema, schema_types
from inferd.services.text.output.json_values import json_of_text
from inferd.services.text.output.markers import marker_finder
from inferd.services.text.output.parser_state import ParserState
from inferd.services.text.output.text_buffer import Malformed, Steps, TextBuffer

# Deeper nesting is malformed: the reader is recursive, so the depth must be bounded.
_DEEPEST = 64


def read_nested_tags(state: ParserState, name: str, tags: NestedTags) -> Steps[None]:
    """Read the arguments of the open call of the function `name`, and the closing tag after them."""
    function = state.functions.get(name)
    tag_reader = _NestedTagReader(state.buffer, tags.mark, (function.parameters if function else None) or {})
    write = state.writer.arguments
    separator = "{"
    while not (tag := (yield from tag_reader.tag())).startswith("/"):
        write(f"{separator}{json.dumps(tag, ensure_ascii=False)}: ")
        separator = ", "
        schema = tag_reader.member(tag_reader.root, tag)
        if schema_types(schema, tag_reader.root) == STRING:
            write('"')
            end = marker_finder(frozenset({tag_reader.end(tag)}))
            if not (yield from state.buffer.copy_value_until(end, lambda text: write(encoded(text)))):
                raise Malformed
            write('"')
        else:
            write((yield from tag_reader.value(tag, schema, 0)))
    write("{}" if separator == "{" else "}")
    state.end_call()


class _NestedTagReader:
    """Reads the tags of one call. `mark` comes before every tag; `root` is the schema of the arguments."""

    def __init__(self, buffer: TextBuffer, mark: str, root: Mapping[str, Any]) -> None:
        self._buffer, self._mark, self.root = buffer, mark, root

    def end(self, tag: str) -> str:
        return f"{self._mark}</{tag}>"

    def member(self, schema: Any, tag: str) -> Any:
        return member_schema(schema, self.root, tag)

    def tag(self) -> Steps[str]:
        """Read a tag, and return its name. The name of a closing tag begins with a slash."""
        yield from self._buffer.expect((self._mark, "<"))
        tag = (yield from self._buffer.read_up_to(">")).strip()
        if not tag:
            raise Malformed
        return tag

    def value(self, tag: str, schema: Any, depth: int) -> Steps[str]:
        """Read a value and its closing tag, and return the JSON text of the value."""
        buffer = self._buffer
        if depth > _DEEPEST:
            raise Malformed
        pieces: list[str] = []
        mark = yield from buffer.copy_value_until(marker_finder(frozenset({self._mark + "<"})), pieces.append)
        if not mark:
            raise Malformed
        buffer.position -= len(mark)
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
    """The JSON text of nested tags: an array if the schema allows one, or if all tags are named item; else an
    object. In an object, the values of a repeated tag are one array.
    """
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
