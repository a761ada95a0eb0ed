"""Tells those who wait for jobs when something has happened to theirs, wherever it happened."""

import asyncio
import contextlib
import time
from collections.abc import Iterator
from typing import Any

from inferd.services.net.wait import wait_for_event
from inferd.services.queue.database import Database
from inferd.services.queue.loop import forever
from inferd.services.queue.reading import positions, standings

#: Seconds in which news gather, so that many changes cost one look.
_GATHER = 0.01
#: Seconds between looks that nobody asked for; and between those at positions.
_POLL, _POSITIONS = 2.0, 1.0
#: Numbers in one statement.
_MOST = 500


class Subscription:
    """One who waits for news of a job. `position` is the last one known, where that was asked for."""

    def __init__(self, seq: int, *, with_position: bool) -> None:
        self.seq = seq
        self.with_position = with_position
        self.position: int | None = None
        #: Set: any change may be of interest, as chunks are stored that no standing shows.
        self.eager = False
        # Unlike any: the first look always tells.
        self._standing: tuple[Any, ...] | None = ()
        self._news = asyncio.Event()

    async def wait(self, seconds: float | None = None) -> bool:
        """Wait for news; False where there was none in that time."""
        told = await wait_for_event(self._news, seconds)
        self._news.clear()
        return told

    def tell(self) -> None:
        """Something has happened."""
        self._news.set()

    def update(self, standing: tuple[Any, ...] | None, position: int | None) -> None:
        """What is known now; news where it differs from what was."""
        if standing != self._standing or self.eager or (position is not None and position != self.position):
            self.tell()
        self._standing = standing
        self.position = position if position is not None else self.position


class News:
    """The subscriptions of this process."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._subscriptions: set[Subscription] = set()
        self._touched = asyncio.Event()
        self._next_positions = 0.0

    @contextlib.contextmanager
    def subscribe(self, seq: int, *, with_position: bool = False) -> Iterator[Subscription]:
        """News of job number `seq`."""
        subscription = Subscription(seq, with_position=with_position)
        self._subscriptions.add(subscription)
        try:
            yield subscription
        finally:
            self._subscriptions.discard(subscription)

    def touch(self) -> None:
        """Something has changed in the database."""
        self._touched.set()

    def tell_all(self) -> None:
        """Have everyone look for themselves."""
        for subscription in self._subscriptions:
            subscription.tell()

    async def work(self) -> None:
        """Tell the news until cancelled."""
        await forever("watching jobs", self._look, _GATHER)

    async def _look(self) -> None:
        patience = _POSITIONS if any(one.with_position for one in self._subscriptions) else _POLL
        await wait_for_event(self._touched, patience)
        self._touched.clear()
        waiting = list(self._subscriptions)
        if not waiting:
            return
        found = await self._ask(standings, {one.seq for one in waiting})
        places: dict[int, int] = {}
        began = time.monotonic()
        if began >= self._next_positions:
            places = await self._ask(positions, {one.seq for one in waiting if one.with_position})
            # A look that takes long, in a long queue, is taken less often.
            self._next_positions = time.monotonic() + max(_POSITIONS, 10 * (time.monotonic() - began))
        for one in waiting:
            one.update(found.get(one.seq), places.get(one.seq))

    async def _ask(self, question: Any, seqs: set[int]) -> dict[int, Any]:
        answers: dict[int, Any] = {}
        ordered = sorted(seqs)
        for first in range(0, len(ordered), _MOST):
            answers |= await self._database.read(question, ordered[first : first + _MOST])
        return answers
