"""The one mapping of exceptions to errors and statuses, for all calls."""

import logging

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from inferd.services.errors import ServiceError

log = logging.getLogger("inferd.rpc")


def service_error(raised: Exception, request_id: str) -> ServiceError:
    """The error that a call ends with. An unexpected exception is logged, and its text goes to nobody."""
    if isinstance(raised, ServiceError):
        return raised
    if isinstance(raised, TimeoutError):
        return ServiceError(
            grpc.StatusCode.DEADLINE_EXCEEDED,
            "DEADLINE_EXCEEDED",
            "the call's deadline passed before the answer was complete",
        )
    log.error("unexpected error; request id %s", request_id, exc_info=raised)
    return ServiceError(
        grpc.StatusCode.INTERNAL,
        "INTERNAL",
        "an unexpected error, which the server has logged under the request's id",
    )


def status_with_request_id(error: ServiceError, request_id: str) -> grpc.Status:
    """The status that gRPC sends: the error's google.rpc.Status, and the call's id as RequestInfo."""
    log.debug("%s %s; request id %s", error.code.name, error.reason, request_id)
    status = error.to_status()
    detail = AnyMessage()
    detail.Pack(error_details_pb2.RequestInfo(request_id=request_id))
    status.details.append(detail)
    return rpc_status.to_status(status)
