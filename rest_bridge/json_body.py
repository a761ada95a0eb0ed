"""A request's body: bytes to a JSON object, before it is known what message it spells."""

from typing import Any

import grpc
import orjson
from inferd.rest_bridge.json_faults import Mismatch, kind
from inferd.rest_bridge.json_scalars import boolean
from inferd.services.errors import ServiceError


def parse(body: bytes) -> dict[str, Any]:
    """The JSON object in a request's body.

    Raises INVALID_ARGUMENT: MALFORMED_JSON with line and column (from 1, in characters) where it is no
    JSON; also where it is no object, or is nested more than 1024 deep.
    """
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise _malformed(body, error) from None
    if type(document) is not dict:
        raise bad_body(f"the body must be a JSON object, not {kind(document)}")
    return document


def flag(document: dict[str, Any], member: str) -> bool:
    """A boolean member that is no field of the request, such as "stream"; false where unset or null."""
    value = document.get(member)
    if value is None:
        return False
    try:
        return boolean(value)
    except Mismatch as mismatch:
        raise mismatch.under(member).error() from None


def bad_body(message: str) -> ServiceError:
    return ServiceError(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT", message)


def _malformed(body: bytes, error: orjson.JSONDecodeError) -> ServiceError:
    line, column, fault = error.lineno, error.colno, error.msg
    if not body:
        fault = "the body is empty"
    try:
        body.decode()
    except UnicodeDecodeError as bad:  # which orjson reports without its place
        before = body[: bad.start].decode()
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        fault = "invalid UTF-8"
    return ServiceError(
        grpc.StatusCode.INVALID_ARGUMENT,
        "MALFORMED_JSON",
        f"malformed JSON at line {line}, column {column}: {fault}",
        metadata={"line": str(line), "column": str(column)},
    )
