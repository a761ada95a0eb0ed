"""Spells the path of a request field as it is in the request's JSON, for errors that the services raise.

The services name fields as the protos do, such as `request.messages[0].role`. Does not set fields;
`field_path` does.
"""

import re
from collections.abc import Callable

from google.protobuf.descriptor import Descriptor

from inferd.rest_bridge.json_spelling import json_fields, message_spelling

#: One step of a path: a field's name, then indices or map keys.
_STEP = re.compile(r'(\w+)((?:\[[0-9]+\]|\["(?:[^"\\]|\\.)*"\])*)(?:\.|$)')


def field_speller(message: Descriptor) -> Callable[[str], str]:
    """The speller of the paths of a message's fields. It returns a path that names no field as it is."""

    def spell(path: str) -> str:
        steps = _STEP.findall(path)
        if "".join(name + keys for name, keys in steps) != path.replace(".", ""):
            return path
        spelled = _spelled(message, steps)
        return path if spelled is None else spelled

    return spell


def _spelled(message: Descriptor, steps: list[tuple[str, str]]) -> str | None:
    """The JSON path of `steps`; steps within a scalar stay as they are. None: one is no field."""
    path = ""
    holder: Descriptor | None = message
    # The members of an inline message, which its holder may give other names.
    inlined: dict[str, str] = {}
    for name, keys in steps:
        if holder is None:
            path += f".{name}{keys}"
            continue
        field = holder.fields_by_name.get(name)
        if field is None:
            return None
        spelling = message_spelling(holder)
        found = next(each for each in spelling.fields if each.name == name)
        if found.inline:
            inlined = {each.field.full_name: each.member for each in json_fields(spelling)}
        elif spelling.bare or name in spelling.flat_members:
            path += keys
        else:
            member = inlined.get(field.full_name, found.member)
            path += f"{'.' if path else ''}{member}{keys}"
            inlined = {}
        holder = field.message_type
    return path
