"""The chunks of a running job, stored so that clients of other processes can watch the job.

They are stored only after a watcher has requested them. `sweep` removes them once the job has ended.
"""

from collections.abc import Sequence

import sqlalchemy as sa

from inferd.services.queue.database import Transaction
from inferd.services.queue.job_id import Run
from inferd.services.queue.tables import IS_RUNNING, J, chunks, jobs

_WATCH = (
    jobs.update()
    .where(IS_RUNNING, J.seq == sa.bindparam("of_seq"), J.watched.is_(False))
    .values(watched=True)
)


def request_chunks(transaction: Transaction, seq: int) -> None:
    """Ask the process that runs the job to store the job's chunks from now on."""
    if transaction.execute(_WATCH, {"of_seq": seq}).rowcount:
        transaction.announce()


_INSERT_CHUNKS = chunks.insert()
_DELETE_CHUNKS = chunks.delete().where(
    chunks.c.seq == sa.bindparam("of_seq"),
    chunks.c.run == sa.bindparam("of_run"),
    chunks.c.number >= sa.bindparam("first"),
)


def store_chunks(transaction: Transaction, run: Run, new: Sequence[tuple[int, bytes]]) -> None:
    """Store chunks of a run, each with its number. Chunks of the same numbers are replaced."""
    if new:
        transaction.execute(_DELETE_CHUNKS, {"of_seq": run.seq, "of_run": run.number, "first": new[0][0]})
        transaction.execute(
            _INSERT_CHUNKS,
            [{"seq": run.seq, "run": run.number, "number": number, "chunk": chunk} for number, chunk in new],
        )


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
    """The stored chunks of a run from number `first` on, each a serialized ChatCompletionChunk."""
    return [row.chunk for row in transaction.rows(_CHUNKS, of_seq=seq, of_run=run, first=first)]
