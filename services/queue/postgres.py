"""The queue's database in PostgreSQL, which many processes and hosts may share.

Changes are announced with NOTIFY, and locks are advisory locks.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, TypeVar

import asyncpg
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

from inferd.services.net.wait import wait_for_event
from inferd.services.queue.database import Transaction, unavailable
from inferd.services.queue.migrate import migrate

T = TypeVar("T")

_CHANNEL = "inferd_queue"
#: The first key of our advisory locks, which tells them from those of other applications in the database.
_LOCK_SPACE = 0x696E_6665
_MIGRATION_LOCK = 0
#: A database that needs longer than this counts as unavailable.
_CONNECT_SECONDS, _COMMAND_SECONDS, _TRANSACTION_SECONDS = 5.0, 15.0, 20.0

#: The server ends the session of a process that is frozen or whose host is gone; until then its locks are
#: held.
_SETTINGS = {
    "idle_in_transaction_session_timeout": "5000",
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
}
#: SQLSTATE of a transaction that the server aborted to resolve a deadlock.
_DEADLOCK = "40P01"
#: The class of the SQLSTATEs that report a bad value. The database itself works.
_DATA_ERRORS = "22"

_NOW = sa.text("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint")
_LOCK = sa.text(f"SELECT pg_advisory_xact_lock({_LOCK_SPACE}, :number)")
_NOTIFY = sa.text(f"SELECT pg_notify('{_CHANNEL}', :sender)")


class _Deadlock(Exception):
    """The transaction was rolled back, and can be repeated."""


class PostgresDatabase:
    """See `Database`. `sender` identifies this process in its notifications."""

    def __init__(self, url: str, sender: str) -> None:
        self._sender = sender
        self._url = sa.make_url(url)
        self._engine = create_async_engine(
            self._url.set(drivername="postgresql+asyncpg"),
            pool_size=4,
            max_overflow=4,
            pool_timeout=_CONNECT_SECONDS,
            # A pooled connection may be dead, for example after a restart of the server.
            pool_pre_ping=True,
            connect_args={
                "timeout": _CONNECT_SECONDS,
                "command_timeout": _COMMAND_SECONDS,
                "server_settings": _SETTINGS,
            },
        )

    async def open(self) -> None:
        await self.write(_migrate)

    async def write(self, work: Callable[..., T], *arguments: Any) -> T:
        while True:
            try:
                return await self._write(work, arguments)
            except _Deadlock:
                continue

    async def read(self, work: Callable[..., T], *arguments: Any) -> T:
        return await self.write(work, *arguments)

    async def _write(self, work: Callable[..., T], arguments: tuple[Any, ...]) -> T:
        try:
            async with asyncio.timeout(_TRANSACTION_SECONDS), self._engine.begin() as connection:
                return await connection.run_sync(self._transact, work, arguments)
        except (sa.exc.IntegrityError, sa.exc.DataError, sa.exc.ProgrammingError):
            raise
        except (sa.exc.DBAPIError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
            state = getattr(getattr(error, "orig", None), "sqlstate", None) or ""
            if state == _DEADLOCK:
                raise _Deadlock from error
            if state.startswith(_DATA_ERRORS):
                raise
            raise unavailable(_reason(error)) from error
        except (TimeoutError, sa.exc.TimeoutError) as error:
            raise unavailable("it does not answer") from error

    def _transact(self, connection: sa.Connection, work: Callable[..., T], arguments: tuple[Any, ...]) -> T:
        def lock(number: int) -> None:
            connection.execute(_LOCK, {"number": number})

        def announce() -> None:
            connection.execute(_NOTIFY, {"sender": self._sender})

        now = connection.execute(_NOW).scalar_one()
        return work(Transaction(connection, now, lock, announce), *arguments)

    async def listen(self, on_change: Callable[[], None]) -> None:
        """See `Database`. A lost connection is replaced; the queue polls for changes of that time."""
        address = self._url.set(drivername="postgresql").render_as_string(hide_password=False)
        while True:
            with contextlib.suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError):
                connection = await asyncpg.connect(
                    address, timeout=_CONNECT_SECONDS, command_timeout=_COMMAND_SECONDS
                )
                try:
                    await self._listen(connection, on_change)
                finally:
                    connection.terminate()
            await asyncio.sleep(1)

    async def _listen(self, connection: Any, on_change: Callable[[], None]) -> None:
        ended = asyncio.Event()

        def received(_connection: Any, _pid: int, _channel: str, sender: object) -> None:
            if sender != self._sender:
                on_change()

        connection.add_termination_listener(lambda _: ended.set())
        await connection.add_listener(_CHANNEL, received)
        on_change()
        while not ended.is_set():
            await wait_for_event(ended, 10)
            # Detects a server that is gone without closing the connection.
            await connection.execute("SELECT 1")

    async def close(self) -> None:
        await self._engine.dispose()


def _migrate(transaction: Transaction) -> None:
    transaction.lock(_MIGRATION_LOCK)
    migrate(transaction.connection)


def _reason(error: BaseException) -> str:
    """The error's message without the statement and its parameters, because those contain users' texts."""
    cause = error.orig if isinstance(error, sa.exc.DBAPIError) else error
    # The driver's own error: SQLAlchemy wraps it, and puts its class into the message.
    cause = getattr(cause, "__cause__", None) or cause
    return str(cause).split("\n", 1)[0] or type(cause).__name__
