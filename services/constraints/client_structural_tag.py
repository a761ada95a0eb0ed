"""Structural tags that clients send, in both of SGLang's forms: checked, with their schemas rewritten.

Refuses structural tags that would crash the engine, stall it, or be misread. Leaves all other checks to the
engine. `answer_structure` builds the structural tags that inferd itself makes.
"""

import re
from collections.abc import Sequence
from typing import Any

import orjson

from inferd.services.constraints.ebnf import check_grammar
from inferd.services.constraints.engine_schema import engine_schema
from inferd.services.constraints.json_schema import (
    check_document,
    check_schema,
    invalid_constraint,
    parse_schema,
)
from inferd.services.constraints.regex import check_pattern
from inferd.v1 import sampling_pb2

_MAX_FORMATS = 2_000
_MAX_DEPTH = 40
_MAX_REPEAT = 1_000

_LOOPS = ("plus", "star", "repeat")
#: Formats that do not say where they end.
_ENDLESS = ("any_text", "any_tokens", "optional", *_LOOPS)
#: A regular expression that ends with a repeat of no fixed length.
_ENDS_WITH_REPEAT = re.compile(r"(?<!\\)(?:[*+]|,\d*\})\??$")

#: For each type of format: its members that are formats, and its members that are lists of formats.
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
    """The format of a structural tag, given as JSON, as the engine gets it: see xgrammar/structural_tag.py.

    Raises ServiceError INVALID_ARGUMENT (INVALID_CONSTRAINT) that names the place within `field`.
    """
    try:
        form = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise invalid_constraint(field, f"{field} is no JSON document: {error}") from error
    check_document(form, field)
    return _FormatChecker().check(form, field, 0)


def triggered_tags(
    structures: Sequence[sampling_pb2.TaggedStructure], triggers: Sequence[str], field: str
) -> dict[str, Any]:
    """The same for SGLang's older form: free text, in which a trigger starts one of the tags.

    Raises ServiceError INVALID_ARGUMENT (INVALID_CONSTRAINT) that names the place within `field`.
    """
    if not structures:
        raise invalid_constraint(f"{field}.structures", f"{field}.structures is required, or {field}.format")
    if not triggers:
        raise invalid_constraint(f"{field}.triggers", f"{field}.triggers is required with structures")
    for index, trigger in enumerate(triggers):
        if not trigger:
            path = f"{field}.triggers[{index}]"
            raise invalid_constraint(path, f"{path} must not be empty")
    tags = []
    for index, structure in enumerate(structures):
        path = f"{field}.structures[{index}]"
        matching = sum(structure.begin.startswith(trigger) for trigger in triggers)
        if matching != 1:
            problem = "none of" if not matching else "more than one of"
            raise invalid_constraint(f"{path}.begin", f"{path}.begin begins with {problem} {field}.triggers")
        where = f"{path}.schema"
        schema = engine_schema(parse_schema(structure.schema, where), where)
        content = {"type": "json_schema", "json_schema": schema}
        tags.append({"type": "tag", "begin": structure.begin, "content": content, "end": structure.end})
    return {"type": "triggered_tags", "triggers": list(triggers), "tags": tags}


class _FormatChecker:
    """Checks the formats of one structural tag, and counts them."""

    def __init__(self) -> None:
        self._count = 0

    def check(self, form: Any, path: str, depth: int) -> dict[str, Any]:
        """The format as the engine gets it."""
        self._count += 1
        if depth > _MAX_DEPTH or self._count > _MAX_FORMATS:
            raise invalid_constraint(
                path, f"{path}: at most {_MAX_FORMATS} formats, {_MAX_DEPTH} in one another"
            )
        if not isinstance(form, dict):
            raise invalid_constraint(path, f"{path} must be a JSON object: a format of a structural tag")
        kind = form.get("type")
        if not isinstance(kind, str) or kind not in _PARTS:
            raise invalid_constraint(
                f"{path}.type", f"{path}.type must be one of {', '.join(sorted(_PARTS))}"
            )
        checked = dict(form)
        single, lists = _PARTS[kind]
        for name in single:
            checked[name] = self.check(form.get(name), f"{path}.{name}", depth + 1)
        for name in lists:
            parts = form.get(name)
            if not isinstance(parts, list) or not parts:
                raise invalid_constraint(f"{path}.{name}", f"{path}.{name} must be a list that is not empty")
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
            raise invalid_constraint(path, f"{path}: min and max must be at most {_MAX_REPEAT}, or max -1")
        if kind in _LOOPS:
            self._check_repeated(checked["content"], f"{path}.content")
        return checked

    def _check_repeated(self, content: dict[str, Any], path: str) -> None:
        """Refuse to repeat content that does not say where it ends.

        The engine tries all ways to split a text into repeats, and their number explodes.
        """
        while content["type"] in ("sequence", "or") and len(content["elements"]) == 1:
            content = content["elements"][0]
        kind = content["type"]
        if kind in _ENDLESS or (kind == "regex" and _ENDS_WITH_REPEAT.search(content["pattern"])):
            raise invalid_constraint(path, f"{path} is repeated, and nothing in it says where it ends")

    def _part(self, kind: str, part: Any, path: str, depth: int) -> Any:
        if not kind.endswith("dispatch"):
            return self.check(part, path, depth + 1)
        if not isinstance(part, list) or len(part) != 2:
            raise invalid_constraint(path, f"{path} must be a pattern and a format")
        return [part[0], self.check(part[1], f"{path}[1]", depth + 1)]


def _text(form: dict[str, Any], name: str, path: str) -> str:
    text = form.get(name)
    if not isinstance(text, str) or not text:
        raise invalid_constraint(f"{path}.{name}", f"{path}.{name} must be a text that is not empty")
    return text
