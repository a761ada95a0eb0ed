"""Ends jobs: by the result of their run, by cancellation, by expiry or by deletion. An ended job never runs
again.

This module stops no run. The process that runs the job sees that the job is no longer in `claims.held_runs`.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import sqlalchemy as sa
from google.rpc import error_details_pb2

from inferd.services.errors import ServiceError, resource
from inferd.services.queue.database import Transaction
from inferd.services.queue.job_id import Run
from inferd.services.queue.stored_chunks import store_chunks
from inferd.services.queue.tables import (
    IS_RUNNING,
    IS_UNENDED,
    D,
    DeliveryState,
    J,
    JobState,
    chunks,
    completions,
    deliveries,
    jobs,
    requests,
)


@dataclass(frozen=True, slots=True)
class RunEnded:
    """The run has ended its job, with a serialized `completion` (inferd.v1.ChatCompletion) or a serialized
    `error` (google.rpc.Status).

    `chunks` are those that watchers in other processes still need, each with its number.
    """

    run: Run
    completion: bytes | None
    error: bytes | None
    chunks: Sequence[tuple[int, bytes]] = ()


@dataclass(frozen=True, slots=True)
class RunRequeued:
    """The run has failed, and its job is queued again, to start after `delay` microseconds.

    `counted`: the run counts as an attempt. `lost`: it counts as a lost attempt. Neither: it does not count.
    """

    run: Run
    delay: int
    error: bytes | None
    counted: bool = False
    lost: bool = False


_IS_RUN = (
    IS_RUNNING,
    J.seq == sa.bindparam("of_seq"),
    J.worker == sa.bindparam("of_worker"),
    J.runs == sa.bindparam("of_run"),
)
_END_RUN = (
    jobs.update()
    .where(*_IS_RUN)
    .values(
        state=sa.bindparam("to_state"),
        finished=sa.bindparam("now"),
        purge=sa.bindparam("purge_at"),
        error=sa.bindparam("to_error"),
        worker=None,
        lease=None,
    )
)
_RETURN_RUN = (
    jobs.update()
    .where(*_IS_RUN)
    .values(
        state=sa.bindparam("to_state"),
        run_after=sa.func.coalesce(sa.bindparam("to_run_after", type_=sa.BigInteger), J.run_after),
        error=sa.func.coalesce(sa.bindparam("to_error", type_=sa.LargeBinary), J.error),
        attempts=J.attempts - sa.bindparam("uncounted"),
        lost_attempts=J.lost_attempts + sa.bindparam("lost"),
        worker=None,
        lease=None,
        watched=False,
    )
)
_INSERT_COMPLETION = completions.insert()
_SCHEDULE_WEBHOOKS = (
    deliveries.update()
    .where(D.seq.in_(sa.bindparam("seqs", expanding=True)), D.state == DeliveryState.PENDING, D.due.is_(None))
    .values(due=sa.bindparam("now"))
)


def end_runs(transaction: Transaction, runs: Sequence[RunEnded | RunRequeued], ttl: int) -> list[bool]:
    """Write how these runs ended. Ended jobs are purged `ttl` microseconds later.

    Returns for each run whether it still held its job. If not, nothing was written for it.
    """
    written = [
        _end_run(transaction, run, ttl) if isinstance(run, RunEnded) else _return_run(transaction, run)
        for run in runs
    ]
    ended = [
        item.run.seq for item, own in zip(runs, written, strict=True) if own and isinstance(item, RunEnded)
    ]
    _schedule_webhooks(transaction, ended)
    transaction.announce()
    return written


def _schedule_webhooks(transaction: Transaction, seqs: Collection[int]) -> None:
    """Make the webhooks of these jobs due, for those jobs that have one."""
    if seqs:
        transaction.execute(_SCHEDULE_WEBHOOKS, {"seqs": list(seqs), "now": transaction.now})


def _end_run(transaction: Transaction, ended: RunEnded, ttl: int) -> bool:
    own = transaction.execute(
        _END_RUN,
        {
            **_fence(ended.run),
            "to_state": JobState.FAILED if ended.completion is None else JobState.SUCCEEDED,
            "now": transaction.now,
            "purge_at": transaction.now + ttl,
            "to_error": ended.error,
        },
    )
    if not own.rowcount:
        return False
    if ended.completion is not None:
        transaction.execute(_INSERT_COMPLETION, {"seq": ended.run.seq, "completion": ended.completion})
    store_chunks(transaction, ended.run, ended.chunks)
    return True


def _return_run(transaction: Transaction, returned: RunRequeued) -> bool:
    own = transaction.execute(
        _RETURN_RUN,
        {
            **_fence(returned.run),
            "to_state": JobState.DELAYED if returned.delay else JobState.QUEUED,
            "to_run_after": transaction.now + returned.delay if returned.delay else None,
            "to_error": returned.error,
            "uncounted": int(not returned.counted),
            "lost": int(returned.lost),
        },
    )
    return bool(own.rowcount)


def _fence(run: Run) -> dict[str, Any]:
    """The parameters of `_IS_RUN`: a write counts only while the job is still this run's."""
    return {"of_seq": run.seq, "of_worker": run.worker, "of_run": run.number}


