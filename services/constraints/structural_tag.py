"""Structural tags that requests bring along, in both of their forms, checked and made ready for the engine.

What the engine's own grammar of them says is left to it, but for what it would not survive or would misread.
"""

import re
from collections.abc import Sequence
from typing import Any

import orjson
from inferd.services.constraints.ebnf import check_grammar
from inferd.services.constraints.json_schema import check_document, check_schema, engine_schema, parse_schema
from inferd.services.constraints.regex import check_pattern
from inferd.services.errors import ServiceError, invalid
from inferd.v1 import sampling_pb2

_MAX_FORMATS = 2_000
_MAX_DEPTH = 40
_MAX_REPEAT = 1_000

_LOOPS = ("plus", "star", "repeat")
#: What has no end of its own.
_ENDLESS = ("any_text", "any_tokens", "optional", *_LOOPS)
_ENDS_LOOSE = re.compile(r"(?<!\\)(?:[*+]|,\d*\})\??$")

#: For each type of format, the members that are formats, and those that are lists of them.
_PARTS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "const_string": ((), ()),
    "json_schema": ((), ()),
    "qwen_xml_parameter": ((), ()),
    "any_text": ((), ()),
    "token": ((), ()),
    "exclude_token": ((), ()),
    "any_tokens": ((), ()),
    "grammar": ((), ()),
    "regex": ((), ()),
    "sequence": ((), ("elements",)),
    "or": ((), ("elements",)),
    "tag": (("content",), ()),
    "triggered_tags": ((), ("tags",)),
    "token_triggered_tags": ((), ("tags",)),
    "tags_with_separator": ((), ("tags",)),
    "optional": (("content",), ()),
    "plus": (("content",), ()),
    "star": (("content",), ()),
    "repeat": (("content",), ()),
    "dispatch": ((), ("rules",)),
    "token_dispatch": ((), ("rules",)),
}


def parse_format(text: str, field: str) -> dict[str, Any]:
    """A format of xgrammar's structural tags. Raises ServiceError INVALID_ARGUMENT naming the place in it."""
    try:
        form = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise _refusal(field, f"{field} is no JSON document: {error}") from error
    check_document(form, field)
    return _Formats().check(form, field, 0)


def triggered_tags(
    structures: Sequence[sampling_pb2.TaggedStructure], triggers: Sequence[str], field: str
) -> dict[str, Any]:
    """The older form: text where a trigger begins one of the tags. Raises ServiceError INVALID_ARGUMENT."""
    if not structures:
        raise _refusal(f"{field}.structures", f"{field}.structures is required, or {field}.format")
    if not triggers:
        raise _refusal(f"{field}.triggers", f"{field}.triggers is required with structures")
    for index, trigger in enumerate(triggers):
        if not trigger:
            path = f"{field}.triggers[{index}]"
            raise _refusal(path, f"{path} must not be empty")
    tags = []
    for index, structure in enumerate(structures):
        path = f"{field}.structures[{index}]"
        matching = sum(structure.begin.startswith(trigger) for trigger in triggers)
        if matching != 1:
            problem = "none of" if not matching else "more than one of"
            raise _refusal(f"{path}.begin", f"{path}.begin begins with {problem} {field}.triggers")
        where = f"{path}.schema"
        schema = engine_schema(parse_schema(structure.schema, where), where)
        content = {"type": "json_schema", "json_schema": schema}
        tags.append({"type": "tag", "begin": structure.begin, "content": content, "end": structure.end})
    return {"type": "triggered_tags", "triggers": list(triggers), "tags": tags}


class _Formats:
    """Counts the formats of one document."""

    def __init__(self) -> None:
        self._count = 0

    def check(self, form: Any, path: str, depth: int) -> dict[str, Any]:
        """The format as the engine gets it."""
        self._count += 1
        if depth > _MAX_DEPTH or self._count > _MAX_FORMATS:
            raise _refusal(path, f"{path}: at most {_MAX_FORMATS} formats, {_MAX_DEPTH} in one another")
        if not isinstance(form, dict):
            raise _refusal(path, f"{path} must be a JSON object: a format of a structural tag")
        kind = form.get("type")
        if not isinstance(kind, str) or kind not in _PARTS:
            raise _refusal(f"{path}.type", f"{path}.type must be one of {', '.join(sorted(_PARTS))}")
        checked = dict(form)
        single, lists = _PARTS[kind]
        for name in single:
            checked[name] = self.check(form.get(name), f"{path}.{name}", depth + 1)
        for name in lists:
            parts = form.get(name)
            if not isinstance(parts, list) or not parts:
                raise _refusal(f"{path}.{name}", f"{path}.{name} must be a list that is not empty")
            checked[name] = [
                self._part(kind, part, f"{path}.{name}[{index}]", depth) for index, part in enumerate(parts)
            ]
        if kind in ("json_schema", "qwen_xml_parameter"):
            where = f"{path}.json_schema"
            schema = form.get("json_schema", True)
            check_schema(schema, where)
            checked["json_schema"] = engine_schema(schema, where)
        elif kind == "regex":
            checked["pattern"] = _text(form, "pattern", path)
            check_pattern(checked["pattern"], f"{path}.pattern")
        elif kind == "grammar":
            check_grammar(_text(form, "grammar", path), f"{path}.grammar")
        elif kind == "repeat" and not all(
            isinstance(form.get(name), int) and form[name] <= _MAX_REPEAT for name in ("min", "max")
        ):
            raise _refusal(path, f"{path}: min and max must be at most {_MAX_REPEAT}, or max -1")
        if kind in _LOOPS:
            self._parted(checked["content"], f"{path}.content")
        return checked

    def _parted(self, content: dict[str, Any], path: str) -> None:
        """What is repeated must say where it ends: the engine follows all ways to read a text."""
        while content["type"] in ("sequence", "or") and len(content["elements"]) == 1:
            content = content["elements"][0]
        kind = content["type"]
        if kind in _ENDLESS or (kind == "regex" and _ENDS_LOOSE.search(content["pattern"])):
            raise _refusal(path, f"{path} is repeated, and nothing in it says where it ends")

    def _part(self, kind: str, part: Any, path: str, depth: int) -> Any:
        if not kind.endswith("dispatch"):
            return self.check(part, path, depth + 1)
        if not isinstance(part, list) or len(part) != 2:
            raise _refusal(path, f"{path} must be a pattern and a format")
        return [part[0], self.check(part[1], f"{path}[1]", depth + 1)]


def _text(form: dict[str, Any], name: str, path: str) -> str:
    text = form.get(name)
    if not isinstance(text, str) or not text:
        raise _refusal(f"{path}.{name}", f"{path}.{name} must be a text that is not empty")
    return text


def _refusal(field: str, message: str) -> ServiceError:
    return invalid(field, message, "INVALID_CONSTRAINT")
