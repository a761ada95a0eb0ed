"""The queue in PostgreSQL, which many processes and hosts may share."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, TypeVar

import asyncpg
import sqlalchemy as sa
from inferd.services.net.wait import wait_for_event
from inferd.services.queue.database import Transaction, unavailable
from inferd.services.queue.migrate import migrate
from sqlalchemy.ext.asyncio import create_async_engine

T = TypeVar("T")

_CHANNEL = "inferd_queue"
#: Advisory locks of one application share a space with those of all others in the database.
_LOCK_SPACE = 0x696E_6665
_MIGRATION_LOCK = 0
#: A database that does not answer within these is as good as down. In seconds.
_CONNECT_SECONDS, _COMMAND_SECONDS, _TRANSACTION_SECONDS = 5.0, 15.0, 20.0

#: A process that is frozen, or whose host is gone, holds its locks until the server ends its session.
_SETTINGS = {
    "idle_in_transaction_session_timeout": "5000",
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
}
#: SQLSTATE of a transaction that was given up so that another one could go on.
_DEADLOCK = "40P01"
#: The class of those that say that a value is at fault, and not the database.
_DATA_ERRORS = "22"

_NOW = sa.text("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint")
_LOCK = sa.text(f"SELECT pg_advisory_xact_lock({_LOCK_SPACE}, :number)")
_NOTIFY = sa.text(f"SELECT pg_notify('{_CHANNEL}', :sender)")


class _Deadlock(Exception):
    """The transaction was undone, and can be made again."""


class PostgresDatabase:
    """See `Database`. `sender` tells this process from the others."""

    def __init__(self, url: str, sender: str) -> None:
        self._sender = sender
        self._url = sa.make_url(url)
        self._engine = create_async_engine(
            self._url.set(drivername="postgresql+asyncpg"),
            pool_size=4,
            max_overflow=4,
            pool_timeout=_CONNECT_SECONDS,
            # A pooled connection may have ended with the server that it was to.
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
        """Where the connection is lost, listens again; what is missed meanwhile is for the queue's polls."""
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
            # A peer that went without a word is noticed by this.
            await connection.execute("SELECT 1")

    async def close(self) -> None:
        await self._engine.dispose()


def _migrate(transaction: Transaction) -> None:
    transaction.lock(_MIGRATION_LOCK)
    migrate(transaction.connection)


def _reason(error: BaseException) -> str:
    """What went wrong, without the statement and its parameters: those hold users' texts."""
    cause = error.orig if isinstance(error, sa.exc.DBAPIError) else error
    # The dialect wraps the driver's error, and repeats its class.
    cause = getattr(cause, "__cause__", None) or cause
    return str(cause).split("\n", 1)[0] or type(cause).__name__
