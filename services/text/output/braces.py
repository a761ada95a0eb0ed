"""Reads Gemma's own notation for arguments, and writes it as JSON while it comes.

Braces and brackets as in JSON; keys are bare, strings stand between special quotes and know no escapes.
"""

import json
import re
from collections.abc import Callable
from typing import TypeAlias

from inferd.services.text.output.literals import json_of_text
from inferd.services.text.output.markers import finder
from inferd.services.text.output.source import Malformed, Source, Steps
from inferd.services.text.output.strings import encoded

_Write: TypeAlias = Callable[[str], None]

_BARE = re.compile(r"[^,{}\[\]<\"]*")
# What stands bare is no string, whatever else.
_NO_STRING = frozenset({"null"})
# Deeper nesting than this is no call: the reader goes as deep as the text does.
_DEEPEST = 64


def read_braces(source: Source, write: _Write, quote: str, depth: int = 0) -> Steps[None]:
    """Reads `{key:value,...}`."""
    yield from _opened(source, "{", depth)
    write("{")
    if (yield from _closed(source, "}")):
        write("}")
        return
    while True:
        yield from source.spaces()
        key = yield from _key(source, quote)
        write(f"{json.dumps(key, ensure_ascii=False)}: ")
        yield from source.spaces()
        yield from _value(source, write, quote, depth)
        yield from source.spaces()
        if (mark := (yield from source.literal(",", "}"))) != ",":
            break
        write(", ")
    if not mark:
        raise Malformed
    write("}")


def _array(source: Source, write: _Write, quote: str, depth: int) -> Steps[None]:
    yield from _opened(source, "[", depth)
    write("[")
    if (yield from _closed(source, "]")):
        write("]")
        return
    while True:
        yield from source.spaces()
        yield from _value(source, write, quote, depth)
        yield from source.spaces()
        if (mark := (yield from source.literal(",", "]"))) != ",":
            break
        write(", ")
    if not mark:
        raise Malformed
    write("]")


def _opened(source: Source, bracket: str, depth: int) -> Steps[None]:
    if depth > _DEEPEST or not (yield from source.literal(bracket)):
        raise Malformed


def _closed(source: Source, bracket: str) -> Steps[bool]:
    yield from source.spaces()
    return bool((yield from source.literal(bracket)))


def _key(source: Source, quote: str) -> Steps[str]:
    if (yield from source.literal(quote)):
        key = yield from source.up_to(quote)
        yield from source.words((":",))
        return key
    if (yield from source.peek()) == '"':
        key = yield from source.string()
        yield from source.words((":",))
        return key
    key = (yield from source.up_to(":")).strip()
    return key


def _value(source: Source, write: _Write, quote: str, depth: int) -> Steps[None]:
    char = yield from source.peek()
    if char == "{":
        yield from read_braces(source, write, quote, depth + 1)
    elif char == "[":
        yield from _array(source, write, quote, depth + 1)
    elif char == '"':
        yield from source.json(write)
    elif (yield from source.literal(quote)):
        write('"')
        if not (yield from source.value_until(finder(frozenset({quote})), lambda text: write(encoded(text)))):
            raise Malformed
        write('"')
    else:
        text = yield from source.run(_BARE)
        if source.text[source.position : source.position + 1] not in (",", "}", "]"):
            raise Malformed
        write(json_of_text(text.strip(), _NO_STRING))
