"""What happens to jobs by the passing of time: leases run out, jobs expire, results are purged."""

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

#: What one transaction takes, so that none is long.
_MAX_JOBS = 500

#: How long the chunks of a run that has ended are kept, in microseconds, for those who are reading them.
_CHUNKS_KEPT = 60_000_000

_EXPIRED = (
    sa.select(J.seq)
    .where(IS_UNENDED, J.expires.is_not(None), J.expires <= sa.bindparam("now"))
    .order_by(J.expires)
    .limit(_MAX_JOBS)
)
_ANY_LEFT = sa.select(sa.exists().where(IS_WAITING) | sa.exists().where(IS_RUNNING))
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
    """How many jobs were taken back, the numbers of those that expired, and whether any job has yet to end:
    nothing can happen to the others."""

    taken: int
    expired: list[int]
    any_left: bool


def sweep(
    transaction: Transaction, worker: str, lost_error: bytes | None, expired_error: bytes, ttl: int
) -> Swept:
    """What is looked for all the time: what `lost` does, but where `lost_error` is None, and `expire`."""
    taken = requeue_expired_leases(transaction, worker, lost_error, ttl) if lost_error is not None else 0
    expired = expire(transaction, expired_error, ttl)
    return Swept(taken, expired, bool(transaction.scalar(_ANY_LEFT)))


def requeue_expired_leases(transaction: Transaction, worker: str, error: bytes, ttl: int) -> int:
    """Take back the jobs of processes that are gone. How many there were.

    Not those of `worker`, who asks: it lives, and its leases ran out while the database was down.
    """
    gone = IS_RUNNING & (J.lease < transaction.now) & (J.worker != worker)
    return requeue_lost(transaction, gone, error, ttl)


def expire(transaction: Transaction, error: bytes, ttl: int) -> list[int]:
    """End jobs whose time is up. Their numbers; `is_full` says where there may be more."""
    seqs = [row.seq for row in transaction.rows(_EXPIRED, now=transaction.now)]
    return end_jobs(transaction, seqs, JobState.EXPIRED, error, ttl)


def purge(transaction: Transaction) -> int:
    """Remove jobs whose results were kept long enough. How many there were."""
    seqs = [row.seq for row in transaction.rows(_PURGED, now=transaction.now)]
    if seqs:
        delete_rows(transaction, seqs)
    return len(seqs)


def drop_chunks(transaction: Transaction) -> None:
    """Remove the chunks of runs that have ended."""
    seqs = [row.seq for row in transaction.rows(_READ, before=transaction.now - _CHUNKS_KEPT)]
    if seqs:
        transaction.execute(chunks.delete().where(chunks.c.seq.in_(seqs)))


def is_full(count: int) -> bool:
    """Whether a transaction took as much as one takes: there may be more."""
    return count >= _MAX_JOBS
