"""Reads calls whose name stands before the arguments, and not in a JSON object with them.

Reads neither the marker before a call nor the marker after it: `call_markers` and `parser` do.
"""

import re

from inferd.services.text.output.format_types import NamedCalls, NestedTags, TaggedArguments, ToolFormat
from inferd.services.text.output.gemma_arguments import read_gemma_arguments
from inferd.services.text.output.json_calls import read_arguments
from inferd.services.text.output.nested_tags import read_nested_tags
from inferd.services.text.output.parser_state import ParserState
from inferd.services.text.output.tagged_arguments import read_tagged_arguments
from inferd.services.text.output.text_buffer import Malformed, Steps, TextBuffer

_NAME = re.compile(r"[^\s<>{}()\[\]\"'`,;=]*")
_ID = re.compile(r"[^\s<>{}()\[\]\"'`,;]*")


def read_named_call(state: ParserState, layout: NamedCalls, format: ToolFormat) -> Steps[None]:
    """Read one call from behind its `call_begin` up to its `call_end`. Raises Malformed."""
    name, call_id = yield from _read_name(state.buffer, layout)
    yield from state.buffer.expect(tuple(format.call_name_end.split()))
    if layout.skip_to:
        yield from state.buffer.read_up_to(layout.skip_to)
    yield from _check_arguments_follow(state.buffer, layout, format)
    state.begin_call(name, call_id)
    if layout.arguments == "json":
        yield from read_json_after_name(state, format.call_end.split()[0])
    elif layout.arguments == "braces":
        yield from state.buffer.skip_spaces()
        yield from read_gemma_arguments(state.buffer, state.writer.arguments, layout.quote)
        state.end_call()
    elif isinstance(layout.arguments, NestedTags):
        yield from read_nested_tags(state, name, layout.arguments)
    else:
        ends = (format.call_end, format.section_end)
        yield from read_tagged_arguments(
            state, name, layout.arguments, [end.split()[0] for end in ends if end.strip()]
        )


def read_name_and_json(state: ParserState, name_ends: tuple[str, ...], id_mark: str) -> Steps[None]:
    """Read one call: a name, optionally `id_mark` and an id, one of `name_ends`, and JSON arguments.

    A `name_ends` text such as "{?" means that "{" may come next, and is then part of the arguments.
    """
    buffer = state.buffer
    name = yield from _read_nonempty(buffer, _NAME)
    call_id = None
    if id_mark:
        yield from buffer.skip_spaces()
        if (yield from buffer.accept(id_mark)):
            yield from buffer.skip_spaces()
            call_id = yield from _read_nonempty(buffer, _ID)
    yield from buffer.skip_spaces()
    ends = tuple(end for end in name_ends if not end.endswith("?"))
    if not (yield from buffer.accept(*ends)) and (yield from buffer.peek()) + "?" not in name_ends:
        raise Malformed
    state.begin_call(name, call_id)
    yield from read_json_after_name(state, "")


def read_json_after_name(state: ParserState, call_end: str) -> Steps[None]:
    """Read the JSON arguments of an open call. If `call_end` comes at once, the arguments are {}."""
    buffer = state.buffer
    yield from buffer.skip_spaces()
    if call_end and (yield from _comes_next(buffer, call_end)):
        state.writer.arguments("{}")
        complete = True
    else:
        complete = yield from read_arguments(buffer, state.writer.arguments)
    state.end_call(complete=complete)


def _read_name(buffer: TextBuffer, layout: NamedCalls) -> Steps[tuple[str, str | None]]:
    yield from buffer.skip_spaces()
    if not layout.name_in_id:
        return (yield from _read_nonempty(buffer, _NAME)), None
    call_id = yield from _read_nonempty(buffer, _ID)
    match = re.fullmatch(layout.name_in_id, call_id)
    return (match["name"], call_id) if match else (call_id, None)


def _read_nonempty(buffer: TextBuffer, pattern: re.Pattern[str]) -> Steps[str]:
    text = yield from buffer.read_while(pattern)
    if not text or buffer.position >= len(buffer.text):
        raise Malformed
    return text


def _check_arguments_follow(buffer: TextBuffer, layout: NamedCalls, format: ToolFormat) -> Steps[None]:
    """Check that arguments follow the name, if the format has no text between the two. Raises Malformed."""
    if format.call_name_end.strip():
        return
    yield from buffer.skip_spaces()
    expected = ["{"]
    if isinstance(layout.arguments, TaggedArguments):
        expected = [layout.arguments.begin, format.call_end.strip()]
    for text in expected:
        if (yield from _comes_next(buffer, text)):
            return
    raise Malformed


def _comes_next(buffer: TextBuffer, text: str) -> Steps[bool]:
    found = yield from buffer.accept(text)
    buffer.position -= len(found)
    return bool(found)
