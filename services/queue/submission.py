"""Stores new jobs: applies the queue's limits, recognizes repeated request ids, and gives each job its
number.

The caller has validated the requests (`servicer`); they run as they are stored.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import sqlalchemy as sa

from inferd.services.errors import ServiceError, invalid, quota, resource
from inferd.services.queue.database import Transaction
from inferd.services.queue.job_id import new_job_id
from inferd.services.queue.tables import (
    IS_QUEUED,
    IS_WAITING,
    DeliveryState,
    J,
    JobState,
    deliveries,
    jobs,
    requests,
)

#: The lock of submissions. One transaction at a time gives out numbers, so that numbers are committed in
#: order.
SUBMISSION_LOCK = 1

_GREATEST = sa.select(sa.func.max(J.seq))
_WAITING = sa.select(J.caller, sa.func.count()).where(IS_WAITING).group_by(J.caller)
_AHEAD = sa.select(sa.func.count()).where(
    IS_QUEUED, J.model == sa.bindparam("model"), J.priority >= sa.bindparam("priority")
)
_KNOWN = sa.select(jobs).where(
    J.request_id.in_(sa.bindparam("request_ids", expanding=True)), J.request_id.is_not(None)
)


@dataclass(frozen=True, slots=True)
class Submission:
    """A validated request to queue a job.

    `run_after` is in microseconds of Unix time, `expires_after` in microseconds from now. `digest` is a hash
    of the request, to compare it with an earlier request of the same `request_id`.
    """

    caller: str
    request_id: str | None
    digest: bytes
    model: str
    requested_model: str
    request: bytes
    priority: int
    run_after: int | None
    expires_after: int | None
    max_attempts: int
    webhook_url: str | None
    webhook_secret: str | None


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """How many jobs may wait, in total and for one caller."""

    total: int
    per_caller: int


@dataclass(frozen=True, slots=True)
class Submitted:
    """A submitted job as its row (a mapping). `position` is None if an earlier request had queued the job."""

    job: Any
    new: bool
    position: int | None = None


def submit(
    transaction: Transaction, submissions: Sequence[Submission], caps: QueueLimits
) -> list[Submitted | ServiceError]:
    """Store jobs. Returns a job or an error for each submission, in order."""
    transaction.lock(SUBMISSION_LOCK)
    known = _known(transaction, submissions)
    waiting: Counter[str] = Counter(dict(transaction.rows(_WAITING)))
    total = waiting.total()
    seq = max(transaction.scalar(_GREATEST) or 0, transaction.now - 1)
    results: list[Submitted | ServiceError] = []
    new: list[tuple[dict[str, Any], Submission]] = []
    for submission in submissions:
        key = (submission.caller, submission.request_id)
        if submission.request_id is not None and key in known:
            results.append(_repeated(known[key], submission))
        elif _never_starts(submission, transaction.now):
            results.append(
                invalid(
                    "not_before",
                    "not_before is later than the end of expires_after, so the job could never start",
                    "OUT_OF_RANGE",
                )
            )
        elif total >= caps.total:
            results.append(_full("the queue holds", caps.total))
        elif waiting[submission.caller] >= caps.per_caller:
            results.append(_full("the queue holds, of this caller,", caps.per_caller))
        else:
            total += 1
            waiting[submission.caller] += 1
            seq += 1
            row = _row(submission, seq, transaction.now)
            new.append((row, submission))
            known[key] = row
            results.append(Submitted(row, new=True))
    if new:
        _insert(transaction, new)
        transaction.announce()
    return _with_positions(transaction, results)


def _known(transaction: Transaction, submissions: Sequence[Submission]) -> dict[tuple[str, str | None], Any]:
    """Jobs that were queued before with the same caller and request id, by both."""
    request_ids = [item.request_id for item in submissions if item.request_id is not None]
    if not request_ids:
        return {}
    # This finds the ids of other callers, too, because SQLite cannot search by pairs.
    found = transaction.execute(_KNOWN, {"request_ids": request_ids}).mappings()
    return {(row["caller"], row["request_id"]): dict(row) for row in found}


def _repeated(job: Any, submission: Submission) -> Submitted | ServiceError:
    if job["digest"] == submission.digest:
        return Submitted(job, new=False)
    return ServiceError(
        grpc.StatusCode.ALREADY_EXISTS,
        "REQUEST_ID_REUSED",
        "this request_id (or Idempotency-Key) was used for another request before",
        field="request_id",
        metadata={"id": job["id"]},
        details=[resource("Job", job["id"], "the job of the earlier request")],
    )


def _never_starts(submission: Submission, now: int) -> bool:
    """Whether the job would expire before it may start."""
    if submission.run_after is None or submission.expires_after is None:
        return False
    return submission.run_after >= now + submission.expires_after


def _full(holder: str, cap: int) -> ServiceError:
    message = f"{holder} {cap} jobs that wait, which is its limit"
    return ServiceError(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "QUEUE_FULL",
        message,
        retry_after=5,
        metadata={"limit": str(cap)},
        details=[quota("queue", message)],
    )


def _row(submission: Submission, seq: int, now: int) -> dict[str, Any]:
    later = submission.run_after is not None and submission.run_after > now
    return {
        "seq": seq,
        "id": new_job_id(seq),
        "caller": submission.caller,
        "request_id": submission.request_id,
        "digest": submission.digest,
        "model": submission.model,
        "requested_model": submission.requested_model,
        "priority": submission.priority,
        "state": JobState.DELAYED if later else JobState.QUEUED,
        "attempts": 0,
        "lost_attempts": 0,
        "max_attempts": submission.max_attempts,
        "runs": 0,
        "worker": None,
        "lease": None,
        "watched": False,
        "created": now,
        "run_after": submission.run_after,
        "started": None,
        "finished": None,
        "expires": None if submission.expires_after is None else now + submission.expires_after,
        "purge": None,
        "error": None,
        "webhook": submission.webhook_url is not None,
    }


_INSERT_JOBS = jobs.insert()
_INSERT_REQUESTS = requests.insert()
_INSERT_DELIVERIES = deliveries.insert()


def _insert(transaction: Transaction, new: Sequence[tuple[dict[str, Any], Submission]]) -> None:
    transaction.execute(_INSERT_JOBS, [row for row, _ in new])
    transaction.execute(
        _INSERT_REQUESTS, [{"seq": row["seq"], "request": submission.request} for row, submission in new]
    )
    hooks = [
        {
            "seq": row["seq"],
            "url": submission.webhook_url,
            "secret": submission.webhook_secret,
            "state": DeliveryState.PENDING,
            "attempts": 0,
        }
        for row, submission in new
        if submission.webhook_url is not None
    ]
    if hooks:
        transaction.execute(_INSERT_DELIVERIES, hooks)


def _with_positions(
    transaction: Transaction, results: list[Submitted | ServiceError]
) -> list[Submitted | ServiceError]:
    """Add the positions of the new jobs, with one query for each model and priority."""
    ahead: dict[tuple[str, int], int] = {}
    for index in reversed(range(len(results))):
        result = results[index]
        if not isinstance(result, Submitted) or not result.new:
            continue
        key = result.job["model"], result.job["priority"]
        if key not in ahead:
            ahead[key] = transaction.scalar(_AHEAD, model=key[0], priority=key[1])
        # A delayed job has a position, but is not counted in the positions of other jobs.
        queued = result.job["state"] == JobState.QUEUED
        results[index] = Submitted(result.job, new=True, position=ahead[key] + (not queued))
        ahead[key] -= queued
    return results
