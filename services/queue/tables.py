"""The queue's tables, and the conditions of their partial indexes. Times are in microseconds of Unix time.

The migrations create the tables (`migrations/`); a test compares the migrated tables with these. The clock is
the database's.
"""

import sqlalchemy as sa

metadata = sa.MetaData()

_Big = sa.BigInteger().with_variant(sa.Integer, "sqlite")


class JobState:
    """The values of jobs.state. DELAYED: the job is queued, but must not start before `run_after`."""

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
    # The number of the job: it grows with each job, and is part of the id (`job_id`).
    sa.Column("seq", _Big, primary_key=True, autoincrement=False),
    sa.Column("id", sa.Text, nullable=False),
    sa.Column("caller", sa.Text, nullable=False),
    sa.Column("request_id", sa.Text),
    sa.Column("digest", sa.LargeBinary, nullable=False),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("requested_model", sa.Text, nullable=False),
    sa.Column("priority", sa.Integer, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    # attempts: those that count; lost_attempts: those whose server or runtime went away; max_attempts: the
    # limit of `attempts`; runs: all that were ever started.
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("lost_attempts", sa.Integer, nullable=False),
    sa.Column("max_attempts", sa.Integer, nullable=False),
    sa.Column("runs", sa.Integer, nullable=False),
    # Only of running jobs. worker: the process that runs the job; lease: when the process is taken for dead;
    # watched: whether a client of another process watches, so that chunks are to be stored.
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

# Literals and not parameters, because a partial index is used only if the query has the same condition.
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
# Only of ended jobs, because SQLite would prefer a full index for every query with a state.
_partial("jobs_ended", IS_ENDED, J.state, J.seq)

# Requests have a table of their own, because the rows of jobs are rewritten often and should be small.
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

# The chunks that a run has generated so far, stored for watchers in other processes.
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
    """The values of job_deliveries.state: the state of a webhook."""

    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"


deliveries = sa.Table(
    "job_deliveries",
    metadata,
    sa.Column("seq", _Big, primary_key=True, autoincrement=False),
    sa.Column("url", sa.Text, nullable=False),
    # The webhook's own secret; None: the secret of the configuration is used.
    sa.Column("secret", sa.Text),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("response_status", sa.Integer),
    sa.Column("error", sa.Text),
    sa.Column("attempted", _Big),
    # When the next attempt is due. None before the job has ended, and after the last attempt.
    sa.Column("due", _Big),
)
D = deliveries.c
sa.Index("job_deliveries_due", D.due, sqlite_where=D.due.is_not(None), postgresql_where=D.due.is_not(None))
