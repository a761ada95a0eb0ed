"""Reads arguments that are tagged one by one, and writes them as one JSON object while they arrive.

A string is written while it grows. A value of another type is written when it is complete. Tags within tags
are read in `nested_tags`.
"""

import json
from collections.abc import Mapping, Sequence

from inferd.services.text.output.format_types import TaggedArguments
from inferd.services.text.output.json_calls import read_arguments
from inferd.services.text.output.json_strings import encoded
from inferd.services.text.output.json_types import ANY, STRING, parameter_types
from inferd.services.text.output.json_values import json_of_text
from inferd.services.text.output.markers import marker_finder
from inferd.services.text.output.parser_state import ParserState
from inferd.services.text.output.text_buffer import Malformed, Steps, TextBuffer

# Names of a tag in which some models put all arguments as one JSON object.
_WRAPPERS = ("arguments", "input")
_STRING_OR_NULL = STRING | {"null"}


def read_tagged_arguments(
    state: ParserState, name: str, parameters: TaggedArguments, ends: Sequence[str]
) -> Steps[None]:
    """Read the arguments of the open call of the function `name`, up to one of `ends`. Raises Malformed."""
    buffer, writer = state.buffer, state.writer
    begin = parameters.begin.split()
    yield from buffer.skip_spaces()
    if (yield from buffer.peek()) == "{":
        complete = yield from read_arguments(buffer, writer.arguments)
        state.end_call(complete=complete)
        return
    separator = "{"
    while True:
        yield from buffer.skip_spaces()
        mark = yield from buffer.accept(begin[0], *ends)
        if mark in ends:
            buffer.position -= len(mark)
            break
        if not mark:
            raise Malformed
        yield from buffer.expect(tuple(begin[1:]))
        key, kind = yield from _key(buffer, parameters)
        if separator == "{" and _is_wrapper(state, name, key) and (yield from buffer.peek()) == "{":
            complete = yield from read_arguments(buffer, writer.arguments)
            yield from buffer.expect((parameters.end,))
            yield from buffer.skip_spaces()
            mark = yield from buffer.accept(*ends)
            if not mark:
                raise Malformed
            buffer.position -= len(mark)
            state.end_call(complete=complete)
            return
        writer.arguments(f"{separator}{json.dumps(key, ensure_ascii=False)}: ")
        separator = ", "
        types = parameter_types(state.functions.get(name), key)
        if kind == parameters.string_kind and (types & STRING or types == ANY):
            types = STRING
        elif kind and kind != parameters.string_kind:
            types = ANY
        yield from _value(state, parameters, types)
    writer.arguments("{}" if separator == "{" else "}")
    state.end_call()


def _is_wrapper(state: ParserState, name: str, key: str) -> bool:
    """Whether the tag `key` holds all arguments: its name is usual for that, and no parameter has the
    name."""
    function = state.functions.get(name)
    properties = function.parameters.get("properties") if function and function.parameters else None
    return key in _WRAPPERS and isinstance(properties, Mapping) and key not in properties


def _key(buffer: TextBuffer, parameters: TaggedArguments) -> Steps[tuple[str, str]]:
    words = parameters.key_end.split()
    key = yield from buffer.read_up_to(words[0])
    yield from buffer.expect(tuple(words[1:]))
    kind = (yield from buffer.read_up_to(parameters.kind_end)) if parameters.kind_end else ""
    return key.strip(), kind.strip()


def _value(state: ParserState, parameters: TaggedArguments, types: frozenset[str]) -> Steps[None]:
    buffer, write = state.buffer, state.writer.arguments
    ends = {parameters.end, *parameters.also_ends}
    if parameters.own_lines:
        ends.add("\n" + parameters.end)
        if (yield from buffer.peek()) == "\n":
            buffer.position += 1
    if parameters.verbatim and (yield from buffer.accept(parameters.verbatim[0])):
        ends = {parameters.verbatim[1]}
    if types == STRING or (types == _STRING_OR_NULL and not (yield from _may_be_null(buffer))):
        write('"')
        mark = yield from buffer.copy_value_until(
            marker_finder(frozenset(ends)), lambda text: write(encoded(text))
        )
        if not mark:
            raise Malformed
        write('"')
    else:
        pieces: list[str] = []
        mark = yield from buffer.copy_value_until(marker_finder(frozenset(ends)), pieces.append)
        if not mark:
            raise Malformed
        write(json_of_text("".join(pieces), types))
    if mark in parameters.also_ends:
        buffer.position -= len(mark)
    elif parameters.verbatim and mark == parameters.verbatim[1]:
        yield from buffer.expect((parameters.end,))


def _may_be_null(buffer: TextBuffer) -> Steps[bool]:
    """Whether the value starts with `null`. Reads nothing."""
    null = yield from buffer.accept("null")
    buffer.position -= len(null)
    return bool(null)
