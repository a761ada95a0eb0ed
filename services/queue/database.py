"""What the queue asks of a database: transactions, each a plain function, and word of others' changes.

SQLite and PostgreSQL stand behind it (`sqlite`, `postgres`); the statements are the same for both.
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
    """A transaction under way. `now` is its time, in microseconds of Unix time.

    `lock` waits until no other transaction holds the lock of that number, and holds it to the end.
    `announce` tells the other processes, once it is committed, that something has changed.
    """

    connection: sa.Connection
    now: int
    lock: Callable[[int], None]
    announce: Callable[[], None]

    def execute(self, statement: sa.Executable, parameters: Any = None) -> sa.CursorResult[Any]:
        """Execute one statement; with a list of parameters, once for each."""
        return self.connection.execute(statement, parameters)

    def rows(self, statement: sa.Executable, **parameters: Any) -> list[Any]:
        """All rows that it finds."""
        return list(self.connection.execute(statement, parameters))

    def one(self, statement: sa.Executable, **parameters: Any) -> Any:
        """The row that it finds, or None."""
        return self.connection.execute(statement, parameters).one_or_none()

    def scalar(self, statement: sa.Executable, **parameters: Any) -> Any:
        """The first value of the row that it finds, or None."""
        return self.connection.execute(statement, parameters).scalar()


class Database(Protocol):
    """One of the two. `write` and `read` raise ServiceError UNAVAILABLE (QUEUE_UNAVAILABLE) where the
    database does not do its work: then nothing is stored, or, where its answer was lost, perhaps it is.
    """

    async def open(self) -> None:
        """Connect, and bring the tables up to date: safely while others do the same."""
        ...

    async def write(self, work: Callable[..., T], *arguments: Any) -> T:
        """`work(transaction, *arguments)` in a transaction, which is durable when this returns."""
        ...

    async def read(self, work: Callable[..., T], *arguments: Any) -> T:
        """`work(transaction, *arguments)`, which writes nothing."""
        ...

    async def listen(self, on_change: Callable[[], None]) -> None:
        """Call `on_change` soon after another process has announced a change, until cancelled."""
        ...

    async def close(self) -> None:
        """Release what is held."""
        ...


def unavailable(why: str) -> ServiceError:
    """UNAVAILABLE: the database does not do its work."""
    return ServiceError(
        grpc.StatusCode.UNAVAILABLE,
        "QUEUE_UNAVAILABLE",
        f"the queue's database cannot be used now: {why}",
        retry_after=1,
    )
