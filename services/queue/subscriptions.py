"""Tells those who wait for jobs when something has happened to theirs, wherever it happened."""

import asyncio
import contextlib
import time
from collections.abc import Iterator
from typing import Any

from inferd.services.net.wait import wait_for_event
from inferd.services.queue.database import Database
from inferd.services.queue.queries import job_progress, queue_positions
from inferd.services.queue.repeat import repeat

#: Seconds in which news gather, so that many changes cost one look.
_GATHER = 0.01
#: Seconds between looks that nobody asked for; and between those at positions.
_POLL, _POSITION_POLL = 2.0, 1.0
#: Numbers in one statement.
_MAX_PARAMETERS = 500


class Subscription:
    """One who waits for news of a job. `position` is the last one known, where that was asked for."""

    def __init__(self, seq: int, *, with_position: bool) -> None:
        self.seq = seq
        self.with_position = with_position
        self.position: int | None = None
        #: Set: any change may be of interest, as chunks are stored that no progress shows.
        self.wants_chunks = False
        # Unlike any: the first look always tells.
        self._progress: tuple[Any, ...] | None = ()
        self._notified = asyncio.Event()

    async def wait(self, seconds: float | None = None) -> bool:
        """Wait for news; False where there was none in that time."""
        notified = await wait_for_event(self._notified, seconds)
        self._notified.clear()
        return notified

    def notify(self) -> None:
        """Something has happened."""
        self._notified.set()

    def update(self, progress: tuple[Any, ...] | None, position: int | None) -> None:
        """What is known now; news where it differs from what was."""
        if (
            progress != self._progress
            or self.wants_chunks
            or (position is not None and position != self.position)
        ):
            self.notify()
        self._progress = progress
        self.position = position if position is not None else self.position


class Subscriptions:
    """The subscriptions of this process."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._subscriptions: set[Subscription] = set()
        self._check_now = asyncio.Event()
        self._next_position_check = 0.0

    @contextlib.contextmanager
    def subscribe(self, seq: int, *, with_position: bool = False) -> Iterator[Subscription]:
        """Subscriptions of job number `seq`."""
        subscription = Subscription(seq, with_position=with_position)
        self._subscriptions.add(subscription)
        try:
            yield subscription
        finally:
            self._subscriptions.discard(subscription)

    def check_soon(self) -> None:
        """Something has changed in the database."""
        self._check_now.set()

    def notify_all(self) -> None:
        """Have everyone look for themselves."""
        for subscription in self._subscriptions:
            subscription.notify()

    async def work(self) -> None:
        """Tell the news until cancelled."""
        await repeat("watching jobs", self._check, _GATHER)

    async def _check(self) -> None:
        patience = _POSITION_POLL if any(one.with_position for one in self._subscriptions) else _POLL
        await wait_for_event(self._check_now, patience)
        self._check_now.clear()
        waiting = list(self._subscriptions)
        if not waiting:
            return
        found = await self._ask(job_progress, {one.seq for one in waiting})
        places: dict[int, int] = {}
        began = time.monotonic()
        if began >= self._next_position_check:
            places = await self._ask(queue_positions, {one.seq for one in waiting if one.with_position})
            # A look that takes long, in a long queue, is taken less often.
            self._next_position_check = time.monotonic() + max(
                _POSITION_POLL, 10 * (time.monotonic() - began)
            )
        for one in waiting:
            one.update(found.get(one.seq), places.get(one.seq))

    async def _ask(self, question: Any, seqs: set[int]) -> dict[int, Any]:
        answers: dict[int, Any] = {}
        ordered = sorted(seqs)
        for first in range(0, len(ordered), _MAX_PARAMETERS):
            answers |= await self._database.read(question, ordered[first : first + _MAX_PARAMETERS])
        return answers
