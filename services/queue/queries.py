"""What is stored of jobs, read: one, a page of them, their positions, the queue's numbers."""

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
    chunks,
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
    """A job as it is stored: its row, as a mapping; its completion, serialized; its delivery's row; its
    position. None where there is none."""

    job: Any
    completion: bytes | None = None
    delivery: Any = None
    position: int | None = None


def find_job(transaction: Transaction, seq: int, job_id: str) -> StoredJob | None:
    """The job, with all that belongs to it."""
    row = transaction.execute(_JOB, {"of_seq": seq, "of_id": job_id}).mappings().one_or_none()
    if row is None:
        return None
    return _with_details(transaction, [dict(row)])[0]


def _with_details(transaction: Transaction, rows: Sequence[Any]) -> list[StoredJob]:
    """The rows, with what belongs to them."""
    succeeded = [row["seq"] for row in rows if row["state"] == JobState.SUCCEEDED]
    waiting = [row["seq"] for row in rows if row["state"] in (JobState.QUEUED, JobState.DELAYED)]
    hooked = [row["seq"] for row in rows if row["webhook"]]
    answers = dict(transaction.rows(_COMPLETIONS, seqs=succeeded)) if succeeded else {}
    places = queue_positions(transaction, waiting)
    posted = {row.seq: row for row in transaction.rows(_DELIVERIES, seqs=hooked)} if hooked else {}
    return [
        StoredJob(row, answers.get(row["seq"]), posted.get(row["seq"]), places.get(row["seq"]))
        for row in rows
    ]


def queue_positions(transaction: Transaction, seqs: Collection[int]) -> dict[int, int]:
    """How many jobs of its model start before each of these that wait, and one."""
    return dict(transaction.rows(_POSITIONS, seqs=list(seqs))) if seqs else {}


@dataclass(frozen=True, slots=True)
class Page:
    """Which jobs to list: `size` of them at most, that come after number `after` in the order."""

    size: int
    after: int | None
    ascending: bool
    states: Sequence[str]
    model: str | None


#: Completions of one page together, in bytes: a gRPC client takes messages of 4 MiB, if not told otherwise.
_MOST_BYTES = 3 << 20


def list_jobs(transaction: Transaction, page: Page) -> tuple[list[StoredJob], bool]:
    """A page of jobs, and whether there are more. Shorter than asked for where the answers are long."""
    query = sa.select(jobs, sa.func.length(completions.c.completion).label("size")).outerjoin(
        completions, completions.c.seq == J.seq
    )
    if page.states:
        query = query.where(*_in_states(page.states))
    if page.model is not None:
        query = query.where(J.model == page.model)
    if page.after is not None:
        query = query.where(J.seq > page.after if page.ascending else J.seq < page.after)
    # Few have not ended. Not by the number's own order: SQLite would go through all jobs along it.
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
    """Whether a job is in one of these; said as the partial indexes say it, where one of them can help."""
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
    """Of each of these jobs that is there still, what changes as it goes on."""
    return {row.seq: tuple(row) for row in transaction.rows(_PROGRESS, seqs=list(seqs))}


_CHUNKS = (
    sa.select(chunks.c.number, chunks.c.chunk)
    .where(
        chunks.c.seq == sa.bindparam("of_seq"),
        chunks.c.run == sa.bindparam("of_run"),
        chunks.c.number >= sa.bindparam("first"),
    )
    .order_by(chunks.c.number)
)


def read_chunks(transaction: Transaction, seq: int, run: int, first: int) -> list[bytes]:
    """The stored chunks of a run, from number `first` on."""
    return [row.chunk for row in transaction.rows(_CHUNKS, of_seq=seq, of_run=run, first=first)]


_REQUEST = sa.select(requests.c.request).where(requests.c.seq == sa.bindparam("of_seq"))


def read_request(transaction: Transaction, seq: int) -> bytes | None:
    """The request of a job, serialized."""
    request: bytes | None = transaction.scalar(_REQUEST, of_seq=seq)
    return request


_WATCH = (
    jobs.update()
    .where(IS_RUNNING, J.seq == sa.bindparam("of_seq"), J.watched.is_(False))
    .values(watched=True)
)


def request_chunks(transaction: Transaction, seq: int) -> None:
    """Have whoever runs the job store its chunks."""
    if transaction.execute(_WATCH, {"of_seq": seq}).rowcount:
        transaction.announce()


_QUEUED = sa.select(J.model, sa.func.count(), sa.func.min(J.seq)).where(IS_QUEUED).group_by(J.model)
_DELAYED = sa.select(J.model, sa.func.count()).where(IS_DELAYED).group_by(J.model)
_RUNNING = sa.select(J.model, sa.func.count()).where(IS_RUNNING).group_by(J.model)


@dataclass(slots=True)
class ModelStats:
    """Of one model: jobs that wait, jobs that run, and the number of the oldest that could run."""

    queued: int = 0
    running: int = 0
    oldest: int | None = None


def queue_stats(transaction: Transaction) -> dict[str, ModelStats]:
    """The queue's numbers, by model."""
    found: dict[str, ModelStats] = {}
    for model, count, oldest in transaction.rows(_QUEUED):
        found[model] = ModelStats(queued=count, oldest=oldest)
    for model, count in transaction.rows(_DELAYED):
        found.setdefault(model, ModelStats()).queued += count
    for model, count in transaction.rows(_RUNNING):
        found.setdefault(model, ModelStats()).running = count
    return found
