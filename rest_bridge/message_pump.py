"""Pulls a stream of messages ahead of its writer, a bounded number of bytes, so that messages that are ready
together are written together, and a wait for the next one can be broken by a keep-alive.

One task and one timer a stream, none a message. Knows neither HTTP nor RPCs.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol, Self

from google.protobuf.message import Message


class _Source(Protocol):
    def __aiter__(self) -> AsyncIterator[Message]: ...

    async def aclose(self) -> None: ...


class MessagePump:
    """Messages as frames: bytes that `take` hands out in order, those that are ready at once.

    `frame` makes a message's bytes. `idle` is what `take` gives after `idle_seconds` without a message. The
    source is closed on leaving the context. A slow taker stops the pulling at `ahead` bytes.
    """

    def __init__(
        self,
        source: _Source,
        frame: Callable[[Message], bytes],
        *,
        idle: bytes,
        idle_seconds: float,
        ahead: int = 16384,
    ) -> None:
        self._source = source
        self._frame = frame
        self._idle = idle
        self._idle_seconds = idle_seconds
        self._ahead = ahead
        self._loop = asyncio.get_running_loop()
        self._frames: list[bytes] = []
        self._size = 0
        self._error: Exception | None = None
        self._ended = False
        self._abandoned: Exception | None = None
        self._is_idle = False
        # The taker, where it waits for something to take; the task, where it waits for room.
        self._taker: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self._taken_at = self._loop.time()
        self._timer = self._loop.call_later(idle_seconds, self._on_timer)
        self._task = self._loop.create_task(self._pull())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: Any) -> None:
        self._timer.cancel()
        self._task.cancel()
        # Not `await self._task`: a second cancellation, of the caller, must not be mistaken for ours.
        await asyncio.wait([self._task])

    @property
    def finished(self) -> bool:
        """Whether all was taken, and the source ended well."""
        return self._ended and not self._frames and self._error is None

    def abandon(self, reason: Exception) -> None:
        """The messages are for nobody any more: `take` raises `reason` from now on."""
        self._abandoned = reason
        _wake(self._taker)

    async def take(self) -> bytes | None:
        """All frames that are ready, joined; waits for the first one. None: the source has ended.

        Raises the source's error, after the frames before it were taken.
        """
        while True:
            if self._abandoned is not None:
                raise self._abandoned
            if self._frames:
                frames = b"".join(self._frames)
                self._frames.clear()
                self._size = 0
                self._taken_at = self._loop.time()
                _wake(self._room)
                return frames
            if self._ended:
                if self._error is not None:
                    raise self._error
                return None
            if self._is_idle:
                self._is_idle = False
                return self._idle
            self._taker = self._loop.create_future()
            try:
                await self._taker
            finally:
                self._taker = None

    async def _pull(self) -> None:
        try:
            try:
                async for message in self._source:
                    frame = self._frame(message)
                    self._frames.append(frame)
                    self._size += len(frame)
                    _wake(self._taker)
                    if self._size >= self._ahead:
                        await self._wait_for_room()
            finally:
                await self._source.aclose()
        except Exception as error:
            self._error = error
        except asyncio.CancelledError:
            # Ours, and nobody takes any more; or of the source itself, and then this is no good end.
            self._error = RuntimeError("the source of the messages was cancelled")
            raise
        finally:
            self._ended = True
            _wake(self._taker)

    async def _wait_for_room(self) -> None:
        self._room = self._loop.create_future()
        try:
            await self._room
        finally:
            self._room = None

    def _on_timer(self) -> None:
        now = self._loop.time()
        quiet = now - self._taken_at
        if self._taker is not None and quiet >= self._idle_seconds:
            self._is_idle = True
            self._taken_at, quiet = now, 0.0
            _wake(self._taker)
        # Where the taker is busy, its own writing keeps the connection alive.
        wait = self._idle_seconds - quiet if quiet < self._idle_seconds else self._idle_seconds
        self._timer = self._loop.call_later(wait, self._on_timer)


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)
