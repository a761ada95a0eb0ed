"""The requests of a call that streams them, as an iterator for the handler. Splits no messages."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

#: Requests that may wait to be read. The flow-control window bounds their bytes, and not their number.
_MAX_UNREAD = 4096


class TooManyUnread(Exception):
    """The client sends requests faster than the handler reads them."""


class RequestStream:
    """An async iterator. It calls `acknowledge` with the number of bytes that the client may send more."""

    def __init__(self, deserialize: Callable[[bytes], Any], acknowledge: Callable[[int], None]) -> None:
        self._deserialize = deserialize
        self._acknowledge = acknowledge
        self._messages: deque[bytes] = deque()
        #: Bytes that were received and not acknowledged.
        self._size = 0
        self._is_ended = False
        self._waiter: asyncio.Future[None] | None = None

    def __aiter__(self) -> "RequestStream":
        return self

    async def __anext__(self) -> Any:
        while not self._messages:
            self.acknowledge()
            if self._is_ended:
                raise StopAsyncIteration
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return self._deserialize(self._messages.popleft())

    def received(self, size: int) -> None:
        """Count bytes that arrived."""
        self._size += size

    def put(self, message: bytes) -> None:
        """Add a request. Raises TooManyUnread if too many wait."""
        if len(self._messages) >= _MAX_UNREAD:
            raise TooManyUnread(f"{_MAX_UNREAD} requests were sent before they were read")
        self._messages.append(message)
        self._wake()

    def end(self) -> None:
        """End the iteration after the requests that wait."""
        self._is_ended = True
        self._wake()

    def acknowledge(self) -> None:
        """Acknowledge all bytes that arrived, so that the client may send as many more."""
        if self._size:
            self._acknowledge(self._size)
            self._size = 0

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
