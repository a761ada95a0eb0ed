"""Group commit: writes that arrive while a transaction runs share the next transaction, and its one disk
sync.

It does not know what is written; the caller gives a function that writes a list of items.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from inferd.services.errors import ServiceError

Item = TypeVar("Item")
Result = TypeVar("Result")

#: The most items of one transaction.
_MAX_ITEMS = 200


class GroupCommit(Generic[Item, Result]):
    """Calls `run` with the items of a transaction. `run` returns a result or an error for each item."""

    def __init__(self, run: Callable[[list[Item]], Awaitable[Sequence[Result | ServiceError]]]) -> None:
        self._run = run
        self._waiting: deque[tuple[Item, asyncio.Future[Result]]] = deque()
        self._draining: asyncio.Task[None] | None = None

    async def commit(self, item: Item) -> Result:
        """Write `item` and return its result. If the caller is cancelled, `item` is written nevertheless."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._draining is None:
            self._draining = asyncio.create_task(self._drain(), name="queue batch")
        return await future

    async def _drain(self) -> None:
        try:
            while self._waiting:
                batch = [self._waiting.popleft() for _ in range(min(_MAX_ITEMS, len(self._waiting)))]
                await self._commit_batch(batch)
        finally:
            self._draining = None

    async def _commit_batch(self, batch: list[tuple[Item, asyncio.Future[Result]]]) -> None:
        try:
            results = await self._run([item for item, _ in batch])
        except ServiceError as error:
            results = [error] * len(batch)
        except Exception as error:
            # One bad item must not fail the others, so each item is written alone.
            if len(batch) > 1:
                for entry in batch:
                    await self._commit_batch([entry])
            elif not batch[0][1].done():
                batch[0][1].set_exception(error)
            return
        for (_, future), result in zip(batch, results, strict=True):
            if future.done():
                continue
            if isinstance(result, ServiceError):
                future.set_exception(result)
            else:
                future.set_result(result)
