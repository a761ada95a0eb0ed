"""Errors as HTTP responses: google.rpc.Status and the bridge's own errors. Their JSON is OpenAI's,

    {"error": {"message": …, "type": …, "param": …, "code": …}}

unless the dialect of the method has another one (`dialects`). If the error has variable parts such as a
limit, OpenAI's error object also has these, as "metadata".

A server error (5xx) that inferd's services did not raise keeps its code, but not its message, which may tell
about the server's internals. Does not log errors.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from inferd.options.v1 import options_pb2
from inferd.rest_bridge.dialects import OPENAI_ERRORS, ErrorForm
from inferd.services.errors import DOMAIN
from inferd.v1 import error_reason_pb2

Headers = list[tuple[bytes, bytes]]
ErrorObject = dict[str, Any]
#: Spells the path of a request field, such as `request.messages[0].role`, as it is in the request's JSON.
FieldSpeller = Callable[[str], str]

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

# protobuf's stubs and its generated code disagree on the type of an extension.
_CODE: Any = options_pb2.code
_STATUS: Any = options_pb2.http_status
#: By reason: the HTTP status, for reasons that have another one than their gRPC code.
_STATUS_OF_REASON: Mapping[str, int] = {
    value.name: value.GetOptions().Extensions[_STATUS]
    for value in error_reason_pb2.ErrorReason.DESCRIPTOR.values
    if value.GetOptions().HasExtension(_STATUS)
}

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
    """The HTTP response of an error. `body` is its JSON document, and `event` its event in a stream.

    `keeps_message` is false if a general message replaces the error's own one.
    """

    status: int
    headers: Headers
    body: bytes
    event: bytes
    keeps_message: bool = True


def from_http(error: HttpError, form: ErrorForm = OPENAI_ERRORS, request_id: str = "") -> ErrorResponse:
    """The response to a request that called no RPC."""
    kind = form.kind_of(error.code.upper(), None)
    code = next((code for code, status in _HTTP_STATUS.items() if status == error.status), None)
    made = _object(error.status, error.message, None, error.code)
    made["type"] = kind.type or form.kind_of("", code).type or made["type"]
    return _response(form, request_id, made, kind.status or error.status, error.headers)


def status_of(reason: str) -> int:
    """The HTTP status of a value of inferd.v1.ErrorReason. Raises KeyError if there is no such value."""
    value = error_reason_pb2.ErrorReason.DESCRIPTOR.values_by_name[reason]
    return _STATUS_OF_REASON.get(reason, _HTTP_STATUS[_CODES[value.GetOptions().Extensions[_CODE]]])


def from_status(
    status: status_pb2.Status,
    spell: FieldSpeller = str,
    form: ErrorForm = OPENAI_ERRORS,
    request_id: str = "",
) -> ErrorResponse:
    """The response for an RPC that ended with another code than OK.

    `spell` spells the paths of the request's fields.
    """
    code = _code(status)
    headers: Headers = [(b"x-should-retry", b"false")] if code in _NOT_RETRIED else []
    retry = _detail(status, error_details_pb2.RetryInfo)
    if retry is not None:
        seconds = retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9
        headers.append((b"retry-after", b"%d" % max(1, math.ceil(seconds))))
    error = error_object(status, spell)
    kind = form.kind_of(error["code"].upper(), code)
    error["type"] = kind.type or error["type"]
    http_status = kind.status or _http_status(status)
    return _response(form, request_id, error, http_status, headers, _keeps_message(status))


def error_object(status: status_pb2.Status, spell: FieldSpeller = str) -> ErrorObject:
    """A google.rpc.Status as OpenAI's error object, which is the value of "error" in a response.

    `spell` spells the paths of the request's fields.
    """
    code = _code(status)
    info = _detail(status, error_details_pb2.ErrorInfo)
    keeps_message = _keeps_message(status)
    message = status.message if keeps_message else _MESSAGES.get(code, _UNEXPECTED)
    reason = info.reason.lower() if info is not None and keeps_message else ""
    bad_request = _detail(status, error_details_pb2.BadRequest)
    param = None
    if bad_request is not None and bad_request.field_violations:
        field = bad_request.field_violations[0].field
        param = spell(field) or None
        if param != field:
            message = re.sub(
                rf"(?<![\w.]){re.escape(field)}(?!\w)", lambda _: param or "the request", message
            )
    error = _object(_http_status(status), message, param, reason or code.name.lower())
    if reason and info is not None and info.metadata:
        error["metadata"] = dict(info.metadata)
    return error


def unexpected(form: ErrorForm = OPENAI_ERRORS, request_id: str = "") -> ErrorResponse:
    """The response if the bridge itself failed."""
    made = from_http(HttpError(500, "internal", _UNEXPECTED), form, request_id)
    return replace(made, keeps_message=False)


def _http_status(status: status_pb2.Status) -> int:
    info = _detail(status, error_details_pb2.ErrorInfo)
    if info is not None and info.domain == DOMAIN and info.reason in _STATUS_OF_REASON:
        return _STATUS_OF_REASON[info.reason]
    return _HTTP_STATUS[_code(status)]


def _code(status: status_pb2.Status) -> grpc.StatusCode:
    return _CODES.get(status.code, grpc.StatusCode.UNKNOWN)


def _keeps_message(status: status_pb2.Status) -> bool:
    info = _detail(status, error_details_pb2.ErrorInfo)
    return (info is not None and info.domain == DOMAIN) or _HTTP_STATUS[_code(status)] < 500


def _response(
    form: ErrorForm,
    request_id: str,
    error: ErrorObject,
    status: int,
    headers: Headers,
    keeps_message: bool = True,
) -> ErrorResponse:
    parts = {**error, "error": error, "request_id": request_id}
    return ErrorResponse(status, headers, form.body(parts), form.last_event(parts), keeps_message)


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
