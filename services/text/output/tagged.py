"""Reads arguments that are tagged one by one, and writes them as one JSON object while they come.

A string goes through as it grows; a value of any other type is written when it is all there.
"""

import json
from collections.abc import Mapping, Sequence

from inferd.services.text.output.description import Parameters
from inferd.services.text.output.json_calls import read_arguments
from inferd.services.text.output.literals import json_of_text
from inferd.services.text.output.markers import finder
from inferd.services.text.output.reader import Reader
from inferd.services.text.output.source import Malformed, Source, Steps
from inferd.services.text.output.strings import encoded
from inferd.services.text.output.value_types import ANY, STRING, parameter_types

# Parameters in which models, and histories that templates write for them, put all arguments as JSON.
_WRAPPERS = ("arguments", "input")
_STRING_OR_NULL = STRING | {"null"}


def read_tagged(reader: Reader, name: str, parameters: Parameters, ends: Sequence[str]) -> Steps[None]:
    """Reads an announced call's arguments, up to one of `ends` after them."""
    source, writer = reader.source, reader.writer
    begin = parameters.begin.split()
    yield from source.spaces()
    if (yield from source.peek()) == "{":
        complete = yield from read_arguments(source, writer.arguments)
        reader.end(complete=complete)
        return
    separator = "{"
    while True:
        yield from source.spaces()
        mark = yield from source.literal(begin[0], *ends)
        if mark in ends:
            source.position -= len(mark)
            break
        if not mark:
            raise Malformed
        yield from source.words(tuple(begin[1:]))
        key, kind = yield from _key(source, parameters)
        if separator == "{" and _is_wrapper(reader, name, key) and (yield from source.peek()) == "{":
            complete = yield from read_arguments(source, writer.arguments)
            yield from source.words((parameters.end,))
            yield from source.spaces()
            mark = yield from source.literal(*ends)
            if not mark:
                raise Malformed
            source.position -= len(mark)
            reader.end(complete=complete)
            return
        writer.arguments(f"{separator}{json.dumps(key, ensure_ascii=False)}: ")
        separator = ", "
        types = parameter_types(reader.functions.get(name), key)
        if kind == parameters.string_kind and (types & STRING or types == ANY):
            types = STRING
        elif kind and kind != parameters.string_kind:
            types = ANY
        yield from _value(reader, parameters, types)
    writer.arguments("{}" if separator == "{" else "}")
    reader.end()


def _is_wrapper(reader: Reader, name: str, key: str) -> bool:
    """Whether a parameter that the function has not holds all of its arguments."""
    function = reader.functions.get(name)
    properties = function.parameters.get("properties") if function and function.parameters else None
    return key in _WRAPPERS and isinstance(properties, Mapping) and key not in properties


def _key(source: Source, parameters: Parameters) -> Steps[tuple[str, str]]:
    words = parameters.key_end.split()
    key = yield from source.up_to(words[0])
    yield from source.words(tuple(words[1:]))
    kind = (yield from source.up_to(parameters.kind_end)) if parameters.kind_end else ""
    return key.strip(), kind.strip()


def _value(reader: Reader, parameters: Parameters, types: frozenset[str]) -> Steps[None]:
    source, write = reader.source, reader.writer.arguments
    ends = {parameters.end, *parameters.also_ends}
    if parameters.own_lines:
        ends.add("\n" + parameters.end)
        if (yield from source.peek()) == "\n":
            source.position += 1
    if parameters.literal and (yield from source.literal(parameters.literal[0])):
        ends = {parameters.literal[1]}
    if types == STRING or (types == _STRING_OR_NULL and not (yield from _may_be_null(source))):
        write('"')
        mark = yield from source.value_until(finder(frozenset(ends)), lambda text: write(encoded(text)))
        if not mark:
            raise Malformed
        write('"')
    else:
        pieces: list[str] = []
        mark = yield from source.value_until(finder(frozenset(ends)), pieces.append)
        if not mark:
            raise Malformed
        write(json_of_text("".join(pieces), types))
    if mark in parameters.also_ends:
        source.position -= len(mark)
    elif parameters.literal and mark == parameters.literal[1]:
        yield from source.words((parameters.end,))


def _may_be_null(source: Source) -> Steps[bool]:
    """Whether the text that stands here is `null` or might still become it."""
    null = yield from source.literal("null")
    source.position -= len(null)
    return bool(null)
