"""Converts stored jobs to the messages of protos/inferd/v1/queue.proto, and makes the errors that jobs end
with.

It reads no database.
"""

import math
import time
from typing import Any

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import status_pb2

from inferd.services.errors import ServiceError
from inferd.services.queue.queries import StoredJob
from inferd.services.queue.tables import DeliveryState, JobState
from inferd.v1 import chat_pb2
from inferd.v1 import queue_pb2 as pb

STATES = {
    JobState.QUEUED: pb.JOB_STATE_QUEUED,
    JobState.DELAYED: pb.JOB_STATE_QUEUED,
    JobState.RUNNING: pb.JOB_STATE_RUNNING,
    JobState.SUCCEEDED: pb.JOB_STATE_SUCCEEDED,
    JobState.FAILED: pb.JOB_STATE_FAILED,
    JobState.CANCELLED: pb.JOB_STATE_CANCELLED,
    JobState.EXPIRED: pb.JOB_STATE_EXPIRED,
}
_DELIVERY_STATES = {
    DeliveryState.PENDING: pb.DELIVERY_STATE_PENDING,
    DeliveryState.DELIVERED: pb.DELIVERY_STATE_DELIVERED,
    DeliveryState.FAILED: pb.DELIVERY_STATE_FAILED,
}


def job_message(found: StoredJob, *, whole: bool = True) -> pb.Job:
    """The message of a stored job. The completion is left out if `whole` is false."""
    row = found.job
    message = pb.Job(
        id=row["id"],
        create_time=timestamp(row["created"]),
        model=row["requested_model"],
        state=STATES[row["state"]],
        priority=row["priority"],
        queue_position=found.position,
        attempts=row["attempts"],
        lost_attempts=row["lost_attempts"],
        max_attempts=row["max_attempts"],
        not_before=timestamp(row["run_after"]),
        start_time=timestamp(row["started"]),
        finish_time=timestamp(row["finished"]),
        expire_time=timestamp(row["expires"]),
        purge_time=timestamp(row["purge"]),
        error=status_pb2.Status.FromString(row["error"]) if row["error"] is not None else None,
        request_id=row["request_id"],
        webhook=_delivery(found.delivery) if found.delivery is not None else None,
    )
    if row["finished"] is None:
        message.retry_after.seconds = _retry_after(found)
    if whole and found.completion is not None:
        message.completion.CopyFrom(chat_pb2.ChatCompletion.FromString(found.completion))
    return message


def _delivery(row: Any) -> pb.WebhookDelivery:
    return pb.WebhookDelivery(
        url=row.url,
        state=_DELIVERY_STATES[row.state],
        attempts=row.attempts,
        response_status=row.response_status,
        error=row.error,
        attempt_time=timestamp(row.attempted),
        next_attempt_time=timestamp(row.due) if row.state == DeliveryState.PENDING else None,
    )


def timestamp(microseconds: int | None) -> Timestamp | None:
    """A stored time, in microseconds of Unix time, as a message."""
    if microseconds is None:
        return None
    message = Timestamp()
    message.FromMicroseconds(microseconds)
    return message


def _retry_after(found: StoredJob) -> int:
    """Seconds until a client should ask again: more, the longer the job will probably wait."""
    row = found.job
    if row["state"] == JobState.DELAYED:
        wait = row["run_after"] / 1e6 - time.time()
        return max(1, min(60, math.ceil(wait)))
    return min(30, 1 + (found.position or 0) // 10)


def is_ended(found: StoredJob) -> bool:
    """Whether the job has ended."""
    return found.job["finished"] is not None


def cancelled_error() -> bytes:
    """The error of a cancelled job, a serialized google.rpc.Status."""
    return _serialized(grpc.StatusCode.CANCELLED, "JOB_CANCELLED", "the job was cancelled")


def expired_error() -> bytes:
    """The error of an expired job, a serialized google.rpc.Status."""
    return _serialized(
        grpc.StatusCode.DEADLINE_EXCEEDED,
        "JOB_EXPIRED",
        "the job had not ended when the time was up that expires_after gave it",
    )


def attempts_lost_error(most: int) -> bytes:
    """The error of a job with `most` lost attempts, a serialized google.rpc.Status."""
    return _serialized(
        grpc.StatusCode.INTERNAL,
        "ATTEMPTS_LOST",
        f"the server or the runtime went away {most} times while the job ran: it may be the cause",
    )


def _serialized(code: grpc.StatusCode, reason: str, message: str) -> bytes:
    data: bytes = ServiceError(code, reason, message).to_status().SerializeToString()
    return data
