"""Claims queued jobs for a process, renews the process's leases, and requeues jobs whose process is gone.

A claimed job is "running" and has a lease, which its process renews. This module decides which jobs come
next. It runs no job, and does not write how a job ended (`job_end`).
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from inferd.services.queue.database import Transaction
from inferd.services.queue.job_end import end_jobs
from inferd.services.queue.tables import IS_DELAYED, IS_QUEUED, IS_RUNNING, J, JobState, jobs, requests

#: The lock of claims. One transaction at a time claims, so that no limit is exceeded over all processes.
CLAIM_LOCK = 2


@dataclass(frozen=True, slots=True)
class RunLimits:
    """How many jobs may run.

    `total` is the limit of all models over all processes, `per_model` the limit of each model over all
    processes. `free_here` says how many more jobs of a model this process may claim; jobs of other models are
    not claimed.
    """

    total: int
    per_model: Mapping[str, int]
    free_here: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Claimed:
    """The claimed jobs in the order of their start, each as its row and its serialized request.

    `due_in` is the time until the next delayed job is due, in microseconds; None if no job is delayed.
    """

    jobs: Sequence[tuple[Any, bytes]]
    due_in: int | None


_NEXT_DUE = sa.select(sa.func.min(J.run_after)).where(IS_DELAYED)
_PROMOTE = jobs.update().where(IS_DELAYED, J.run_after <= sa.bindparam("now")).values(state=JobState.QUEUED)
_RUNNING = sa.select(J.model, sa.func.count()).where(IS_RUNNING).group_by(J.model)
_FIRST = (
    sa.select(J.priority, J.seq)
    .where(IS_QUEUED, J.model == sa.bindparam("of_model"))
    .order_by(J.priority.desc(), J.seq)
    .limit(sa.bindparam("most"))
)
_CLAIM = (
    jobs.update()
    .where(IS_QUEUED, J.seq.in_(sa.bindparam("seqs", expanding=True)))
    .values(
        state=JobState.RUNNING,
        worker=sa.bindparam("by"),
        runs=J.runs + 1,
        attempts=J.attempts + 1,
        started=sa.bindparam("now"),
        lease=sa.bindparam("until"),
        watched=False,
    )
    .returning(jobs)
)
_REQUESTS = sa.select(requests.c.seq, requests.c.request).where(
    requests.c.seq.in_(sa.bindparam("seqs", expanding=True))
)


def claim(transaction: Transaction, worker: str, lease: int, limits: RunLimits) -> Claimed:
    """Claim the next jobs for the process `worker`, as many as `limits` allow.

    The jobs with the highest priority come first, and of those the oldest. The lease is `lease` microseconds.
    """
    transaction.lock(CLAIM_LOCK)
    next_due = transaction.scalar(_NEXT_DUE)
    if next_due is not None and next_due <= transaction.now:
        transaction.execute(_PROMOTE, {"now": transaction.now})
        next_due = transaction.scalar(_NEXT_DUE)
    due_in = None if next_due is None else next_due - transaction.now
    seqs = _next(transaction, limits)
    if not seqs:
        return Claimed((), due_in)
    claimed = transaction.rows(
        _CLAIM, seqs=seqs, by=worker, now=transaction.now, until=transaction.now + lease
    )
    found = dict(transaction.rows(_REQUESTS, seqs=seqs))
    claimed.sort(key=lambda job: (-job.priority, job.seq))
    return Claimed([(job, found[job.seq]) for job in claimed], due_in)


def _next(transaction: Transaction, limits: RunLimits) -> list[int]:
    running = dict(transaction.rows(_RUNNING))
    total = limits.total - sum(running.values())
    candidates: list[tuple[int, int]] = []
    for model, free in limits.free_here.items():
        most = min(total, free, limits.per_model[model] - running.get(model, 0))
        if most > 0:
            found = transaction.rows(_FIRST, of_model=model, most=most)
            candidates += [(-priority, seq) for priority, seq in found]
    return [seq for _, seq in sorted(candidates)[: max(0, total)]]


_MINE = (IS_RUNNING, J.worker == sa.bindparam("by"))
_HELD = sa.select(J.seq, J.runs, J.watched).where(*_MINE)
_SEQS: sa.BindParameter[list[int]] = sa.bindparam("seqs", expanding=True)
_RENEW = jobs.update().where(*_MINE, J.seq.in_(_SEQS)).values(lease=sa.bindparam("until"))
_HAND_BACK = (
    jobs.update()
    .where(*_MINE)
    .values(state=JobState.QUEUED, attempts=J.attempts - 1, worker=None, lease=None, watched=False)
)


def held_runs(transaction: Transaction, worker: str) -> list[Any]:
    """The runs that `worker` still holds, as rows of seq, runs and watched."""
    return transaction.rows(_HELD, by=worker)


def renew_leases(
    transaction: Transaction, worker: str, lease: int, known: Collection[tuple[int, int]]
) -> list[Any]:
    """Renew the leases of `worker` for `lease` microseconds. Returns the runs that it holds, as `held_runs`
    does.

    `known` are the (seq, runs) that `worker` knows. The database may hold others for it, if the reply to a
    claim was lost; those are queued again.
    """
    mine = held_runs(transaction, worker)
    if not mine:
        return []
    unknown = [run.seq for run in mine if (run.seq, run.runs) not in known]
    if unknown:
        transaction.execute(_HAND_BACK.where(J.seq.in_(_SEQS)), {"by": worker, "seqs": unknown})
        transaction.announce()
    seqs = [run.seq for run in mine if (run.seq, run.runs) in known]
    transaction.execute(_RENEW, {"by": worker, "seqs": seqs, "until": transaction.now + lease})
    return [run for run in mine if (run.seq, run.runs) in known]


def release_claims(transaction: Transaction, worker: str) -> None:
    """Requeue all jobs of `worker`, which is stopping, as if they had never started."""
    if transaction.execute(_HAND_BACK, {"by": worker}).rowcount:
        transaction.announce()


#: A job fails after so many lost attempts, because it is then probably the cause of the losses.
MAX_LOST_ATTEMPTS = 50


def requeue_lost(transaction: Transaction, gone: sa.ColumnElement[bool], error: bytes, ttl: int) -> int:
    """Requeue the running jobs that match `gone`, a condition that their process does not exist any more.

    A job with too many lost attempts fails with `error` (a serialized google.rpc.Status) instead, and is
    purged `ttl` microseconds later. Returns the number of jobs.
    """
    seqs = [row.seq for row in transaction.rows(sa.select(J.seq).where(IS_RUNNING, gone))]
    if not seqs:
        return 0
    failed = transaction.rows(
        sa.select(J.seq).where(IS_RUNNING, gone, J.lost_attempts >= MAX_LOST_ATTEMPTS - 1)
    )
    lost = (
        jobs.update()
        .where(IS_RUNNING, gone)
        .values(attempts=J.attempts - 1, lost_attempts=J.lost_attempts + 1)
    )
    transaction.execute(lost)
    end_jobs(transaction, [row.seq for row in failed], JobState.FAILED, error, ttl)
    transaction.execute(
        jobs.update()
        .where(IS_RUNNING, gone)
        .values(state=JobState.QUEUED, worker=None, lease=None, watched=False)
    )
    transaction.announce()
    return len(seqs)
