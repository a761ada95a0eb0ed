"""Jobs, their requests, completions, chunks and deliveries."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_BIG = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    op.create_table(
        "jobs",
        sa.Column("seq", _BIG, primary_key=True, autoincrement=False),
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("caller", sa.Text, nullable=False),
        sa.Column("request_id", sa.Text),
        sa.Column("digest", sa.LargeBinary, nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("requested_model", sa.Text, nullable=False),
        sa.Column("priority", sa.Integer, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("lost_attempts", sa.Integer, nullable=False),
        sa.Column("max_attempts", sa.Integer, nullable=False),
        sa.Column("runs", sa.Integer, nullable=False),
        sa.Column("worker", sa.Text),
        sa.Column("lease", _BIG),
        sa.Column("watched", sa.Boolean, nullable=False),
        sa.Column("created", _BIG, nullable=False),
        sa.Column("run_after", _BIG),
        sa.Column("started", _BIG),
        sa.Column("finished", _BIG),
        sa.Column("expires", _BIG),
        sa.Column("purge", _BIG),
        sa.Column("error", sa.LargeBinary),
        sa.Column("webhook", sa.Boolean, nullable=False),
    )
    _index("jobs_request_id", "request_id IS NOT NULL", "request_id", "caller", unique=True)
    _index("jobs_queued", "state = 'queued'", "model", sa.text("priority DESC"), "seq")
    _index("jobs_delayed", "state = 'delayed'", "run_after")
    _index("jobs_waiting", "state IN ('queued', 'delayed')", "caller")
    _index("jobs_running", "state = 'running'", "model", "worker", "lease")
    _index("jobs_expires", "finished IS NULL AND expires IS NOT NULL", "expires")
    _index("jobs_purge", "purge IS NOT NULL", "purge")
    _index("jobs_ended", "finished IS NOT NULL", "state", "seq")
    op.create_table(
        "job_requests",
        sa.Column("seq", _BIG, primary_key=True, autoincrement=False),
        sa.Column("request", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "job_completions",
        sa.Column("seq", _BIG, primary_key=True, autoincrement=False),
        sa.Column("completion", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "job_chunks",
        sa.Column("seq", _BIG, primary_key=True, autoincrement=False),
        sa.Column("run", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("chunk", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "job_deliveries",
        sa.Column("seq", _BIG, primary_key=True, autoincrement=False),
        sa.Column("url", sa.Text, nullable=False),
        sa.Column("secret", sa.Text),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("response_status", sa.Integer),
        sa.Column("error", sa.Text),
        sa.Column("attempted", _BIG),
        sa.Column("due", _BIG),
    )
    _index("job_deliveries_due", "due IS NOT NULL", "due", table="job_deliveries")


def downgrade() -> None:
    for table in ("job_deliveries", "job_chunks", "job_completions", "job_requests", "jobs"):
        op.drop_table(table)


def _index(
    name: str, where: str, *columns: str | sa.TextClause, table: str = "jobs", unique: bool = False
) -> None:
    condition = sa.text(where)
    op.create_index(
        name, table, list(columns), unique=unique, sqlite_where=condition, postgresql_where=condition
    )
