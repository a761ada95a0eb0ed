"""Errors on the HTTP side: google.rpc.Status, and the bridge's own, as OpenAI's error envelope.

    {"error": {"message": …, "type": …, "param": …, "code": …}}

An error of the server's that is not inferd's own keeps its code and loses its text, which is not meant for
clients.
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

#: google/rpc/code.proto; but FAILED_PRECONDITION is 409, as OpenAI's API and others answer what the state
#: of a thing does not allow.
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

#: OpenAI's SDKs send any 409 again, unless they are told not to: of these the second answer is the first.
_FINAL = (grpc.StatusCode.ALREADY_EXISTS, grpc.StatusCode.FAILED_PRECONDITION)

_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}

#: What a client is told where the error's own text may be about the server's inside.
_UNEXPECTED = "an unexpected error, which the server has logged under the request's id"
_PLAIN_TEXTS = {
    grpc.StatusCode.DEADLINE_EXCEEDED: "the deadline passed before the answer was complete",
    grpc.StatusCode.UNIMPLEMENTED: "this method is not served",
    grpc.StatusCode.UNAVAILABLE: "the service is not available",
}

_Detail = TypeVar("_Detail", bound=Message)


class HttpError(Exception):
    """An error that HTTP knows and gRPC does not, such as 405: the request reached no method."""

    def __init__(self, status: int, code: str, message: str, headers: Headers | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = headers or []


@dataclass(frozen=True)
class ErrorResponse:
    """An error as HTTP sends it. `body` is the envelope, which is also the data of an event mid-stream.

    `plain` is whether the client is told the error's own text.
    """

    status: int
    headers: Headers
    body: bytes
    plain: bool = True


def from_http(error: HttpError) -> ErrorResponse:
    """The response to a request that reached no method."""
    body = _envelope(_object(error.status, error.message, None, error.code))
    return ErrorResponse(error.status, error.headers, body)


def from_status(status: status_pb2.Status) -> ErrorResponse:
    """The response to an RPC that ended other than OK."""
    code = _code(status)
    headers: Headers = [(b"x-should-retry", b"false")] if code in _FINAL else []
    retry = _detail(status, error_details_pb2.RetryInfo)
    if retry is not None:
        seconds = retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9
        headers.append((b"retry-after", b"%d" % max(1, math.ceil(seconds))))
    return ErrorResponse(_HTTP_STATUS[code], headers, _envelope(error_object(status)), _is_plain(status))


def error_object(status: status_pb2.Status) -> ErrorObject:
    """A google.rpc.Status as OpenAI's error object: what stands under "error" in the envelope."""
    code = _code(status)
    info = _detail(status, error_details_pb2.ErrorInfo)
    plain = _is_plain(status)
    message = status.message if plain else _PLAIN_TEXTS.get(code, _UNEXPECTED)
    reason = info.reason.lower() if info is not None and plain else ""
    bad_request = _detail(status, error_details_pb2.BadRequest)
    param = None
    if bad_request is not None and bad_request.field_violations:
        param = bad_request.field_violations[0].field or None
    return _object(_HTTP_STATUS[code], message, param, reason or code.name.lower())


def unexpected() -> ErrorResponse:
    """The response where the bridge itself failed."""
    return ErrorResponse(500, [], _envelope(_object(500, _UNEXPECTED, None, "internal")), plain=False)


def _code(status: status_pb2.Status) -> grpc.StatusCode:
    return _CODES.get(status.code, grpc.StatusCode.UNKNOWN)


def _is_plain(status: status_pb2.Status) -> bool:
    info = _detail(status, error_details_pb2.ErrorInfo)
    return (info is not None and info.domain == DOMAIN) or _HTTP_STATUS[_code(status)] < 500


def _envelope(error: ErrorObject) -> bytes:
    return orjson.dumps({"error": error})


def _object(status: int, message: str, param: str | None, code: str) -> ErrorObject:
    kind = "server_error" if status >= 500 else _TYPES.get(status, "invalid_request_error")
    # Text of a remote server, or cut out of a request, need not be what orjson takes for text.
    message = message.encode(errors="replace").decode()
    return {"message": message, "type": kind, "param": param, "code": code}


def _detail(status: status_pb2.Status, kind: type[_Detail]) -> _Detail | None:
    for packed in status.details:
        if packed.Is(kind.DESCRIPTOR):
            detail = kind()
            packed.Unpack(detail)
            return detail
    return None
