"""Ends calls at their deadline: the client's, or the longest time that the server allows."""

import asyncio
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any, TypeVar

from inferd.services.net.timeouts import SharedTimeout

if TYPE_CHECKING:
    from inferd.services.calls.call import Call

_Answer = TypeVar("_Answer")


class DeadlineLink:
    """Sets `call.deadline`: the client's, or the expiry of `longest` if that is sooner."""

    def __init__(self, longest: SharedTimeout) -> None:
        self._longest = longest

    def enter(self, call: "Call") -> None:
        seconds = call.time_remaining
        is_sooner = seconds is not None and seconds < self._longest.seconds
        call.deadline = Deadline(self._longest, seconds if is_sooner else None)

    def leave(self, call: "Call") -> None:
        if call.deadline is not None:
            call.deadline.close()


class Deadline:
    """Ends the wait for a call's answer at a fixed time."""

    def __init__(self, longest: SharedTimeout, seconds: float | None) -> None:
        """The time is in `seconds`; None: when `longest` expires."""
        self._longest = longest
        self._timer: asyncio.TimerHandle | None = None
        if seconds is None:
            longest.start(self._expire)
        else:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._expire)
        self._waiting: asyncio.Task[Any] | None = None
        self._is_expired = False

    async def wait(self, answer: Awaitable[_Answer]) -> _Answer:
        """Wait for the answer. Raises TimeoutError if the time is up before."""
        self._waiting = task = asyncio.current_task()
        try:
            return await answer
        except asyncio.CancelledError:
            # The cancellation is the deadline's only if nobody else has cancelled the task as well.
            if self._is_expired and task is not None and task.uncancel() == 0:
                raise TimeoutError from None
            raise
        finally:
            self._waiting = None

    def close(self) -> None:
        """The call is over."""
        if self._timer is not None:
            self._timer.cancel()
        else:
            self._longest.cancel(self._expire)

    def _expire(self) -> None:
        self._is_expired = True
        if self._waiting is not None:
            self._waiting.cancel()
