"""Which jobs run next, and who runs them: claims, leases, and jobs whose process is gone."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from inferd.services.queue.database import Transaction
from inferd.services.queue.job_end import end_jobs
from inferd.services.queue.tables import IS_DELAYED, IS_QUEUED, IS_RUNNING, J, JobState, jobs, requests

#: One transaction at a time claims, so that the numbers of what runs are true over all processes.
CLAIM_LOCK = 2


@dataclass(frozen=True, slots=True)
class RunLimits:
    """How many jobs may run over all processes, in all and of each model that this process serves; and
    how many more of a model this process may take. A model that is not in `own` is not served here."""

    total: int
    per_model: Mapping[str, int]
    free_here: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Claimed:
    """Claimed jobs, in order, each with its request. `due_in` is when the next delayed job is to start, in
    microseconds from now; None where there is none."""

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
    """Claim for `worker` the jobs that are next, as many as there is room for, for `lease` microseconds."""
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
    """The runs that are still `worker`'s: (seq, runs, watched)."""
    return transaction.rows(_HELD, by=worker)


def renew_leases(
    transaction: Transaction, worker: str, lease: int, known: Collection[tuple[int, int]]
) -> list[Any]:
    """As `held_runs`, and hold them `lease` microseconds more. `known` are the (seq, runs) that `worker`
    knows of: what it was given else, by a claim whose answer was lost, is queued again."""
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
    """Queue again what `worker` runs, as if it had not been started: the worker stops."""
    if transaction.execute(_HAND_BACK, {"by": worker}).rowcount:
        transaction.announce()


#: A job whose attempts are lost so often is what loses them.
MAX_LOST_ATTEMPTS = 50


def requeue_lost(transaction: Transaction, gone: sa.ColumnElement[bool], error: bytes, ttl: int) -> int:
    """Queue again the running jobs for which `gone` holds: the processes that ran them are no more.

    One that was lost too often fails with `error` instead. Returns how many there were.
    """
    seqs = [row.seq for row in transaction.rows(sa.select(J.seq).where(IS_RUNNING, gone))]
    if not seqs:
        return 0
    hopeless = transaction.rows(
        sa.select(J.seq).where(IS_RUNNING, gone, J.lost_attempts >= MAX_LOST_ATTEMPTS - 1)
    )
    lost = (
        jobs.update()
        .where(IS_RUNNING, gone)
        .values(attempts=J.attempts - 1, lost_attempts=J.lost_attempts + 1)
    )
    transaction.execute(lost)
    end_jobs(transaction, [row.seq for row in hopeless], JobState.FAILED, error, ttl)
    transaction.execute(
        jobs.update()
        .where(IS_RUNNING, gone)
        .values(state=JobState.QUEUED, worker=None, lease=None, watched=False)
    )
    transaction.announce()
    return len(seqs)
