"""The interface of the queue's database: transactions, and notice of changes by other processes.

`sqlite` and `postgres` implement it. A transaction is a plain function over `Transaction`, and its SQL
statements are the same for both databases.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import grpc
import sqlalchemy as sa

from inferd.services.errors import ServiceError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Transaction:
    """An open transaction. `now` is its time by the database's clock, in microseconds of Unix time.

    `lock(number)` waits until no other transaction holds the lock of that number, and holds the lock until
    the transaction ends. `announce()` notifies the other processes of a change, once the transaction is
    committed.
    """

    connection: sa.Connection
    now: int
    lock: Callable[[int], None]
    announce: Callable[[], None]

    def execute(self, statement: sa.Executable, parameters: Any = None) -> sa.CursorResult[Any]:
        """Execute a statement once, or once for each item of a list of parameters."""
        return self.connection.execute(statement, parameters)

    def rows(self, statement: sa.Executable, **parameters: Any) -> list[Any]:
        """All rows of the result."""
        return list(self.connection.execute(statement, parameters))

    def one(self, statement: sa.Executable, **parameters: Any) -> Any:
        """The only row of the result; None if the result is empty."""
        return self.connection.execute(statement, parameters).one_or_none()

    def scalar(self, statement: sa.Executable, **parameters: Any) -> Any:
        """The first value of the first row; None if the result is empty."""
        return self.connection.execute(statement, parameters).scalar()


class Database(Protocol):
    """A SQLite or PostgreSQL database.

    `write` and `read` raise ServiceError UNAVAILABLE (QUEUE_UNAVAILABLE) if the database cannot be reached or
    fails. Then nothing was stored, unless the commit succeeded and only its reply was lost.
    """

    async def open(self) -> None:
        """Connect, and migrate the tables. Several processes may do so at once."""
        ...

    async def write(self, work: Callable[..., T], *arguments: Any) -> T:
        """Call `work(transaction, *arguments)` in a transaction, which is durable when `write` returns."""
        ...

    async def read(self, work: Callable[..., T], *arguments: Any) -> T:
        """Call `work(transaction, *arguments)`, which must not write."""
        ...

    async def listen(self, on_change: Callable[[], None]) -> None:
        """Call `on_change` soon after another process has announced a change. Runs until cancelled."""
        ...

    async def close(self) -> None:
        """Close all connections."""
        ...


def unavailable(why: str) -> ServiceError:
    """The error UNAVAILABLE: the database cannot be reached or fails."""
    return ServiceError(
        grpc.StatusCode.UNAVAILABLE,
        "QUEUE_UNAVAILABLE",
        f"the queue's database cannot be used now: {why}",
        retry_after=1,
    )
