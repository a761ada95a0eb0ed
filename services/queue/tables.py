"""The queue's tables. Times are microseconds of Unix time, by the database's clock.

The migrations make them (`migrations/`); a test holds the two to each other.
"""

import sqlalchemy as sa

metadata = sa.MetaData()

_Big = sa.BigInteger().with_variant(sa.Integer, "sqlite")


class JobState:
    """Where a job stands, as it is stored. DELAYED is a queued job whose time has not come."""

    QUEUED = "queued"
    DELAYED = "delayed"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


jobs = sa.Table(
    "jobs",
    metadata,
    # The order of their coming, and the first half of their ids: see job_id.
    sa.Column("seq", _Big, primary_key=True, autoincrement=False),
    sa.Column("id", sa.Text, nullable=False),
    sa.Column("caller", sa.Text, nullable=False),
    sa.Column("request_id", sa.Text),
    sa.Column("digest", sa.LargeBinary, nullable=False),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("requested_model", sa.Text, nullable=False),
    sa.Column("priority", sa.Integer, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    # Of attempts: those that count, those that were lost, how many are allowed, and all that were started.
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("lost_attempts", sa.Integer, nullable=False),
    sa.Column("max_attempts", sa.Integer, nullable=False),
    sa.Column("runs", sa.Integer, nullable=False),
    # Of a running job: who runs it, until when that is believed, and whether another process watches.
    sa.Column("worker", sa.Text),
    sa.Column("lease", _Big),
    sa.Column("watched", sa.Boolean, nullable=False),
    sa.Column("created", _Big, nullable=False),
    sa.Column("run_after", _Big),
    sa.Column("started", _Big),
    sa.Column("finished", _Big),
    sa.Column("expires", _Big),
    sa.Column("purge", _Big),
    # google.rpc.Status, serialized.
    sa.Column("error", sa.LargeBinary),
    sa.Column("webhook", sa.Boolean, nullable=False),
)
J = jobs.c

# Literals, not parameters: a partial index serves only a query that says the same.
IS_QUEUED = J.state == sa.literal_column("'queued'")
IS_DELAYED = J.state == sa.literal_column("'delayed'")
IS_RUNNING = J.state == sa.literal_column("'running'")
IS_WAITING = J.state.in_([sa.literal_column("'queued'"), sa.literal_column("'delayed'")])
IS_UNENDED = J.finished.is_(None)
IS_ENDED = J.finished.is_not(None)


def _partial(
    name: str, where: sa.ColumnElement[bool], *columns: sa.ColumnElement[object], unique: bool = False
) -> None:
    sa.Index(name, *columns, unique=unique, sqlite_where=where, postgresql_where=where)


_partial("jobs_request_id", J.request_id.is_not(None), J.request_id, J.caller, unique=True)
_partial("jobs_queued", IS_QUEUED, J.model, J.priority.desc(), J.seq)
_partial("jobs_delayed", IS_DELAYED, J.run_after)
_partial("jobs_waiting", IS_WAITING, J.caller)
_partial("jobs_running", IS_RUNNING, J.model, J.worker, J.lease)
_partial("jobs_expires", IS_UNENDED & J.expires.is_not(None), J.expires)
_partial("jobs_purge", J.purge.is_not(None), J.purge)
# Of those that have ended only: SQLite would take it for all that asks for a state.
_partial("jobs_ended", IS_ENDED, J.state, J.seq)

# Apart from the jobs, whose rows are written often and are to stay small.
requests = sa.Table(
    "job_requests",
    metadata,
    sa.Column("seq", _Big, primary_key=True, autoincrement=False),
    # inferd.v1.CreateChatCompletionRequest, serialized.
    sa.Column("request", sa.LargeBinary, nullable=False),
)

completions = sa.Table(
    "job_completions",
    metadata,
    sa.Column("seq", _Big, primary_key=True, autoincrement=False),
    # inferd.v1.ChatCompletion, serialized.
    sa.Column("completion", sa.LargeBinary, nullable=False),
)

# What a run has generated so far, for those who watch it from another process.
chunks = sa.Table(
    "job_chunks",
    metadata,
    sa.Column("seq", _Big, primary_key=True, autoincrement=False),
    sa.Column("run", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    # inferd.v1.ChatCompletionChunk, serialized.
    sa.Column("chunk", sa.LargeBinary, nullable=False),
)


class DeliveryState:
    """How far the posting of a job's end has come, as it is stored."""

    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"


deliveries = sa.Table(
    "job_deliveries",
    metadata,
    sa.Column("seq", _Big, primary_key=True, autoincrement=False),
    sa.Column("url", sa.Text, nullable=False),
    # The job's own; None: the configuration's.
    sa.Column("secret", sa.Text),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("response_status", sa.Integer),
    sa.Column("error", sa.Text),
    sa.Column("attempted", _Big),
    # When it is due; None while the job has not ended, and when nothing more is to be done.
    sa.Column("due", _Big),
)
D = deliveries.c
sa.Index("job_deliveries_due", D.due, sqlite_where=D.due.is_not(None), postgresql_where=D.due.is_not(None))
