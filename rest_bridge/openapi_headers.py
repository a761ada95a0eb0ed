"""The headers of OpenAPI operations: parameters of requests, and headers of responses.

Only describes headers: `request_headers`, `response` and `errors` read and send them.
"""

from collections.abc import Iterable, Mapping
from typing import Any

Json = dict[str, Any]

#: Parameters of all operations that call an RPC, by the names of their components.
PARAMETERS: Mapping[str, Json] = {
    "RequestTimeout": {
        "name": "x-request-timeout",
        "in": "header",
        "description": "Seconds that the call may take. If the time has passed, the work is cancelled and the"
        " status is 504. Default: the server's limit.",
        "schema": {"type": "number", "format": "double", "minimum": 0, "maximum": 999999999},
    },
    "GrpcTimeout": {
        "name": "grpc-timeout",
        "in": "header",
        "description": "The same timeout in the form of gRPC over HTTP/2: up to 8 digits, and a unit (hours,"
        " minutes, seconds, milli-, micro- or nanoseconds). This header wins over `x-request-timeout`.",
        "schema": {"type": "string", "pattern": "^[0-9]{1,8}[HMSmun]$"},
    },
    "RequestId": {
        "name": "x-request-id",
        "in": "header",
        "description": "Id of the request, which the response repeats. An id that is not 1 to 128 characters"
        " of printable ASCII is replaced by a random one.",
        "schema": {"type": "string", "maxLength": 128},
    },
}
#: The parameter of operations whose request has a field `request_id` (AIP-155).
IDEMPOTENCY_KEY = "IdempotencyKey"
_IDEMPOTENCY_KEY: Json = {
    "name": "idempotency-key",
    "in": "header",
    "description": "Sets `request_id`, if the body does not. After a lost answer, the same request with the"
    " same key returns the first request's result.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]([ -~]*[!-~])?$"},
}
ALL_PARAMETERS: Mapping[str, Json] = {**PARAMETERS, IDEMPOTENCY_KEY: _IDEMPOTENCY_KEY}

#: Headers of responses.
HEADERS: Mapping[str, Json] = {
    "x-request-id": {
        "description": "Id of the request: the request's own `x-request-id`, or a random one.",
        "schema": {"type": "string"},
    },
    "x-should-retry": {
        "description": "`false` if the same request would get the same answer again. OpenAI's SDKs heed this"
        " header. Absent if a second attempt may succeed.",
        "schema": {"type": "string", "enum": ["false"]},
    },
    "retry-after": {
        "description": "Seconds after which the same request may succeed.",
        "schema": {"type": "integer", "minimum": 1},
    },
    "x-inferd-ignored": {
        "description": "Names of the request's members that had no effect, separated by commas. Absent if"
        " there are none.",
        "schema": {"type": "string"},
    },
    "x-inferd-job": {"description": "Id of the job.", "schema": {"type": "string"}},
}
_METADATA = ("x-inferd-ignored", "x-inferd-job")


def metadata_of(comments: Iterable[str]) -> list[str]:
    """The headers with an RPC's initial metadata which the comments of its protos name."""
    text = "\n".join(comments)
    return [name for name in _METADATA if name in text]


def header_reference(name: str) -> Json:
    """A reference to a header of `HEADERS`."""
    return {"$ref": f"#/components/headers/{name}"}


def parameter_reference(name: str) -> Json:
    """A reference to a parameter of `ALL_PARAMETERS`."""
    return {"$ref": f"#/components/parameters/{name}"}
