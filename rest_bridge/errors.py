"""Errors as HTTP responses: google.rpc.Status and the bridge's own errors, in OpenAI's JSON.

    {"error": {"message": …, "type": …, "param": …, "code": …}}

A server error (5xx) that inferd's services did not raise keeps its code, but not its message, which may tell
about the server's internals. Does not log errors.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import grpc
import orjson
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from inferd.services.errors import DOMAIN

Headers = list[tuple[bytes, bytes]]
ErrorObject = dict[str, str | None]

#: The statuses of google/rpc/code.proto, except FAILED_PRECONDITION: OpenAI's API and others answer 409 if
#: the state of a resource does not allow a request.
_HTTP_STATUS: Mapping[grpc.StatusCode, int] = {
    grpc.StatusCode.CANCELLED: 499,
    grpc.StatusCode.UNKNOWN: 500,
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.FAILED_PRECONDITION: 409,
    grpc.StatusCode.ABORTED: 409,
    grpc.StatusCode.OUT_OF_RANGE: 400,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.INTERNAL: 500,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DATA_LOSS: 500,
    grpc.StatusCode.UNAUTHENTICATED: 401,
}
_CODES = {code.value[0]: code for code in _HTTP_STATUS}

#: Codes of 409 responses for which a second attempt gets the same answer. OpenAI's SDKs repeat requests after
#: any 409, unless the response has `x-should-retry: false`.
_NOT_RETRIED = (grpc.StatusCode.ALREADY_EXISTS, grpc.StatusCode.FAILED_PRECONDITION)

_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}

#: Message in place of an error's own one, if that may tell about the server's internals.
_UNEXPECTED = "an unexpected error, which the server has logged under the request's id"
#: The same, for codes that have a message of their own.
_MESSAGES = {
    grpc.StatusCode.DEADLINE_EXCEEDED: "the deadline passed before the answer was complete",
    grpc.StatusCode.UNIMPLEMENTED: "this method is not served",
    grpc.StatusCode.UNAVAILABLE: "the service is not available",
}

_Detail = TypeVar("_Detail", bound=Message)


class HttpError(Exception):
    """An error that has an HTTP status but no gRPC code, such as 405. No RPC was called."""

    def __init__(self, status: int, code: str, message: str, headers: Headers | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = headers or []


@dataclass(frozen=True)
class ErrorResponse:
    """The HTTP response of an error. `body` is the JSON document, which is also the data of an error event.

    `keeps_message` is false if a general message replaces the error's own one.
    """

    status: int
    headers: Headers
    body: bytes
    keeps_message: bool = True


def from_http(error: HttpError) -> ErrorResponse:
    """The response to a request that called no RPC."""
    body = _envelope(_object(error.status, error.message, None, error.code))
    return ErrorResponse(error.status, error.headers, body)


def from_status(status: status_pb2.Status) -> ErrorResponse:
    """The response for an RPC that ended with another code than OK."""
    code = _code(status)
    headers: Headers = [(b"x-should-retry", b"false")] if code in _NOT_RETRIED else []
    retry = _detail(status, error_details_pb2.RetryInfo)
    if retry is not None:
        seconds = retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9
        headers.append((b"retry-after", b"%d" % max(1, math.ceil(seconds))))
    return ErrorResponse(_HTTP_STATUS[code], headers, _envelope(error_object(status)), _keeps_message(status))


def error_object(status: status_pb2.Status) -> ErrorObject:
    """A google.rpc.Status as OpenAI's error object, which is the value of "error" in a response."""
    code = _code(status)
    info = _detail(status, error_details_pb2.ErrorInfo)
    keeps_message = _keeps_message(status)
    message = status.message if keeps_message else _MESSAGES.get(code, _UNEXPECTED)
    reason = info.reason.lower() if info is not None and keeps_message else ""
    bad_request = _detail(status, error_details_pb2.BadRequest)
    param = None
    if bad_request is not None and bad_request.field_violations:
        param = bad_request.field_violations[0].field or None
    return _object(_HTTP_STATUS[code], message, param, reason or code.name.lower())


def unexpected() -> ErrorResponse:
    """The response if the bridge itself failed."""
    return ErrorResponse(500, [], _envelope(_object(500, _UNEXPECTED, None, "internal")), keeps_message=False)


def _code(status: status_pb2.Status) -> grpc.StatusCode:
    return _CODES.get(status.code, grpc.StatusCode.UNKNOWN)


def _keeps_message(status: status_pb2.Status) -> bool:
    info = _detail(status, error_details_pb2.ErrorInfo)
    return (info is not None and info.domain == DOMAIN) or _HTTP_STATUS[_code(status)] < 500


def _envelope(error: ErrorObject) -> bytes:
    return orjson.dumps({"error": error})


def _object(status: int, message: str, param: str | None, code: str) -> ErrorObject:
    kind = "server_error" if status >= 500 else _TYPES.get(status, "invalid_request_error")
    # The text of a remote server, or a part of a request, may have lone surrogates, which orjson does not
    # encode.
    message = message.encode(errors="replace").decode()
    return {"message": message, "type": kind, "param": param, "code": code}


def _detail(status: status_pb2.Status, kind: type[_Detail]) -> _Detail | None:
    for packed in status.details:
        if packed.Is(kind.DESCRIPTOR):
            detail = kind()
            packed.Unpack(detail)
            return detail
    return None
