"""A timeout that many callers share. All callbacks run on one timer of the event loop.

It is for timeouts that are nearly always cancelled. It measures no deadlines that differ between callers.
"""

import asyncio
from collections.abc import Callable

_Callback = Callable[[], None]


class SharedTimeout:
    """Calls each callback `seconds` after it was started, unless it was cancelled before.

    Because the time is the same for all callbacks, they come due in the order in which they were started. A
    callback costs an entry of a dictionary; a timer of the event loop costs 3 µs.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        #: When each callback is due, by the loop's clock; the earliest first.
        self._due: dict[_Callback, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def start(self, callback: _Callback) -> None:
        """Call `callback` once, after `seconds`. The callback must not raise."""
        loop = asyncio.get_running_loop()
        self._due[callback] = loop.time() + self.seconds
        if self._timer is None:
            self._timer = loop.call_later(self.seconds, self._expire)

    def cancel(self, callback: _Callback) -> None:
        """Do not call `callback`. Does nothing if it is not started, or was called already."""
        self._due.pop(callback, None)

    def _expire(self) -> None:
        self._timer = None
        loop = asyncio.get_running_loop()
        # The loop may call early, by less than the resolution of its clock.
        now = loop.time() + 0.001
        while self._due:
            callback, due = next(iter(self._due.items()))
            if due > now:
                self._timer = loop.call_later(due - now, self._expire)
                return
            del self._due[callback]
            callback()
