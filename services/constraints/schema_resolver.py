"""Flattens a JSON Schema: resolves $ref and merges allOf, so that each schema is one set of keywords.

Refuses keywords that the engine ignores and merges that no single schema can say. Writes nothing for the
engine: `engine_schema` does.
"""

from collections.abc import Mapping
from typing import Any, NoReturn
from urllib.parse import unquote

from inferd.services.constraints.json_schema import Path, Schema, invalid_constraint, place

OBJECT_KEYWORDS = frozenset(
    (
        "properties",
        "required",
        "additionalProperties",
        "patternProperties",
        "propertyNames",
        "unevaluatedProperties",
        "minProperties",
        "maxProperties",
    )
)
ARRAY_KEYWORDS = frozenset(("items", "prefixItems", "unevaluatedItems", "minItems", "maxItems"))
STRING_KEYWORDS = frozenset(("pattern", "format", "minLength", "maxLength"))
NUMBER_KEYWORDS = frozenset(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"))
_CORE = frozenset(("$ref", "const", "enum", "anyOf", "oneOf", "allOf"))
_UNSUPPORTED = frozenset(
    (
        "if",
        "then",
        "else",
        "not",
        "contains",
        "minContains",
        "maxContains",
        "dependentRequired",
        "dependentSchemas",
        "dependencies",
        "multipleOf",
        "uniqueItems",
        "$dynamicRef",
        "$recursiveRef",
    )
)
_ASSERTIONS = (
    OBJECT_KEYWORDS | ARRAY_KEYWORDS | STRING_KEYWORDS | NUMBER_KEYWORDS | _CORE | _UNSUPPORTED | {"type"}
)
#: Keywords for properties that `properties` does not name.
_OTHER_PROPERTIES = frozenset(("additionalProperties", "patternProperties", "propertyNames"))


class Unsatisfiable(Exception):
    """No document can follow both of two merged schemas."""


class SchemaResolver:
    """Flattens the parts of one schema, `root`. `field` is the path of the request field that gives it.

    If a part cannot be flattened, methods raise ServiceError INVALID_ARGUMENT (INVALID_CONSTRAINT) that names
    the place in `field`.
    """

    def __init__(self, root: Any, field: str) -> None:
        self._root = root
        self._field = field

    def flattened(self, schema: Schema, path: Path) -> dict[str, Any]:
        """The keywords of a schema, merged with those of its allOf, and with the target of its $ref if other
        keywords stand beside the $ref. Raises Unsatisfiable."""
        keywords = self.assertions(schema, path)
        seen: set[str] = set()
        while "allOf" in keywords or ("$ref" in keywords and len(keywords) > 1):
            if "allOf" in keywords:
                parts = [(part, (*path, "allOf", i)) for i, part in enumerate(keywords.pop("allOf"))]
            else:
                pointer = keywords.pop("$ref")
                if pointer in seen:
                    self.refuse(path, f"refers to itself by {pointer}")
                seen.add(pointer)
                parts = [(self.target(pointer, path), path)]
            for part, where in parts:
                if part is False:
                    self.refuse(where, "is false: nothing can follow it")
                keywords = self.merged(keywords, {} if part is True else part, where)
        return keywords

    def merged(self, first: Schema, second: Schema, path: Path) -> dict[str, Any]:
        """The keywords of a schema that means both. Raises Unsatisfiable if no document can follow both."""
        one, other = self.assertions(first, path), self.assertions(second, path)
        if not one or not other:
            return one or other
        for a, b in ((one, other), (other, one)):
            extra = _OTHER_PROPERTIES & a.keys()
            new = b.get("properties", {}).keys() - a.get("properties", {}).keys()
            if extra and new and a.get("additionalProperties") is not True:
                self.refuse(path, f"cannot be enforced: properties are joined with another {min(extra)}")
        joined = {**one, **other}
        for keyword in one.keys() & other.keys():
            left, right = one[keyword], other[keyword]
            if keyword == "type":
                joined["type"] = types = _common_types(left, right)
                if not types:
                    raise Unsatisfiable(f"is joined with another type: nothing is both {left} and {right}")
            elif keyword == "required":
                joined["required"] = list(dict.fromkeys((*left, *right)))
            elif keyword == "allOf":
                joined["allOf"] = [*left, *right]
            elif keyword == "properties":
                joined["properties"] = {**left, **right}
                for name in left.keys() & right.keys():
                    if left[name] != right[name]:
                        joined["properties"][name] = {"allOf": [left[name], right[name]]}
            elif left != right:
                self.refuse(path, f"cannot be enforced: it is joined with another {keyword}")
        return joined

    def assertions(self, schema: Schema, path: Path) -> dict[str, Any]:
        """The keywords of a schema that restrict documents: no titles, descriptions and other annotations."""
        keywords = {keyword: schema[keyword] for keyword in schema if keyword in _ASSERTIONS}
        for keyword in _UNSUPPORTED & keywords.keys():
            if keywords.pop(keyword) is not False or keyword != "uniqueItems":
                self.refuse((*path, keyword), f"cannot be enforced: the engine knows no {keyword}")
        return keywords

    def target(self, pointer: str, path: Path) -> Any:
        """The schema that a $ref at `path` refers to: a JSON Pointer (RFC 6901) within `root`."""
        where = (*path, "$ref")
        if pointer != "#" and not pointer.startswith("#/"):
            self.refuse(where, f"is {pointer[:256]!r}: only what is in the schema (#/...) can be referred to")
        target = self._root
        for step in _pointer_steps(pointer):
            if isinstance(target, Mapping) and step in target:
                target = target[step]
            elif isinstance(target, list) and step.isdecimal() and int(step[:9]) < len(target):
                target = target[int(step)]
            else:
                self.refuse(where, f"is {pointer[:256]!r}, which is not in the schema")
        if not isinstance(target, Mapping | bool):
            self.refuse(where, f"is {pointer[:256]!r}, which is no schema")
        return target

    def refuse(self, path: Path, problem: str) -> NoReturn:
        """Raise ServiceError for the place `path` of the schema."""
        where = place(self._field, path)
        raise invalid_constraint(where, f"{where} {problem}")


def type_names(types: str | list[str]) -> list[str]:
    """The value of the keyword `type`, which may be one name or a list, as a list."""
    return [types] if isinstance(types, str) else list(types)


def _common_types(first: str | list[str], second: str | list[str]) -> list[str]:
    one, other = type_names(first), type_names(second)
    both = [name for name in one if name in other]
    for a, b in ((one, other), (other, one)):
        if "number" in a and "integer" in b and not {"number", "integer"} & set(both):
            both.append("integer")
    return both


def _pointer_steps(pointer: str) -> list[str]:
    steps = unquote(pointer[1:]).split("/")[1:]
    return [step.replace("~1", "/").replace("~0", "~") for step in steps]
