"""How jobs end: by their run, by cancel, by deletion, or because their time is up. Each end is final.

What runs notices by its missing row: see `claims.held`.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import sqlalchemy as sa
from inferd.services.errors import ServiceError
from inferd.services.queue.database import Transaction
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
class Run:
    """One run of a job, by which its writes are fenced: they count only while the job is this run's."""

    seq: int
    number: int
    worker: str


@dataclass(frozen=True, slots=True)
class RunEnded:
    """A run came to its end: `completion` (inferd.v1.ChatCompletion) or `error` (google.rpc.Status),
    serialized; and the `chunks`, by number, that others who watch have not been given."""

    run: Run
    completion: bytes | None
    error: bytes | None
    chunks: Sequence[tuple[int, bytes]] = ()


@dataclass(frozen=True, slots=True)
class RunRequeued:
    """A run is to be tried again, `delay` microseconds from now. `counted`: as an attempt that failed; else
    `lost`: as one that was lost; else not at all."""

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
_INSERT_CHUNKS = chunks.insert()
_DELETE_CHUNKS = chunks.delete().where(
    chunks.c.seq == sa.bindparam("of_seq"),
    chunks.c.run == sa.bindparam("of_run"),
    chunks.c.number >= sa.bindparam("first"),
)
_SCHEDULE_WEBHOOKS = (
    deliveries.update()
    .where(D.seq.in_(sa.bindparam("seqs", expanding=True)), D.state == DeliveryState.PENDING, D.due.is_(None))
    .values(due=sa.bindparam("now"))
)


def end_runs(transaction: Transaction, runs: Sequence[RunEnded | RunRequeued], ttl: int) -> list[bool]:
    """Write how these runs ended. Of each, whether the job was still its: of another, nothing is written."""
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
    """Their ends are to be posted, where that was asked for."""
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


def store_chunks(transaction: Transaction, run: Run, new: Sequence[tuple[int, bytes]]) -> None:
    """Chunks of a run, by number, for those who watch from other processes. Some may be stored already."""
    if new:
        transaction.execute(_DELETE_CHUNKS, {"of_seq": run.seq, "of_run": run.number, "first": new[0][0]})
        transaction.execute(
            _INSERT_CHUNKS,
            [{"seq": run.seq, "run": run.number, "number": number, "chunk": chunk} for number, chunk in new],
        )


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
    """End those of these jobs that have not ended. Their numbers."""
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
    """Cancel a job. Raises NOT_FOUND, and FAILED_PRECONDITION where it has ended."""
    job = transaction.one(_FIND, of_seq=seq, of_id=job_id)
    if job is None:
        raise not_found(job_id)
    if not end_jobs(transaction, [seq], JobState.CANCELLED, error, ttl):
        # On PostgreSQL it may have ended since it was read.
        job = transaction.one(_FIND, of_seq=seq, of_id=job_id)
        if job is None:
            raise not_found(job_id)
        raise ServiceError(
            grpc.StatusCode.FAILED_PRECONDITION,
            "JOB_ENDED",
            f"the job has ended: it is {job.state}",
            field="id",
            metadata={"id": job_id, "state": job.state},
        )


_SEQS: sa.BindParameter[list[int]] = sa.bindparam("seqs", expanding=True)
# The job's own row first, as all others do: two transactions that wait for each other wait for ever.
_DELETIONS = [
    table.delete().where(table.c.seq.in_(_SEQS))
    for table in (jobs, requests, completions, chunks, deliveries)
]


def delete(transaction: Transaction, seq: int, job_id: str) -> None:
    """Delete a job, in whatever state. Raises NOT_FOUND."""
    if transaction.one(_FIND, of_seq=seq, of_id=job_id) is None:
        raise not_found(job_id)
    delete_rows(transaction, [seq])
    transaction.announce()


def delete_rows(transaction: Transaction, seqs: Sequence[int]) -> None:
    """Delete all that is stored of these jobs."""
    for deletion in _DELETIONS:
        transaction.execute(deletion, {"seqs": seqs})


def not_found(job_id: str) -> ServiceError:
    """NOT_FOUND: there is no such job, or not any more."""
    return ServiceError(
        grpc.StatusCode.NOT_FOUND,
        "JOB_NOT_FOUND",
        f"there is no job {job_id!r}: it was never queued, was deleted, or its time was over",
        field="id",
        metadata={"id": job_id},
    )
