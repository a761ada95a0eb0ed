"""Backpressure for a chain of sinks: the writer at the end of the chain pauses it, and its sources wait."""

import asyncio


class Flow:
    """Tells whether a chain of sinks takes more. Each call has one.

    The writer at the end pauses the flow while data waits in its buffer. A source looks at `is_paused` before
    each push, and waits for `room` if it is set. Data that a source cannot hold back may still be pushed: the
    writer's buffer takes it.
    """

    __slots__ = ("_waiters", "is_paused")

    def __init__(self) -> None:
        self.is_paused = False
        self._waiters: list[asyncio.Future[None]] = []

    def pause(self) -> None:
        """Ask the sources to wait."""
        self.is_paused = True

    def resume(self) -> None:
        """Let the sources go on."""
        self.is_paused = False
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def room(self) -> None:
        """Wait until the flow is not paused."""
        while self.is_paused:
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter
