"""Reads calls whose name stands by itself before the arguments.

Where a call begins, and what follows its end, is the parser's.
"""

import re

from inferd.services.text.output.braces import read_braces
from inferd.services.text.output.description import NamedCalls, NestedTags, Parameters, ToolFormat
from inferd.services.text.output.json_calls import read_arguments
from inferd.services.text.output.nested_tags import read_nested_tags
from inferd.services.text.output.reader import Reader
from inferd.services.text.output.source import Malformed, Source, Steps
from inferd.services.text.output.tagged import read_tagged

_NAME = re.compile(r"[^\s<>{}()\[\]\"'`,;=]*")
_ID = re.compile(r"[^\s<>{}()\[\]\"'`,;]*")


def read_named_call(reader: Reader, layout: NamedCalls, format: ToolFormat) -> Steps[None]:
    """Reads one call after its `call_begin`, up to its `call_end`."""
    name, call_id = yield from _read_name(reader.source, layout)
    yield from reader.source.words(tuple(format.call_name_end.split()))
    if layout.skip_to:
        yield from reader.source.up_to(layout.skip_to)
    yield from _certain(reader.source, layout, format)
    reader.begin(name, call_id)
    if layout.arguments == "json":
        yield from read_json_after_name(reader, format.call_end.split()[0])
    elif layout.arguments == "braces":
        yield from reader.source.spaces()
        yield from read_braces(reader.source, reader.writer.arguments, layout.quote)
        reader.end()
    elif isinstance(layout.arguments, NestedTags):
        yield from read_nested_tags(reader, name, layout.arguments)
    else:
        ends = (format.call_end, format.section_end)
        yield from read_tagged(
            reader, name, layout.arguments, [end.split()[0] for end in ends if end.strip()]
        )


def read_name_and_json(reader: Reader, name_ends: tuple[str, ...], id_mark: str) -> Steps[None]:
    """Reads one call of a name, perhaps an id, one of `name_ends`, and JSON arguments."""
    source = reader.source
    name = yield from _checked(source, _NAME)
    call_id = None
    if id_mark:
        yield from source.spaces()
        if (yield from source.literal(id_mark)):
            yield from source.spaces()
            call_id = yield from _checked(source, _ID)
    yield from source.spaces()
    ends = tuple(end for end in name_ends if not end.endswith("?"))
    if not (yield from source.literal(*ends)) and (yield from source.peek()) + "?" not in name_ends:
        raise Malformed
    reader.begin(name, call_id)
    yield from read_json_after_name(reader, "")


def read_json_after_name(reader: Reader, call_end: str) -> Steps[None]:
    """Reads an announced call's JSON arguments; none at all before `call_end` are none."""
    source = reader.source
    yield from source.spaces()
    if call_end and (yield from _stands(source, call_end)):
        reader.writer.arguments("{}")
        complete = True
    else:
        complete = yield from read_arguments(source, reader.writer.arguments)
    reader.end(complete=complete)


def _read_name(source: Source, layout: NamedCalls) -> Steps[tuple[str, str | None]]:
    yield from source.spaces()
    if not layout.name_in_id:
        return (yield from _checked(source, _NAME)), None
    call_id = yield from _checked(source, _ID)
    match = re.fullmatch(layout.name_in_id, call_id)
    return (match["name"], call_id) if match else (call_id, None)


def _checked(source: Source, pattern: re.Pattern[str]) -> Steps[str]:
    text = yield from source.run(pattern)
    if not text or source.position >= len(source.text):
        raise Malformed
    return text


def _certain(source: Source, layout: NamedCalls, format: ToolFormat) -> Steps[None]:
    """Looks at what follows the name, where nothing but a space had to: it must be the arguments."""
    if format.call_name_end.strip():
        return
    yield from source.spaces()
    expected = ["{"]
    if isinstance(layout.arguments, Parameters):
        expected = [layout.arguments.begin, format.call_end.strip()]
    for text in expected:
        if (yield from _stands(source, text)):
            return
    raise Malformed


def _stands(source: Source, text: str) -> Steps[bool]:
    found = yield from source.literal(text)
    source.position -= len(found)
    return bool(found)
