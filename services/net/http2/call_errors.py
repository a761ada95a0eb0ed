"""The errors that the gRPC server itself gives a call, because its handler cannot run or cannot go on.

The codes are those of gRPC's doc/statuscodes.md, where it has one.
"""

import grpc

from inferd.services.errors import ServiceError
from inferd.services.net.http2.framing import FramingError, MessageTooLarge

#: Seconds after which a client may try again, if this connection has sent too much at once.
_RETRY_AFTER = 1


def method_not_found(path: str) -> ServiceError:
    return ServiceError(grpc.StatusCode.UNIMPLEMENTED, "METHOD_NOT_FOUND", f"there is no method {path!r}")


def unsupported_encoding(encoding: str) -> ServiceError:
    return ServiceError(
        grpc.StatusCode.UNIMPLEMENTED,
        "UNSUPPORTED_ENCODING",
        f"messages cannot be in the encoding {encoding!r}",
    )


def malformed_header(message: str) -> ServiceError:
    return ServiceError(grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED_HEADER", message)


def malformed_message() -> ServiceError:
    return ServiceError(
        grpc.StatusCode.INVALID_ARGUMENT,
        "MALFORMED_MESSAGE",
        "the request is no valid message of this method's type",
    )


def wrong_request_count(found: str) -> ServiceError:
    return ServiceError(
        grpc.StatusCode.UNIMPLEMENTED,
        "WRONG_REQUEST_COUNT",
        f"the method takes one request, and {found} sent",
    )


def malformed_stream(error: FramingError) -> ServiceError:
    """The error of bytes that are no gRPC messages, or of a message that is over the limit."""
    if not isinstance(error, MessageTooLarge):
        return ServiceError(grpc.StatusCode.INTERNAL, "MALFORMED_STREAM", str(error))
    metadata = {"limit": str(error.limit)}
    if error.size is not None:
        metadata["value"] = str(error.size)
    return ServiceError(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "BODY_TOO_LARGE",
        str(error),
        metadata=metadata,
        never_retry=True,
    )


def too_much_at_once(message: str) -> ServiceError:
    return ServiceError(grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED", message, retry_after=_RETRY_AFTER)


def deadline_exceeded() -> ServiceError:
    return ServiceError(
        grpc.StatusCode.DEADLINE_EXCEEDED,
        "DEADLINE_EXCEEDED",
        "the call's deadline passed before the answer was complete",
    )


def server_stopping() -> ServiceError:
    return ServiceError(grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN", "the server is stopping")


def unexpected() -> ServiceError:
    """The error of a handler that failed unexpectedly. The caller logs the exception."""
    return ServiceError(
        grpc.StatusCode.INTERNAL,
        "INTERNAL",
        "an unexpected error, which the server has logged under the request's id",
    )
