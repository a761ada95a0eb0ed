"""The requests of a call that streams them, handed to its handler as it asks for them."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

from inferd.services.net.http2.framing import FramingError

#: Requests that wait to be read. The flow-control window bounds their bytes, but not how small they are.
_MOST_UNREAD = 4096


class RequestStream:
    """An async iterator. `acknowledge` is told of bytes that were read: as many more may come."""

    def __init__(self, deserialize: Callable[[bytes], Any], acknowledge: Callable[[int], None]) -> None:
        self._deserialize = deserialize
        self._acknowledge = acknowledge
        self._messages: deque[bytes] = deque()
        #: Bytes that came and were not acknowledged.
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
        """That many bytes came, of which requests may be made."""
        self._size += size

    def put(self, message: bytes) -> None:
        """Raises FramingError where too many wait."""
        if len(self._messages) >= _MOST_UNREAD:
            raise FramingError(f"{_MOST_UNREAD} requests were sent before they were read", too_large=True)
        self._messages.append(message)
        self._wake()

    def end(self) -> None:
        """No more will come."""
        self._is_ended = True
        self._wake()

    def acknowledge(self) -> None:
        """Let the client send as much as has come."""
        if self._size:
            self._acknowledge(self._size)
            self._size = 0

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
