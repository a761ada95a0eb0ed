"""The JSON types that a function's schema allows for a parameter.

Validates nothing: if a schema does not name types plainly, any type is allowed.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from inferd.services.text.function import Function

ANY: frozenset[str] = frozenset()
STRING = frozenset({"string"})
# References and unions that are nested deeper allow any type.
_DEEPEST = 16


def schema_types(schema: Any, root: Mapping[str, Any]) -> frozenset[str]:
    """The JSON types that `schema`, a part of the schema `root`, allows; `ANY` if it names none."""
    return _types(schema, root, 0)


def member_schema(schema: Any, root: Mapping[str, Any], name: str) -> Any:
    """The schema of the member `name` of an object, or of the items of an array; None if there is none."""
    for _ in range(_DEEPEST):
        if not isinstance(schema, Mapping):
            return None
        if isinstance(reference := schema.get("$ref"), str):
            schema = _referred(reference, root)
            continue
        union = schema.get("anyOf") or schema.get("oneOf")
        if not isinstance(union, list):
            break
        schema = next((member for member in union if member_schema(member, root, name) is not None), None)
    if not isinstance(schema, Mapping):
        return None
    properties = schema.get("properties")
    if isinstance(properties, Mapping) and name in properties:
        return properties[name]
    return schema.get("items") if "items" in schema else schema.get("additionalProperties")


def parameter_types(function: Function | None, name: str) -> frozenset[str]:
    """The JSON types that a function allows for the parameter `name`; `ANY` if its schema names none."""
    schema = function.parameters if function else None
    properties = schema.get("properties") if schema else None
    if schema is None or not isinstance(properties, Mapping):
        return ANY
    if name in properties:
        return _types(properties[name], schema, 0)
    others = schema.get("additionalProperties")
    return _types(others, schema, 0) if isinstance(others, Mapping) else STRING


def _types(schema: Any, root: Mapping[str, Any], depth: int) -> frozenset[str]:
    if not isinstance(schema, Mapping) or depth > _DEEPEST:
        return ANY
    named = schema.get("type")
    if isinstance(named, str):
        types = frozenset({named})
    elif isinstance(named, list):
        types = frozenset(name for name in named if isinstance(name, str))
    else:
        types = _untyped(schema, root, depth)
    return types | {"null"} if types and schema.get("nullable") is True else types


def _untyped(schema: Mapping[str, Any], root: Mapping[str, Any], depth: int) -> frozenset[str]:
    if "const" in schema:
        return frozenset({type_of(schema["const"])})
    if isinstance(values := schema.get("enum"), list):
        return frozenset(map(type_of, values))
    for union in ("anyOf", "oneOf"):
        if isinstance(members := schema.get(union), list):
            return _union(_types(member, root, depth + 1) for member in members)
    if isinstance(members := schema.get("allOf"), list):
        return next(filter(None, (_types(member, root, depth + 1) for member in members)), ANY)
    if isinstance(reference := schema.get("$ref"), str):
        return _types(_referred(reference, root), root, depth + 1)
    return ANY


def _union(members: Iterable[frozenset[str]]) -> frozenset[str]:
    types: frozenset[str] = frozenset()
    for member in members:
        if not member:
            return ANY
        types |= member
    return types


def _referred(reference: str, root: Mapping[str, Any]) -> Any:
    found: Any = root
    if not reference.startswith("#/"):
        return None
    for part in reference[2:].split("/"):
        key = part.replace("~1", "/").replace("~0", "~")
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


def type_of(value: Any) -> str:
    """The name of the JSON type of a value."""
    match value:
        case bool():
            return "boolean"
        case None:
            return "null"
        case int():
            return "integer"
        case float():
            return "number"
        case str():
            return "string"
        case list():
            return "array"
        case _:
            return "object"


def fits(value: Any, types: frozenset[str]) -> bool:
    """Whether a JSON value is of one of the types. An integer is a number, too."""
    name = type_of(value)
    return name in types or (name == "integer" and "number" in types)
