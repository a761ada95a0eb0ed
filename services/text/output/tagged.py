"""Reads arguments that are tagged one by one, and writes them as one JSON object while they come.

A string goes through as it grows; a value of any other type is written when it is all there.
"""

import json

from services.text.output.description import Parameters
from services.text.output.json_calls import read_arguments
from services.text.output.literals import json_of_text
from services.text.output.markers import finder
from services.text.output.reader import Reader
from services.text.output.source import Malformed, Source, Steps
from services.text.output.strings import encoded
from services.text.output.value_types import ANY, STRING, parameter_types

_STRING_OR_NULL = STRING | {"null"}


def read_tagged(reader: Reader, name: str, parameters: Parameters, call_end: str) -> Steps[None]:
    """Reads an announced call's arguments, up to the `call_end` after them."""
    source, writer = reader.source, reader.writer
    begin = parameters.begin.split()
    marks = [begin[0], call_end.split()[0]]
    yield from source.spaces()
    if (yield from source.peek()) == "{":
        complete = yield from read_arguments(source, writer.arguments)
        reader.end(complete=complete)
        return
    separator = "{"
    while True:
        yield from source.spaces()
        mark = yield from source.literal(*marks)
        if mark == marks[1]:
            source.position -= len(mark)
            break
        if not mark:
            raise Malformed
        yield from source.words(tuple(begin[1:]))
        key, kind = yield from _key(source, parameters)
        writer.arguments(f"{separator}{json.dumps(key, ensure_ascii=False)}: ")
        separator = ", "
        types = parameter_types(reader.functions.get(name), key)
        if kind == "true" and (types & STRING or types == ANY):
            types = STRING
        elif kind and kind != "true":
            types = ANY
        yield from _value(reader, parameters, types)
    writer.arguments("{}" if separator == "{" else "}")
    reader.end()


def _key(source: Source, parameters: Parameters) -> Steps[tuple[str, str]]:
    words = parameters.key_end.split()
    key = yield from source.up_to(words[0])
    yield from source.words(tuple(words[1:]))
    kind = (yield from source.up_to(parameters.kind_end)) if parameters.kind_end else ""
    return key.strip(), kind.strip()


def _value(reader: Reader, parameters: Parameters, types: frozenset[str]) -> Steps[None]:
    source, write = reader.source, reader.writer.arguments
    if parameters.own_lines and (yield from source.peek()) == "\n":
        source.position += 1
    end = frozenset({parameters.end, "\n" + parameters.end} if parameters.own_lines else {parameters.end})
    if types == STRING:
        yield from _string(source, end, write_to=reader)
        return
    if types == _STRING_OR_NULL and not (yield from _may_be_null(source)):
        yield from _string(source, end, write_to=reader)
        return
    pieces: list[str] = []
    if not (yield from source.value_until(finder(end), pieces.append)):
        raise Malformed
    write(json_of_text("".join(pieces), types))


def _string(source: Source, end: frozenset[str], *, write_to: Reader) -> Steps[None]:
    write = write_to.writer.arguments
    write('"')
    if not (yield from source.value_until(finder(end), lambda text: write(encoded(text)))):
        raise Malformed
    write('"')


def _may_be_null(source: Source) -> Steps[bool]:
    """Whether the text that stands here is `null` or might still become it."""
    null = yield from source.literal("null")
    source.position -= len(null)
    return bool(null)
