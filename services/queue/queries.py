"""Reads stored jobs: one job, a page of jobs, positions in the queue, and numbers of jobs by model.

Nothing here writes. The rows become messages of the API in `job_message`.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from inferd.services.queue.database import Transaction
from inferd.services.queue.tables import (
    IS_DELAYED,
    IS_ENDED,
    IS_QUEUED,
    IS_RUNNING,
    IS_WAITING,
    D,
    J,
    JobState,
    completions,
    deliveries,
    jobs,
    requests,
)

_JOB = sa.select(jobs).where(J.seq == sa.bindparam("of_seq"), J.id == sa.bindparam("of_id"))
_COMPLETIONS = sa.select(completions.c.seq, completions.c.completion).where(
    completions.c.seq.in_(sa.bindparam("seqs", expanding=True))
)
_DELIVERIES = sa.select(deliveries).where(D.seq.in_(sa.bindparam("seqs", expanding=True)))

_ahead = jobs.alias("ahead")
_POSITIONS = sa.select(
    J.seq,
    sa.select(sa.func.count() + 1)
    .where(
        _ahead.c.state == sa.literal_column("'queued'"),
        _ahead.c.model == J.model,
        sa.or_(
            _ahead.c.priority > J.priority,
            sa.and_(_ahead.c.priority == J.priority, _ahead.c.seq < J.seq),
        ),
    )
    .correlate(jobs)
    .scalar_subquery(),
).where(J.seq.in_(sa.bindparam("seqs", expanding=True)), J.state.in_([JobState.QUEUED, JobState.DELAYED]))


@dataclass(frozen=True, slots=True)
class StoredJob:
    """A job as it is stored: its row (a mapping), its serialized completion, the row of its webhook, its
    position.

    All but the row are None if the job has none.
    """

    job: Any
    completion: bytes | None = None
    delivery: Any = None
    position: int | None = None


def find_job(transaction: Transaction, seq: int, job_id: str) -> StoredJob | None:
    """The job with its completion, webhook and position; None if there is no such job."""
    row = transaction.execute(_JOB, {"of_seq": seq, "of_id": job_id}).mappings().one_or_none()
    if row is None:
        return None
    return _with_details(transaction, [dict(row)])[0]


def _with_details(transaction: Transaction, rows: Sequence[Any]) -> list[StoredJob]:
    """Add the completion, the webhook and the position to the row of each job."""
    succeeded = [row["seq"] for row in rows if row["state"] == JobState.SUCCEEDED]
    waiting = [row["seq"] for row in rows if row["state"] in (JobState.QUEUED, JobState.DELAYED)]
    with_webhook = [row["seq"] for row in rows if row["webhook"]]
    answers = dict(transaction.rows(_COMPLETIONS, seqs=succeeded)) if succeeded else {}
    places = queue_positions(transaction, waiting)
    posted = (
        {row.seq: row for row in transaction.rows(_DELIVERIES, seqs=with_webhook)} if with_webhook else {}
    )
    return [
        StoredJob(row, answers.get(row["seq"]), posted.get(row["seq"]), places.get(row["seq"]))
        for row in rows
    ]


def queue_positions(transaction: Transaction, seqs: Collection[int]) -> dict[int, int]:
    """The positions of waiting jobs: 1 plus the number of jobs of the model that start before."""
    return dict(transaction.rows(_POSITIONS, seqs=list(seqs))) if seqs else {}


@dataclass(frozen=True, slots=True)
class Page:
    """Which jobs to list: at most `size`, and in the given order only those after job number `after`."""

    size: int
    after: int | None
    ascending: bool
    states: Sequence[str]
    model: str | None


#: The most bytes of all completions of a page. By default, a gRPC client accepts messages of up to 4 MiB.
_MOST_BYTES = 3 << 20


def list_jobs(transaction: Transaction, page: Page) -> tuple[list[StoredJob], bool]:
    """A page of jobs, and whether more follow. Long completions make a page shorter than `page.size`."""
    query = sa.select(jobs, sa.func.length(completions.c.completion).label("size")).outerjoin(
        completions, completions.c.seq == J.seq
    )
    if page.states:
        query = query.where(*_in_states(page.states))
    if page.model is not None:
        query = query.where(J.model == page.model)
    if page.after is not None:
        query = query.where(J.seq > page.after if page.ascending else J.seq < page.after)
    # Few jobs have not ended. "seq + 0" keeps SQLite from using the primary key's order, along which it would
    # read all jobs.
    order = J.seq + 0 if set(page.states) <= _UNENDED and page.states else J.seq
    query = query.order_by(order if page.ascending else order.desc()).limit(page.size + 1)
    rows = [dict(row) for row in transaction.execute(query).mappings()]
    taken: list[Any] = []
    size = 0
    for row in rows[: page.size]:
        size += row["size"] or 0
        if taken and size > _MOST_BYTES:
            break
        taken.append(row)
    return _with_details(transaction, taken), len(taken) < len(rows)


_UNENDED = {JobState.QUEUED, JobState.DELAYED, JobState.RUNNING}


def _in_states(states: Sequence[str]) -> Sequence[sa.ColumnElement[bool]]:
    """The condition of these states, in the form of a partial index if one fits."""
    asked = set(states)
    if asked == {JobState.QUEUED, JobState.DELAYED}:
        return [IS_WAITING]
    if asked == {JobState.RUNNING}:
        return [IS_RUNNING]
    if asked.isdisjoint(_UNENDED):
        return [IS_ENDED, J.state.in_(states)]
    return [J.state.in_(states)]


_PROGRESS = sa.select(J.seq, J.state, J.runs, J.lost_attempts, J.attempts).where(
    J.seq.in_(sa.bindparam("seqs", expanding=True))
)


def job_progress(transaction: Transaction, seqs: Collection[int]) -> dict[int, tuple[Any, ...]]:
    """The columns that change while a job waits and runs, for each of the jobs that still exists."""
    return {row.seq: tuple(row) for row in transaction.rows(_PROGRESS, seqs=list(seqs))}


_REQUEST = sa.select(requests.c.request).where(requests.c.seq == sa.bindparam("of_seq"))


def read_request(transaction: Transaction, seq: int) -> bytes | None:
    """The serialized request of a job; None if the job does not exist."""
    request: bytes | None = transaction.scalar(_REQUEST, of_seq=seq)
    return request


_QUEUED = sa.select(J.model, sa.func.count(), sa.func.min(J.seq)).where(IS_QUEUED).group_by(J.model)
_DELAYED = sa.select(J.model, sa.func.count()).where(IS_DELAYED).group_by(J.model)
_RUNNING = sa.select(J.model, sa.func.count()).where(IS_RUNNING).group_by(J.model)


@dataclass(slots=True)
class ModelStats:
    """How many jobs of a model wait and run, and the number of the oldest one that could start now."""

    queued: int = 0
    running: int = 0
    oldest: int | None = None


def queue_stats(transaction: Transaction) -> dict[str, ModelStats]:
    """The numbers of waiting and running jobs, by model."""
    found: dict[str, ModelStats] = {}
    for model, count, oldest in transaction.rows(_QUEUED):
        found[model] = ModelStats(queued=count, oldest=oldest)
    for model, count in transaction.rows(_DELAYED):
        found.setdefault(model, ModelStats()).queued += count
    for model, count in transaction.rows(_RUNNING):
        found.setdefault(model, ModelStats()).running = count
    return found
