"""Notifies the waiting calls of this process when their jobs change, whichever process changes them.

One query for all subscriptions finds what has changed. Waiting calls then read the job themselves.
"""

import asyncio
import contextlib
import time
from collections.abc import Iterator
from typing import Any

from inferd.services.net.wait import wait_for_event
from inferd.services.queue.database import Database
from inferd.services.queue.queries import job_progress, queue_positions
from inferd.services.queue.repeat import repeat

#: Seconds between two checks, so that many changes cost one query.
_GATHER = 0.01
#: Seconds until a check without a known change: of jobs, and of positions in the queue.
_POLL, _POSITION_POLL = 2.0, 1.0
#: The most job numbers in one SQL statement.
_MAX_PARAMETERS = 500


class Subscription:
    """A call that waits for changes of a job. `position` is the last known one, if `with_position`."""

    def __init__(self, seq: int, *, with_position: bool) -> None:
        self.seq = seq
        self.with_position = with_position
        self.position: int | None = None
        #: If set, `wait` returns after every check, because new chunks do not show in `job_progress`.
        self.wants_chunks = False
        # Unequal to any progress, so that the first check notifies.
        self._progress: tuple[Any, ...] | None = ()
        self._notified = asyncio.Event()

    async def wait(self, seconds: float | None = None) -> bool:
        """Wait for a notification, at most `seconds`. Returns whether there was one."""
        notified = await wait_for_event(self._notified, seconds)
        self._notified.clear()
        return notified

    def notify(self) -> None:
        """Let `wait` return."""
        self._notified.set()

    def update(self, progress: tuple[Any, ...] | None, position: int | None) -> None:
        """Notify if the job's progress or position differs from the last known one."""
        if (
            progress != self._progress
            or self.wants_chunks
            or (position is not None and position != self.position)
        ):
            self.notify()
        self._progress = progress
        self.position = position if position is not None else self.position


class Subscriptions:
    """All subscriptions of this process."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._subscriptions: set[Subscription] = set()
        self._check_now = asyncio.Event()
        self._next_position_check = 0.0

    @contextlib.contextmanager
    def subscribe(self, seq: int, *, with_position: bool = False) -> Iterator[Subscription]:
        """Subscribe to changes of job number `seq`, while the context is open."""
        subscription = Subscription(seq, with_position=with_position)
        self._subscriptions.add(subscription)
        try:
            yield subscription
        finally:
            self._subscriptions.discard(subscription)

    def check_soon(self) -> None:
        """The database has changed: check the jobs now."""
        self._check_now.set()

    def notify_all(self) -> None:
        """Let every waiting call read its job again."""
        for subscription in self._subscriptions:
            subscription.notify()

    async def work(self) -> None:
        """Check the jobs until cancelled."""
        await repeat("watching jobs", self._check, _GATHER)

    async def _check(self) -> None:
        poll = _POSITION_POLL if any(one.with_position for one in self._subscriptions) else _POLL
        await wait_for_event(self._check_now, poll)
        self._check_now.clear()
        waiting = list(self._subscriptions)
        if not waiting:
            return
        found = await self._read(job_progress, {one.seq for one in waiting})
        places: dict[int, int] = {}
        began = time.monotonic()
        if began >= self._next_position_check:
            places = await self._read(queue_positions, {one.seq for one in waiting if one.with_position})
            # If the query takes long, because the queue is long, it is made less often.
            self._next_position_check = time.monotonic() + max(
                _POSITION_POLL, 10 * (time.monotonic() - began)
            )
        for one in waiting:
            one.update(found.get(one.seq), places.get(one.seq))

    async def _read(self, query: Any, seqs: set[int]) -> dict[int, Any]:
        rows: dict[int, Any] = {}
        ordered = sorted(seqs)
        for first in range(0, len(ordered), _MAX_PARAMETERS):
            rows |= await self._database.read(query, ordered[first : first + _MAX_PARAMETERS])
        return rows
