"""Reads calls that are written as Python: a list of calls whose arguments are literals by keyword.

Runs no code: an argument that is no literal makes the call malformed.
"""

import json
import re

from inferd.services.text.output.format_types import JsonCalls, PythonCalls
from inferd.services.text.output.json_calls import read_json_call
from inferd.services.text.output.json_values import json_of_python
from inferd.services.text.output.markers import marker_finder
from inferd.services.text.output.parser_state import ParserState
from inferd.services.text.output.text_buffer import Malformed, Steps, TextBuffer

_NAME = re.compile(r"[^\W\d][\w.\-]*|")
_KEYWORD = re.compile(r"(?:[^\W\d]\w*)?")
_JSON = JsonCalls()
# Characters that may stand only in a triple-quoted string, and their escapes for other strings.
_ESCAPES = str.maketrans({"\n": "\\n", "\r": "\\r", "\0": "\\x00"})
_GAP = re.compile(r"\s*")
_AFTER_STRING = (",", ")", "]", "}", ":", "")
_STRUCTURE = marker_finder(frozenset("'\"()[]{},"))


def read_python_calls(state: ParserState, layout: PythonCalls, *, marked: bool) -> Steps[None]:
    """Read `[f(a=1), g()]`. After a marker the brackets may be missing, and calls may be JSON objects.

    Raises Malformed at text that is no call.
    """
    buffer = state.buffer
    yield from buffer.skip_spaces()
    in_list = bool((yield from buffer.accept("[")))
    if not in_list and not marked:
        raise Malformed
    if in_list and marked:
        yield from buffer.skip_spaces()
        if (yield from buffer.accept("]")):
            buffer.hold()
            return
    while True:
        yield from buffer.skip_spaces()
        if marked and (yield from buffer.peek()) == "{":
            yield from read_json_call(state, _JSON, marked=True)
        else:
            yield from _call(state, marked=marked or state.writer.call_count > 0)
        yield from buffer.skip_spaces()
        if in_list:
            mark = yield from buffer.accept(",", "]")
            if mark == "]":
                buffer.hold()
                return
            if not mark:
                buffer.rewind()
                return
        elif (yield from buffer.accept(",", ";")) or not (yield from _begins_name(buffer)):
            return


def _begins_name(buffer: TextBuffer) -> Steps[bool]:
    char = yield from buffer.peek()
    return char.isidentifier() or char == "{"


def _call(state: ParserState, *, marked: bool) -> Steps[None]:
    buffer, writer = state.buffer, state.writer
    name = yield from buffer.read_while(_NAME)
    if not name or not (marked or name in state.functions):
        raise Malformed
    yield from buffer.expect(("(",))
    yield from buffer.skip_spaces()
    if (yield from buffer.accept(")")):
        state.begin_call(name)
        writer.arguments("{}")
        state.end_call()
        return
    separator, mark = "{", ","
    while mark == ",":
        yield from buffer.skip_spaces()
        if separator != "{" and (yield from buffer.accept(")")):
            break
        keyword = yield from buffer.read_while(_KEYWORD)
        if not keyword:
            raise Malformed
        yield from buffer.expect(("=",))
        if separator == "{":
            state.begin_call(name)
        literal = yield from _literal(buffer)
        try:
            value, is_literal = json_of_python(literal), True
        except ValueError:
            value, is_literal = literal, False
        writer.arguments(f"{separator}{json.dumps(keyword, ensure_ascii=False)}: {value}")
        if not is_literal:
            raise Malformed
        separator = ", "
        mark = yield from buffer.accept(",", ")")
    writer.arguments("}")
    state.end_call()


def _literal(buffer: TextBuffer) -> Steps[str]:
    """Read a literal up to the comma or parenthesis after it."""
    pieces: list[str] = []
    depth = 0
    while True:
        mark = yield from buffer.copy_until(_STRUCTURE, pieces.append)
        if not mark:
            raise Malformed
        if depth == 0 and mark in ",)":
            buffer.position -= 1
            break
        pieces.append(mark)
        if mark in "'\"":
            yield from _string(buffer, mark, pieces)
        elif mark != ",":
            depth += 1 if mark in "([{" else -1
        if depth < 0:
            raise Malformed
    return "".join(pieces)


def _string(buffer: TextBuffer, quote: str, pieces: list[str]) -> Steps[None]:
    """Read the rest of a string, after its first quote.

    Models forget to escape. A quote is part of the string if the text after it cannot follow a string, and a
    line break is part of the string, too.
    """
    two = yield from buffer.accept(quote * 2)
    pieces.append(two)
    end = quote + two
    if not two and (yield from buffer.accept(quote)):
        pieces.append(quote)
        return
    marks = marker_finder(frozenset({end, "\\"}))

    def write(text: str) -> None:
        pieces.append(text if two else text.translate(_ESCAPES))

    while mark := (yield from buffer.copy_until(marks, write)):
        if mark == "\\":
            pieces.append(mark + (yield from buffer.peek()))
            buffer.position += 1
            continue
        gap = yield from buffer.read_while(_GAP)
        if two or (yield from buffer.peek()) in _AFTER_STRING:
            pieces.append(mark + gap)
            return
        write("\\" + mark + gap)
    raise Malformed
