"""The one error that services raise: a canonical code, a reason, a message, and the field at fault.

It is mapped to the wire once, at the edge: `to_status` gives the google.rpc.Status that gRPC clients
receive and that the REST bridge renders.
"""

from collections.abc import Mapping

import grpc
from google.protobuf import any_pb2, duration_pb2, message
from google.rpc import error_details_pb2, status_pb2

DOMAIN = "inferd"


class ServiceError(Exception):
    """An RPC's end other than OK.

    `reason` is UPPER_SNAKE (AIP-193) and what programs act on; `message` is for people. `field` is the
    path of the request field at fault, such as `messages[0].content`. `retry_after` is in seconds: when
    the same call may do better. `metadata` repeats the message's variable parts.
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
        """google.rpc.Status with ErrorInfo, and BadRequest and RetryInfo where they apply."""
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
    """INVALID_ARGUMENT: the request itself is at fault, in `field`."""
    return ServiceError(grpc.StatusCode.INVALID_ARGUMENT, reason, message, field=field, metadata=metadata)


def missing(*fields: str) -> ServiceError:
    """INVALID_ARGUMENT: the request sets none of these fields. The error names the first one."""
    return invalid(fields[0], f"{' or '.join(fields)} is required", "REQUIRED_FIELD_MISSING")
