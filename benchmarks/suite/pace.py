"""The steps of a simulated engine. In one step, every running stream gets its next token."""

import asyncio
from collections.abc import Callable


class Pace:
    """Calls `step` `rate` times a second until it returns false; if the rate is 0, without a pause.

    If a step is late, the steps after it are late, too, as in an engine.
    """

    def __init__(self, step: Callable[[], bool]) -> None:
        self._step = step
        self._loop = asyncio.get_running_loop()
        self._running = False
        self._next = 0.0
        #: Steps a second. 0 means as fast as the client reads.
        self.rate = 0.0

    def wake(self) -> None:
        """Begin to call `step`, unless it is being called already."""
        if not self._running:
            self._running = True
            if self.rate:
                # Steps stay on their grid of times, whenever this request came.
                period = 1 / self.rate
                now = self._loop.time()
                self._next = max(self._next, now - (now - self._next) % period) + period
                self._loop.call_at(self._next, self._tick)
            else:
                self._loop.call_soon(self._tick)

    def _tick(self) -> None:
        if not self._step():
            self._running = False
        elif self.rate:
            self._next = max(self._next + 1 / self.rate, self._loop.time())
            self._loop.call_at(self._next, self._tick)
        else:
            self._loop.call_soon(self._tick)
