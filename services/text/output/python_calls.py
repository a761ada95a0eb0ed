"""Reads calls written in Python: a list of calls with literals by keyword.

No code is run: literals only, and what is none breaks the call.
"""

import json
import re

from services.text.output.description import JsonCalls, PythonCalls
from services.text.output.json_calls import read_object
from services.text.output.literals import json_of_python
from services.text.output.markers import finder
from services.text.output.reader import Reader
from services.text.output.source import Malformed, Source, Steps

_NAME = re.compile(r"[^\W\d][\w.\-]*|")
_KEYWORD = re.compile(r"(?:[^\W\d]\w*)?")
_JSON = JsonCalls()
_STRUCTURE = finder(frozenset("'\"()[]{},"))


def read_python_calls(reader: Reader, layout: PythonCalls, *, marked: bool) -> Steps[None]:
    """Reads `[f(a=1), g()]`; after a marker also without brackets, one after the other, or JSON objects."""
    source = reader.source
    yield from source.spaces()
    in_list = bool((yield from source.literal("[")))
    if not in_list and not marked:
        raise Malformed
    while True:
        yield from source.spaces()
        if marked and (yield from source.peek()) == "{":
            yield from read_object(reader, _JSON, marked=True)
        else:
            yield from _call(reader, marked=marked or reader.writer.count > 0)
        yield from source.spaces()
        if in_list:
            mark = yield from source.literal(",", "]")
            if mark == "]":
                source.hold()
                return
            if not mark:
                source.return_to_held()
                return
        elif (yield from source.literal(",", ";")) or not (yield from _begins_name(source)):
            return


def _begins_name(source: Source) -> Steps[bool]:
    char = yield from source.peek()
    return char.isidentifier() or char == "{"


def _call(reader: Reader, *, marked: bool) -> Steps[None]:
    source, writer = reader.source, reader.writer
    name = yield from source.run(_NAME)
    if not name or not (marked or name in reader.functions):
        raise Malformed
    yield from source.words(("(",))
    yield from source.spaces()
    if (yield from source.literal(")")):
        reader.begin(name)
        writer.arguments("{}")
        reader.end()
        return
    separator, mark = "{", ","
    while mark == ",":
        yield from source.spaces()
        if separator != "{" and (yield from source.literal(")")):
            break
        keyword = yield from source.run(_KEYWORD)
        if not keyword:
            raise Malformed
        yield from source.words(("=",))
        if separator == "{":
            reader.begin(name)
        value = yield from _value(source)
        writer.arguments(f"{separator}{json.dumps(keyword, ensure_ascii=False)}: {value}")
        separator = ", "
        mark = yield from source.literal(",", ")")
    writer.arguments("}")
    reader.end()


def _value(source: Source) -> Steps[str]:
    """Reads a literal up to the comma or parenthesis after it; returns its JSON."""
    pieces: list[str] = []
    depth = 0
    while True:
        mark = yield from source.until(_STRUCTURE, pieces.append)
        if not mark:
            raise Malformed
        if depth == 0 and mark in ",)":
            source.position -= 1
            break
        pieces.append(mark)
        if mark in "'\"":
            yield from _string(source, mark, pieces)
        elif mark != ",":
            depth += 1 if mark in "([{" else -1
        if depth < 0:
            raise Malformed
    try:
        return json_of_python("".join(pieces))
    except ValueError:
        raise Malformed from None


def _string(source: Source, quote: str, pieces: list[str]) -> Steps[None]:
    """Reads the rest of a string after its first quote."""
    two = yield from source.literal(quote * 2)
    pieces.append(two)
    end = quote + two
    if not two and (yield from source.literal(quote)):
        pieces.append(quote)
        return
    marks = finder(frozenset({end, "\\"}))
    while (mark := (yield from source.until(marks, pieces.append))) == "\\":
        pieces.append(mark + (yield from source.peek()))
        source.position += 1
    if not mark:
        raise Malformed
    pieces.append(mark)
