"""Texts about jobs and errors for the terminal of `inferd queue`. It prints nothing.

Texts of the server are untrusted: `clean` and `one_line` remove their control characters.
"""

import re
from datetime import UTC, datetime
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from inferd.v1 import queue_pb2, sampling_pb2

_UNENDED = (queue_pb2.JOB_STATE_QUEUED, queue_pb2.JOB_STATE_RUNNING)
#: C0 without tab and newline, DEL, and C1.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_CODES = {code.value[0]: code.name.lower().replace("_", " ") for code in grpc.StatusCode}


def clean(text: str) -> str:
    """`text` without control characters, but with newlines and tabs."""
    return _CONTROL.sub("", text)


def is_unreachable(error: grpc.RpcError) -> bool:
    """Whether the server could not be reached: UNAVAILABLE, but without the server's google.rpc.Status."""
    return error.code() is grpc.StatusCode.UNAVAILABLE and _status(error) is None


def describe_rpc_error(error: grpc.RpcError, target: str | None = None) -> str:
    """An error of a call in one line. If `target` is given, it is named when it cannot be reached."""
    if target is not None and is_unreachable(error):
        return f"{target} does not answer: {error.details()}. Is `inferd serve` running there?"
    return f"{_CODES[error.code().value[0]]}: {_violations(error) or error.details() or 'no message'}"


def is_ended(job: queue_pb2.Job) -> bool:
    """Whether the job has ended. A state that this program does not know counts as an end."""
    return job.state not in _UNENDED


def state_name(job: queue_pb2.Job) -> str:
    """The state, such as "queued"; its number if this program does not know the state."""
    if job.state not in queue_pb2.JobState.values():
        return str(job.state)
    return queue_pb2.JobState.Name(job.state).removeprefix("JOB_STATE_").lower()


def one_line(text: str) -> str:
    """`text` in one line, without control characters."""
    return " ".join(clean(text).split())


def _status(error: grpc.RpcError) -> status_pb2.Status | None:
    """The google.rpc.Status of an error; None if it has no valid one."""
    try:
        return rpc_status.from_call(error)
    except (ValueError, DecodeError):
        return None


def _violations(error: grpc.RpcError) -> str:
    """The field violations of the error's google.rpc.BadRequest, in one line; empty if it has none."""
    found = []
    status = _status(error)
    for detail in status.details if status else ():
        bad = error_details_pb2.BadRequest()
        if detail.Unpack(bad):
            for violation in bad.field_violations:
                named = violation.field in violation.description
                found.append(
                    violation.description if named else f"{violation.field}: {violation.description}"
                )
    return "; ".join(found)


def webhook_text(delivery: queue_pb2.WebhookDelivery) -> str:
    """The URL of a webhook, and how far its delivery has come."""
    parts = [f"{delivery.url}", _enum(queue_pb2.DeliveryState, delivery.state, "DELIVERY_STATE_")]
    if delivery.attempts:
        parts.append(f"tried {delivery.attempts} times" if delivery.attempts > 1 else "tried once")
    if delivery.HasField("response_status"):
        parts.append(f"HTTP {delivery.response_status}")
    if delivery.HasField("error"):
        parts.append(delivery.error)
    return ", ".join(parts)


def progress_line(job: queue_pb2.Job) -> str:
    """The state of a job, its position and its last error, in one line."""
    text = state_name(job)
    if job.HasField("queue_position"):
        text += f", position {job.queue_position}"
    if job.HasField("not_before") and job.state == queue_pb2.JOB_STATE_QUEUED:
        text += f", not before {local_time(job.not_before):%H:%M:%S}"
    if job.HasField("error"):
        text += f", after {error_text(job.error)}"
    return one_line(text)


def error_text(error: status_pb2.Status) -> str:
    """The message and the code of an error."""
    return f"{error.message or 'no message'} ({_CODES.get(error.code, error.code)})"


def finish_reason(reason: int) -> str:
    """A finish reason, such as "stop"."""
    return _enum(sampling_pb2.FinishReason, reason, "FINISH_REASON_")


def _enum(kind: Any, value: int, prefix: str) -> str:
    """The name of an enum value in lower case without `prefix`; the number if it is not known."""
    return kind.Name(value).removeprefix(prefix).lower() if value in kind.values() else str(value)


def usage_text(job: queue_pb2.Job) -> str:
    """The numbers of tokens of a job's prompt and answers."""
    usage = job.completion.usage
    return f"{usage.prompt_tokens} tokens read, {usage.completion_tokens} generated"


def local_time(time: Any) -> datetime:
    """A google.protobuf.Timestamp in the local time zone."""
    return time.ToDatetime(tzinfo=UTC).astimezone()


def time_since(time: Any) -> str:
    """The time that has passed since a google.protobuf.Timestamp, such as 34s."""
    return _span(datetime.now(UTC).timestamp() - time.ToNanoseconds() / 1e9)


def duration(job: queue_pb2.Job) -> str:
    """The duration of the latest attempt; "-" if there is none."""
    if not job.HasField("start_time"):
        return "-"
    if not job.HasField("finish_time"):
        return time_since(job.start_time) if job.state == queue_pb2.JOB_STATE_RUNNING else "-"
    return _span((job.finish_time.ToNanoseconds() - job.start_time.ToNanoseconds()) / 1e9)


def _span(seconds: float) -> str:
    """A duration, such as 3.4s, 34s, 5m12s, 2h05m or 3d4h."""
    seconds = max(0.0, seconds)
    if seconds < 9.95:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes == 0:
        return f"{rest}s"
    if minutes < 60:
        return f"{minutes}m{rest:02}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m" if hours < 24 else f"{hours // 24}d{hours % 24}h"
