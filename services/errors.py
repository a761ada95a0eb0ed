"""The error that all services raise: a gRPC status code, a reason, a message, and the field at fault.

`to_status` converts it to the google.rpc.Status that gRPC clients receive and that the REST bridge renders.
Catches no errors: the chain around every call does.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import grpc
from google.protobuf import duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

#: The domain of the reasons (google.rpc.ErrorInfo.domain).
DOMAIN = "inferd.dev"


class ServiceError(Exception):
    """An RPC has failed with a status other than OK.

    `reason` is for programs: the name of a value of inferd.v1.ErrorReason (AIP-193). `message` is for people.
    `field` is the path of the request field at fault, as the protos name it, such as `messages[0].content`.
    `retry_after` is the time in seconds after which the same call may succeed. `metadata` has the variable
    parts of the message. `details` are further messages of google/rpc/error_details.proto. `never_retry`: the
    same call never succeeds, and gRPC's clients are told not to repeat it.
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
        details: Sequence[Message] = (),
        never_retry: bool = False,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.field = field
        self.retry_after = retry_after
        self.metadata = metadata or {}
        self.details = details
        self.never_retry = never_retry

    def to_status(self) -> status_pb2.Status:
        """The google.rpc.Status: with ErrorInfo, with BadRequest if there is a field, with RetryInfo if there
        is a time to retry, and with the further details."""
        details: list[Message] = [
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
        for detail in (*details, *self.details):
            status.details.add().Pack(detail)
        return status

    def to_grpc_status(self, request_id: str) -> "GrpcStatus":
        """The status that gRPC sends: the google.rpc.Status with RequestInfo, and the server's pushback.

        The pushback (gRFC A6) is the time in milliseconds after which clients with a retry policy repeat the
        call, if their policy repeats calls of this code at all. -1: they do not repeat the call.
        """
        status = self.to_status()
        status.details.add().Pack(error_details_pb2.RequestInfo(request_id=request_id))
        trailers: list[tuple[str, str | bytes]] = [
            ("grpc-status-details-bin", status.SerializeToString()),
        ]
        if self.never_retry:
            trailers.append(("grpc-retry-pushback-ms", "-1"))
        elif self.retry_after is not None:
            trailers.append(("grpc-retry-pushback-ms", str(round(self.retry_after * 1000))))
        return GrpcStatus(self.code, self.message, tuple(trailers))


@dataclass(frozen=True, slots=True)
class GrpcStatus(grpc.Status):
    """A status with its trailing metadata, as servers send it."""

    code: grpc.StatusCode
    details: str
    trailing_metadata: tuple[tuple[str, str | bytes], ...]


def invalid(field: str, message: str, reason: str = "INVALID_ARGUMENT", **metadata: str) -> ServiceError:
    """INVALID_ARGUMENT: the request is at fault, in the field `field`."""
    return ServiceError(grpc.StatusCode.INVALID_ARGUMENT, reason, message, field=field, metadata=metadata)


def missing(*fields: str) -> ServiceError:
    """INVALID_ARGUMENT: the request sets none of these fields. The error names the first one."""
    return invalid(fields[0], f"{' or '.join(fields)} is required", "REQUIRED_FIELD_MISSING")


def resource(kind: str, name: str, description: str) -> error_details_pb2.ResourceInfo:
    """The detail of an error about a resource. `kind` is its message type, such as "Job"."""
    return error_details_pb2.ResourceInfo(
        resource_type=f"inferd.v1.{kind}", resource_name=name, description=description
    )


def quota(subject: str, description: str) -> error_details_pb2.QuotaFailure:
    """The detail of an error about a limit that is used up. `subject` is what the limit holds for."""
    violation = error_details_pb2.QuotaFailure.Violation(subject=subject, description=description)
    return error_details_pb2.QuotaFailure(violations=[violation])


@contextmanager
def errors_within(field: str) -> Iterator[None]:
    """Puts `field` before the field that an error names, because the request is a part of another one."""
    try:
        yield
    except ServiceError as error:
        if error.field is not None:
            error.field = f"{field}.{error.field}"
        raise
