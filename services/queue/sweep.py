"""Periodic work on all jobs: requeues jobs whose lease ran out, ends expired jobs, and purges old results.

These are the transactions; `job_queue` runs them.
"""

from dataclasses import dataclass

import sqlalchemy as sa

from inferd.services.queue.claims import requeue_lost
from inferd.services.queue.database import Transaction
from inferd.services.queue.job_end import delete_rows, end_jobs
from inferd.services.queue.tables import (
    IS_RUNNING,
    IS_UNENDED,
    IS_WAITING,
    D,
    DeliveryState,
    J,
    JobState,
    chunks,
)

#: The most jobs of one transaction, so that no transaction takes long.
_MAX_JOBS = 500

#: How long the chunks of an ended job are kept for watchers that still read them, in microseconds.
_CHUNKS_KEPT = 60_000_000

_EXPIRED = (
    sa.select(J.seq)
    .where(IS_UNENDED, J.expires.is_not(None), J.expires <= sa.bindparam("now"))
    .order_by(J.expires)
    .limit(_MAX_JOBS)
)
_ANY_UNENDED = sa.select(sa.exists().where(IS_WAITING) | sa.exists().where(IS_RUNNING))
_UNPOSTED = (
    sa.select(D.seq).where(D.seq == J.seq, D.state == DeliveryState.PENDING).correlate(J.seq.table).exists()
)
_PURGED = (
    sa.select(J.seq)
    .where(J.purge.is_not(None), J.purge <= sa.bindparam("now"), sa.not_(J.webhook & _UNPOSTED))
    .order_by(J.purge)
    .limit(_MAX_JOBS)
)
_READ = (
    sa.select(chunks.c.seq)
    .distinct()
    .join(J.seq.table, J.seq == chunks.c.seq)
    .where(J.finished < sa.bindparam("before"))
)


@dataclass(frozen=True, slots=True)
class Swept:
    """How many jobs were requeued, which jobs expired, and whether any jobs have not ended yet."""

    requeued: int
    expired: list[int]
    any_unended: bool


def sweep(
    transaction: Transaction, worker: str, lost_error: bytes | None, expired_error: bytes, ttl: int
) -> Swept:
    """Run `requeue_expired_leases`, unless `lost_error` is None, and `expire`."""
    requeued = requeue_expired_leases(transaction, worker, lost_error, ttl) if lost_error is not None else 0
    expired = expire(transaction, expired_error, ttl)
    return Swept(requeued, expired, bool(transaction.scalar(_ANY_UNENDED)))


def requeue_expired_leases(transaction: Transaction, worker: str, error: bytes, ttl: int) -> int:
    """Requeue the jobs whose lease ran out. Returns their number.

    Jobs of `worker`, the calling process, are left out: it is alive, and its leases ran out because the
    database was down. For `error` and `ttl` see `requeue_lost`.
    """
    gone = IS_RUNNING & (J.lease < transaction.now) & (J.worker != worker)
    return requeue_lost(transaction, gone, error, ttl)


def expire(transaction: Transaction, error: bytes, ttl: int) -> list[int]:
    """End expired jobs. Returns their numbers. If `is_full`, there may be more."""
    seqs = [row.seq for row in transaction.rows(_EXPIRED, now=transaction.now)]
    return end_jobs(transaction, seqs, JobState.EXPIRED, error, ttl)


def purge(transaction: Transaction) -> int:
    """Delete jobs whose purge time has come. Returns their number. If `is_full`, there may be more."""
    seqs = [row.seq for row in transaction.rows(_PURGED, now=transaction.now)]
    if seqs:
        delete_rows(transaction, seqs)
    return len(seqs)


def drop_chunks(transaction: Transaction) -> None:
    """Delete the stored chunks of ended jobs."""
    seqs = [row.seq for row in transaction.rows(_READ, before=transaction.now - _CHUNKS_KEPT)]
    if seqs:
        transaction.execute(chunks.delete().where(chunks.c.seq.in_(seqs)))


def is_full(count: int) -> bool:
    """Whether a transaction had as many jobs as one may have, so that more may be left."""
    return count >= _MAX_JOBS
