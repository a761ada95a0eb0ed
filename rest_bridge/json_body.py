"""The body of a request, from bytes to a JSON object. Does not make messages: `decode` does."""

from typing import Any

import grpc
import orjson

from inferd.rest_bridge.json_errors import Mismatch, kind_name
from inferd.rest_bridge.json_scalars import boolean
from inferd.services.errors import ServiceError


def parse(body: bytes) -> dict[str, Any]:
    """The JSON object in a request's body.

    Raises ServiceError INVALID_ARGUMENT if the body is not a JSON object: with the reason MALFORMED_JSON and
    the line and column (from 1, in characters) if it is not JSON, or is nested more than 1024 levels deep.
    """
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise _malformed(body, error) from None
    if type(document) is not dict:
        raise bad_body(f"the body must be a JSON object, not {kind_name(document)}")
    return document


def flag(document: dict[str, Any], member: str) -> bool:
    """A boolean member that is not a field of the request, such as "stream"; false if it is absent or null.

    Raises ServiceError INVALID_ARGUMENT naming the member.
    """
    value = document.get(member)
    if value is None:
        return False
    try:
        return boolean(value)
    except Mismatch as mismatch:
        raise mismatch.prefixed(member).error() from None


def bad_body(message: str) -> ServiceError:
    """The error of a body that is at fault as a whole."""
    return ServiceError(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT", message)


def _malformed(body: bytes, error: orjson.JSONDecodeError) -> ServiceError:
    line, column, fault = error.lineno, error.colno, error.msg
    if not body:
        fault = "the body is empty"
    try:
        body.decode()
    except UnicodeDecodeError as bad:  # orjson reports invalid UTF-8 without its place
        before = body[: bad.start].decode()
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        fault = "invalid UTF-8"
    return ServiceError(
        grpc.StatusCode.INVALID_ARGUMENT,
        "MALFORMED_JSON",
        f"malformed JSON at line {line}, column {column}: {fault}",
        metadata={"line": str(line), "column": str(column)},
    )
