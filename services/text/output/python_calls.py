"""Reads calls written in Python: a list of calls with literals by keyword.

No code is run: literals only, and what is none breaks the call.
"""

import json
import re

from inferd.services.text.output.description import JsonCalls, PythonCalls
from inferd.services.text.output.json_calls import read_object
from inferd.services.text.output.literals import json_of_python
from inferd.services.text.output.markers import finder
from inferd.services.text.output.reader import Reader
from inferd.services.text.output.source import Malformed, Source, Steps

_NAME = re.compile(r"[^\W\d][\w.\-]*|")
_KEYWORD = re.compile(r"(?:[^\W\d]\w*)?")
_JSON = JsonCalls()
# What may not stand in a string but between three quotes, and how it is written there.
_ESCAPES = str.maketrans({"\n": "\\n", "\r": "\\r", "\0": "\\x00"})
_GAP = re.compile(r"\s*")
_AFTER_STRING = (",", ")", "]", "}", ":", "")
_STRUCTURE = finder(frozenset("'\"()[]{},"))


def read_python_calls(reader: Reader, layout: PythonCalls, *, marked: bool) -> Steps[None]:
    """Reads `[f(a=1), g()]`; after a marker also without brackets, one after the other, or JSON objects."""
    source = reader.source
    yield from source.spaces()
    in_list = bool((yield from source.literal("[")))
    if not in_list and not marked:
        raise Malformed
    if in_list and marked:
        yield from source.spaces()
        if (yield from source.literal("]")):
            source.hold()
            return
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
        literal = yield from _literal(source)
        try:
            value, is_literal = json_of_python(literal), True
        except ValueError:
            value, is_literal = literal, False
        writer.arguments(f"{separator}{json.dumps(keyword, ensure_ascii=False)}: {value}")
        if not is_literal:
            raise Malformed
        separator = ", "
        mark = yield from source.literal(",", ")")
    writer.arguments("}")
    reader.end()


def _literal(source: Source) -> Steps[str]:
    """Reads a literal up to the comma or parenthesis after it."""
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
    return "".join(pieces)


def _string(source: Source, quote: str, pieces: list[str]) -> Steps[None]:
    """Reads the rest of a string after its first quote.

    Models forget to escape: a quote after which no string can end is the string's, and so is a line break.
    """
    two = yield from source.literal(quote * 2)
    pieces.append(two)
    end = quote + two
    if not two and (yield from source.literal(quote)):
        pieces.append(quote)
        return
    marks = finder(frozenset({end, "\\"}))

    def write(text: str) -> None:
        pieces.append(text if two else text.translate(_ESCAPES))

    while mark := (yield from source.until(marks, write)):
        if mark == "\\":
            pieces.append(mark + (yield from source.peek()))
            source.position += 1
            continue
        gap = yield from source.run(_GAP)
        if two or (yield from source.peek()) in _AFTER_STRING:
            pieces.append(mark + gap)
            return
        write("\\" + mark + gap)
    raise Malformed
