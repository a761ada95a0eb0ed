"""Reads and checks JSON Schemas of requests. Draft 2020-12 says what a schema is.

Does not tell whether the engine can enforce a schema: `engine_schema` does.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import jsonschema_rs
import orjson

from inferd.services.errors import ServiceError, invalid

#: How deep lists and objects may be nested in a JSON document.
MAX_JSON_DEPTH = 160

_META_SCHEMA = jsonschema_rs.Draft202012Validator({"$ref": "https://json-schema.org/draft/2020-12/schema"})

Schema = Mapping[str, Any]
#: The way from a document to a place in it: keys of objects, indices of lists.
Path = tuple[str | int, ...]


def parse_schema(text: str, field: str) -> Any:
    """The schema that `text` holds as JSON. `field` is the path of the request field that gives it.

    Raises ServiceError INVALID_ARGUMENT (INVALID_CONSTRAINT) if the text is no JSON document or no schema.
    """
    try:
        schema = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise invalid_constraint(field, f"{field} is no JSON document: {error}") from error
    check_schema(schema, field)
    return schema


def check_schema(schema: Any, field: str) -> None:
    """Raise ServiceError INVALID_ARGUMENT (INVALID_CONSTRAINT) if a JSON document is no JSON Schema.

    The error names the place within `field`.
    """
    if not isinstance(schema, Mapping | bool):
        raise invalid_constraint(field, f"{field} must be a JSON object: a JSON Schema")
    check_document(schema, field)
    error = next(_META_SCHEMA.iter_errors(schema), None)
    if error is not None:
        path = place(field, error.instance_path)
        raise invalid_constraint(path, f"{path} is no JSON Schema: {error.message[:500]}")


def place(field: str, path: Any) -> str:
    """The path of a place within a field: `schema.properties.age`, `schema.anyOf[0]`."""
    return field + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)[:512]


def check_document(document: Any, field: str) -> None:
    """Raise ServiceError INVALID_ARGUMENT (INVALID_CONSTRAINT) if a document is nested too deep to walk."""
    level = [document]
    for _ in range(MAX_JSON_DEPTH):
        level = [child for node in level for child in _children(node)]
        if not level:
            return
    raise invalid_constraint(field, f"{field} is nested deeper than {MAX_JSON_DEPTH} lists and objects")


def _children(node: Any) -> Iterator[Any]:
    values = node.values() if isinstance(node, Mapping) else node if isinstance(node, list) else ()
    return (value for value in values if isinstance(value, Mapping | list))


def invalid_constraint(field: str, message: str) -> ServiceError:
    """INVALID_ARGUMENT, with the reason INVALID_CONSTRAINT: the constraint in `field` cannot be used."""
    return invalid(field, message, "INVALID_CONSTRAINT")