_FIND = sa.select(jobs).where(J.seq == sa.bindparam("of_seq"), J.id == sa.bindparam("of_id"))
_END = (
    jobs.update()
    .where(IS_UNENDED, J.seq.in_(sa.bindparam("seqs", expanding=True)))
    .values(
        state=sa.bindparam("to_state"),
        finished=sa.bindparam("now"),
        purge=sa.bindparam("purge_at"),
        error=sa.bindparam("to_error"),
        worker=None,
        lease=None,
    )
    .returning(J.seq)
)


def end_jobs(
    transaction: Transaction, seqs: Collection[int], state: str, error: bytes, ttl: int
) -> list[int]:
    """End those of the jobs that have not ended yet, and purge them `ttl` microseconds later.

    Returns the numbers of the jobs that were ended.
    """
    if not seqs:
        return []
    ended = transaction.execute(
        _END,
        {
            "seqs": list(seqs),
            "to_state": state,
            "now": transaction.now,
            "purge_at": transaction.now + ttl,
            "to_error": error,
        },
    )
    numbers = [row.seq for row in ended]
    _schedule_webhooks(transaction, numbers)
    if numbers:
        transaction.announce()
    return numbers


def cancel(transaction: Transaction, seq: int, job_id: str, error: bytes, ttl: int) -> None:
    """Cancel a job. Raises ServiceError NOT_FOUND, and FAILED_PRECONDITION if the job has ended already."""
    job = transaction.one(_FIND, of_seq=seq, of_id=job_id)
    if job is None:
        raise not_found(job_id)
    if not end_jobs(transaction, [seq], JobState.CANCELLED, error, ttl):
        # On PostgreSQL another transaction may have ended or deleted the job since it was read.
        job = transaction.one(_FIND, of_seq=seq, of_id=job_id)
        if job is None:
            raise not_found(job_id)
        message = f"the job has ended: it is {job.state}"
        violation = error_details_pb2.PreconditionFailure.Violation(
            type="JOB_STATE", subject=job_id, description=message
        )
        raise ServiceError(
            grpc.StatusCode.FAILED_PRECONDITION,
            "JOB_ENDED",
            message,
            field="id",
            metadata={"id": job_id, "state": job.state},
            details=[error_details_pb2.PreconditionFailure(violations=[violation])],
        )


_SEQS: sa.BindParameter[list[int]] = sa.bindparam("seqs", expanding=True)
# The row in jobs comes first, as in all other transactions. Another order could deadlock.
_DELETIONS = [
    table.delete().where(table.c.seq.in_(_SEQS))
    for table in (jobs, requests, completions, chunks, deliveries)
]


def delete(transaction: Transaction, seq: int, job_id: str) -> None:
    """Delete a job in any state. Raises ServiceError NOT_FOUND."""
    if transaction.one(_FIND, of_seq=seq, of_id=job_id) is None:
        raise not_found(job_id)
    delete_rows(transaction, [seq])
    transaction.announce()


def delete_rows(transaction: Transaction, seqs: Sequence[int]) -> None:
    """Delete all rows of these jobs from all tables."""
    for deletion in _DELETIONS:
        transaction.execute(deletion, {"seqs": seqs})


def not_found(job_id: str) -> ServiceError:
    """The error NOT_FOUND: the job never existed, or was deleted."""
    message = f"there is no job {job_id!r}: it was never queued, was deleted, or its time was over"
    return ServiceError(
        grpc.StatusCode.NOT_FOUND,
        "JOB_NOT_FOUND",
        message,
        field="id",
        metadata={"id": job_id},
        details=[resource("Job", job_id, message)],
    )
