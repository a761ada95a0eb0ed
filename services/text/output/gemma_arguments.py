"""Reads arguments in Gemma's notation, and writes them as JSON while they arrive.

Braces and brackets are as in JSON. Keys have no quotes. Strings stand between special quotes and have no
escapes. Reads no other notation for arguments.
"""

import json
import re
from collections.abc import Callable
from typing import TypeAlias

from inferd.services.text.output.json_strings import encoded
from inferd.services.text.output.json_values import json_of_text
from inferd.services.text.output.markers import marker_finder
from inferd.services.text.output.text_buffer import Malformed, Steps, TextBuffer

_Write: TypeAlias = Callable[[str], None]

_BARE = re.compile(r"[^,{}\[\]<\"]*")
# Text without quotes is no string.
_NO_STRING = frozenset({"null"})
# Deeper nesting is malformed: the reader is recursive, so the depth must be bounded.
_DEEPEST = 64


def read_gemma_arguments(buffer: TextBuffer, write: _Write, quote: str, depth: int = 0) -> Steps[None]:
    """Read `{key:value,...}`, with `quote` around strings. Raises Malformed."""
    yield from _opened(buffer, "{", depth)
    write("{")
    if (yield from _closed(buffer, "}")):
        write("}")
        return
    while True:
        yield from buffer.skip_spaces()
        key = yield from _key(buffer, quote)
        write(f"{json.dumps(key, ensure_ascii=False)}: ")
        yield from buffer.skip_spaces()
        yield from _value(buffer, write, quote, depth)
        yield from buffer.skip_spaces()
        if (mark := (yield from buffer.accept(",", "}"))) != ",":
            break
        write(", ")
    if not mark:
        raise Malformed
    write("}")


def _array(buffer: TextBuffer, write: _Write, quote: str, depth: int) -> Steps[None]:
    yield from _opened(buffer, "[", depth)
    write("[")
    if (yield from _closed(buffer, "]")):
        write("]")
        return
    while True:
        yield from buffer.skip_spaces()
        yield from _value(buffer, write, quote, depth)
        yield from buffer.skip_spaces()
        if (mark := (yield from buffer.accept(",", "]"))) != ",":
            break
        write(", ")
    if not mark:
        raise Malformed
    write("]")


def _opened(buffer: TextBuffer, bracket: str, depth: int) -> Steps[None]:
    if depth > _DEEPEST or not (yield from buffer.accept(bracket)):
        raise Malformed


def _closed(buffer: TextBuffer, bracket: str) -> Steps[bool]:
    yield from buffer.skip_spaces()
    return bool((yield from buffer.accept(bracket)))


def _key(buffer: TextBuffer, quote: str) -> Steps[str]:
    if (yield from buffer.accept(quote)):
        key = yield from buffer.read_up_to(quote)
        yield from buffer.expect((":",))
        return key
    if (yield from buffer.peek()) == '"':
        key = yield from buffer.read_string()
        yield from buffer.expect((":",))
        return key
    key = (yield from buffer.read_up_to(":")).strip()
    return key


def _value(buffer: TextBuffer, write: _Write, quote: str, depth: int) -> Steps[None]:
    char = yield from buffer.peek()
    if char == "{":
        yield from read_gemma_arguments(buffer, write, quote, depth + 1)
    elif char == "[":
        yield from _array(buffer, write, quote, depth + 1)
    elif char == '"':
        yield from buffer.read_json(write)
    elif (yield from buffer.accept(quote)):
        write('"')
        if not (
            yield from buffer.copy_value_until(
                marker_finder(frozenset({quote})), lambda text: write(encoded(text))
            )
        ):
            raise Malformed
        write('"')
    else:
        text = yield from buffer.read_while(_BARE)
        if buffer.text[buffer.position : buffer.position + 1] not in (",", "}", "]"):
            raise Malformed
        write(json_of_text(text.strip(), _NO_STRING))
