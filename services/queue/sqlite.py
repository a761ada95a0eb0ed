"""The queue's database in a SQLite file, which several processes of one host may share.

One connection writes and one reads. Each has a thread, which runs one whole transaction at a time. A commit
returns after the data is on the disk (PRAGMA synchronous = FULL).
"""

import asyncio
import fcntl
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TextIO, TypeVar

import sqlalchemy as sa
from sqlalchemy.pool import StaticPool

from inferd.services.queue.database import Transaction, unavailable
from inferd.services.queue.file_watcher import FileWatcher
from inferd.services.queue.migrate import migrate

T = TypeVar("T")

#: How long a transaction waits for the transaction of another process.
_BUSY_SECONDS = 10


class SqliteDatabase:
    """See `Database`. `on_exclusive` is run at opening, if no other process has the file open."""

    def __init__(self, url: str, on_exclusive: Callable[[Transaction], Any]) -> None:
        self._path = Path(sa.make_url(url).database or "")
        self._on_exclusive = on_exclusive
        self._writer = _Connection(self._path, "BEGIN IMMEDIATE")
        self._reader = _Connection(self._path, "BEGIN")
        self._presence: TextIO | None = None

    async def open(self) -> None:
        await self.write(lambda transaction: migrate(transaction.connection))
        if self._presence is None:
            await self._take_presence_lock()

    async def _take_presence_lock(self) -> None:
        """Hold a shared lock on FILE.lock. A process that can lock it exclusively has the file alone."""
        presence = self._path.with_name(self._path.name + ".lock").open("a")
        try:
            fcntl.flock(presence, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            pass
        else:
            await self.write(self._on_exclusive)
        # This waits while another process holds the lock exclusively.
        await asyncio.to_thread(fcntl.flock, presence, fcntl.LOCK_SH)
        self._presence = presence

    async def write(self, work: Callable[..., T], *arguments: Any) -> T:
        return await self._writer.run(work, *arguments)

    async def read(self, work: Callable[..., T], *arguments: Any) -> T:
        return await self._reader.run(work, *arguments)

    async def listen(self, on_change: Callable[[], None]) -> None:
        known = None
        with FileWatcher(Path(f"{self._path}-wal")) as watch:
            while True:
                # The version that the writing connection sees changes only if another process commits.
                version = await self._writer.data_version()
                if known is not None and version != known:
                    on_change()
                known = version
                await watch.wait()

    async def close(self) -> None:
        await self._writer.close()
        await self._reader.close()
        if self._presence is not None:
            self._presence.close()


class _Connection:
    """A connection and the only thread that uses it. `begin` is the SQL that begins a transaction."""

    def __init__(self, path: Path, begin: str) -> None:
        self._thread = ThreadPoolExecutor(1, f"queue {begin.split()[-1].lower()}")
        self._engine = sa.create_engine(
            sa.URL.create("sqlite", database=str(path)),
            poolclass=StaticPool,
            connect_args={"check_same_thread": False},
        )
        sa.event.listen(self._engine, "connect", _set_up)
        sa.event.listen(self._engine, "begin", lambda connection: connection.exec_driver_sql(begin))

    async def run(self, work: Callable[..., T], *arguments: Any) -> T:
        return await self._in_thread(self._transact, work, arguments)

    async def data_version(self) -> int:
        return await self._in_thread(self._data_version)

    async def close(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._engine.dispose)
        self._thread.shutdown()

    async def _in_thread(self, work: Callable[..., T], *arguments: Any) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)
        except (sa.exc.OperationalError, sa.exc.DatabaseError) as error:
            if isinstance(error, sa.exc.IntegrityError | sa.exc.DataError | sa.exc.ProgrammingError):
                raise
            raise unavailable(str(error.orig)) from error

    def _transact(self, work: Callable[..., T], arguments: tuple[Any, ...]) -> T:
        with self._engine.begin() as connection:
            return work(
                Transaction(connection, time.time_ns() // 1000, _no_lock_needed, _no_announcement_needed),
                *arguments,
            )

    def _data_version(self) -> int:
        connection = self._engine.raw_connection()
        try:
            return int(connection.cursor().execute("PRAGMA data_version").fetchone()[0])
        finally:
            connection.close()


def _set_up(connection: sqlite3.Connection, _: Any) -> None:
    # The driver must not begin transactions by itself.
    connection.isolation_level = None
    connection.execute(f"PRAGMA busy_timeout = {_BUSY_SECONDS * 1000}")
    connection.execute("PRAGMA synchronous = FULL")
    end = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError:
            # busy_timeout does not apply here, if several processes open a new file at once.
            if time.monotonic() > end:
                raise
            time.sleep(0.02)


def _no_lock_needed(_: int) -> None:
    """`Transaction.lock`: SQLite has only one writing transaction at a time."""


def _no_announcement_needed() -> None:
    """`Transaction.announce`: the other processes notice the new version of the file."""
