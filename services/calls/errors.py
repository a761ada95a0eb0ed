"""The one mapping of exceptions to errors and statuses, for all calls."""

import logging

import grpc

from inferd.services.errors import ServiceError
from inferd.services.net.http2.call_errors import deadline_exceeded, unexpected

log = logging.getLogger("inferd.rpc")


def service_error(raised: Exception, request_id: str) -> ServiceError:
    """The error that a call ends with. An unexpected exception is logged, and its text goes to nobody."""
    if isinstance(raised, ServiceError):
        return raised
    if isinstance(raised, TimeoutError):
        return deadline_exceeded()
    log.error("unexpected error; request id %s", request_id, exc_info=raised)
    return unexpected()


def status_with_request_id(error: ServiceError, request_id: str) -> grpc.Status:
    """The status that gRPC sends for the call of this id. Logs it."""
    log.debug("%s %s; request id %s", error.code.name, error.reason, request_id)
    return error.to_grpc_status(request_id)
