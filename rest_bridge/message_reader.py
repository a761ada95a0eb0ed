"""Reads a stream of messages one by one, in the task that writes them: a wait for the next one can be given
up, and one that lasts is told.

No task, and nothing a message. Knows neither HTTP nor RPCs.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Protocol, Self

from google.protobuf.message import Message
from inferd.services.net.timeouts import SharedTimeout


class _Source(Protocol):
    def __aiter__(self) -> AsyncIterator[Message]: ...

    async def aclose(self) -> None: ...


class MessageReader:
    """To be made and used by one task. The source is closed on leaving the context.

    `on_idle` is called each time that `next` has waited for `idle_timeout`; what it does is done
    before `next` returns. `was_busy` tells whether messages went another way since it was asked last.
    """

    def __init__(
        self,
        source: _Source,
        *,
        on_idle: Callable[[], Awaitable[None]],
        idle_timeout: SharedTimeout,
        was_busy: Callable[[], bool] = lambda: False,
    ) -> None:
        self._source = source
        self._messages = aiter(source)
        self._on_idle = on_idle
        self._was_busy = was_busy
        self._idle_timeout = idle_timeout
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._is_waiting = False
        self._abandoned: Exception | None = None
        self._last = self._loop.time()
        idle_timeout.start(self._look)
        #: Where it is to be looked again sooner than after `idle_timeout`.
        self._timer: asyncio.TimerHandle | None = None
        self._idling: asyncio.Future[None] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: Any) -> None:
        self._idle_timeout.cancel(self._look)
        if self._timer is not None:
            self._timer.cancel()
        if self._idling is not None:
            self._idling.cancel()
        await self._source.aclose()

    def abandon(self, reason: Exception) -> None:
        """The messages are for nobody any more: `next` raises `reason` from now on."""
        self._abandoned = reason
        if self._is_waiting and self._task is not None:
            self._task.cancel()

    async def next(self) -> Message | None:
        """The next message; None: the source has ended. Raises the source's error."""
        if self._abandoned is not None:
            raise self._abandoned
        self._is_waiting = True
        try:
            message = await anext(self._messages, None)
        except asyncio.CancelledError:
            # Ours only, where nobody else has cancelled the task as well.
            if self._abandoned is not None and self._task is not None and self._task.uncancel() == 0:
                raise self._abandoned from None
            raise
        finally:
            self._is_waiting = False
        self._last = self._loop.time()
        if self._idling is not None:
            await asyncio.wait([self._idling])
            self._idling = None
        return message

    def _look(self) -> None:
        """Whether it has been quiet for long."""
        now = self._loop.time()
        if self._was_busy():
            self._last = now
        quiet = now - self._last
        if self._is_waiting and quiet >= self._idle_timeout.seconds:
            self._idling = asyncio.ensure_future(self._on_idle())
            self._last, quiet = now, 0.0
        # Where it is not read, its reader's own writing keeps the connection alive.
        if 0 < quiet < self._idle_timeout.seconds:
            self._timer = self._loop.call_later(self._idle_timeout.seconds - quiet, self._look)
        else:
            self._idle_timeout.start(self._look)
