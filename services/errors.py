"""The error that all services raise: a gRPC status code, a reason, a message, and the field at fault.

`to_status` converts it to the google.rpc.Status that gRPC clients receive and that the REST bridge renders.
Catches no errors: the chain around every call does.
"""

from collections.abc import Mapping

import grpc
from google.protobuf import any_pb2, duration_pb2, message
from google.rpc import error_details_pb2, status_pb2

DOMAIN = "inferd"


class ServiceError(Exception):
    """An RPC has failed with a status other than OK.

    `reason` is for programs, in UPPER_SNAKE_CASE (AIP-193). `message` is for people. `field` is the path of
    the request field at fault, such as `messages[0].content`. `retry_after` is the time in seconds after
    which the same call may succeed. `metadata` has the variable parts of the message (AIP-193).
    """

    def __init__(
        self,
        code: grpc.StatusCode,
        reason: str,
        message: str,
        *,
        field: str | None = None,
        retry_after: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.field = field
        self.retry_after = retry_after
        self.metadata = metadata or {}

    def to_status(self) -> status_pb2.Status:
        """The google.rpc.Status: with ErrorInfo, with BadRequest if there is a field, and with RetryInfo if
        there is a time to retry."""
        details: list[message.Message] = [
            error_details_pb2.ErrorInfo(reason=self.reason, domain=DOMAIN, metadata=dict(self.metadata))
        ]
        if self.field is not None:
            violation = error_details_pb2.BadRequest.FieldViolation(
                field=self.field, description=self.message, reason=self.reason
            )
            details.append(error_details_pb2.BadRequest(field_violations=[violation]))
        if self.retry_after is not None:
            delay = duration_pb2.Duration()
            delay.FromMilliseconds(round(self.retry_after * 1000))
            details.append(error_details_pb2.RetryInfo(retry_delay=delay))
        status = status_pb2.Status(code=self.code.value[0], message=self.message)
        for detail in details:
            packed = any_pb2.Any()
            packed.Pack(detail)
            status.details.append(packed)
        return status


def invalid(field: str, message: str, reason: str = "INVALID_ARGUMENT", **metadata: str) -> ServiceError:
    """INVALID_ARGUMENT: the request is at fault, in the field `field`."""
    return ServiceError(grpc.StatusCode.INVALID_ARGUMENT, reason, message, field=field, metadata=metadata)


def missing(*fields: str) -> ServiceError:
    """INVALID_ARGUMENT: the request sets none of these fields. The error names the first one."""
    return invalid(fields[0], f"{' or '.join(fields)} is required", "REQUIRED_FIELD_MISSING")
