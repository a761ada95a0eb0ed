"""Calls back a fixed time after it was asked to, with one timer of the event loop for all who ask."""

import asyncio
from collections.abc import Callable

_Callback = Callable[[], None]


class Alarms:
    """`seconds` are the same for all, so that they come due in the order in which they were set. One that is
    cancelled in time, as nearly all are, costs an entry of a dictionary; a timer of its own costs 3 µs."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        #: When each is due, by the loop's time; the earliest first.
        self._due: dict[_Callback, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def set(self, callback: _Callback) -> None:
        """Call it once, in `seconds`. It is not to raise."""
        loop = asyncio.get_running_loop()
        self._due[callback] = loop.time() + self.seconds
        if self._timer is None:
            self._timer = loop.call_later(self.seconds, self._ring)

    def cancel(self, callback: _Callback) -> None:
        """Do not call it, where it was not called yet."""
        self._due.pop(callback, None)

    def _ring(self) -> None:
        self._timer = None
        loop = asyncio.get_running_loop()
        # The loop may be early by what its clock does not tell.
        now = loop.time() + 0.001
        while self._due:
            callback, due = next(iter(self._due.items()))
            if due > now:
                self._timer = loop.call_later(due - now, self._ring)
                return
            del self._due[callback]
            callback()
