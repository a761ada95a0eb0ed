"""Batches the writes of an event loop's connections: one write per connection and turn of the loop.

A write to a socket costs 10 to 20 µs in the kernel and evicts the interpreter's data from the processor's
caches. If all messages of a turn are built first and written afterwards, the turn costs a tenth less. This
module knows no protocol, and limits neither the speed of a peer nor the bytes that its transport holds.
"""

import asyncio
from collections.abc import Iterable
from typing import Any
from weakref import WeakKeyDictionary

#: The most connections of a batch. The connection that fills the batch causes the writes.
_MAX_CONNECTIONS = 64
#: A connection with this many unwritten bytes is written at once. The limit is small, because asyncio reports
#: a peer that reads slowly only after bytes were given to the transport.
_MAX_BYTES = 16384


class WriteBatch:
    """The connections of one event loop that have bytes to write.

    They are written soon after the first one was added. Inside a `with` statement, such as around the
    handling of all frames of one read, they are written when the statement ends.
    """

    __slots__ = ("_is_held", "_loop", "_waiting")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._is_held = False
        self._waiting: list[BatchedTransport] = []

    def __enter__(self) -> None:
        self._is_held = True

    def __exit__(self, *_: object) -> None:
        self._is_held = False
        if self._waiting:
            self._write()

    def add(self, transport: "BatchedTransport") -> None:
        """Add a transport that has had nothing to write until now."""
        waiting = self._waiting
        if not waiting and not self._is_held:
            self._loop.call_soon(self._write)
        waiting.append(transport)
        if len(waiting) >= _MAX_CONNECTIONS:
            self._write()

    def _write(self) -> None:
        waiting, self._waiting = self._waiting, []
        for transport in waiting:
            transport.flush()


class BatchedTransport:
    """A transport that joins the writes of one turn of the event loop into one write.

    Everything but writing and closing is the wrapped transport's.
    """

    __slots__ = ("_batch", "_parts", "_size", "_transport")

    def __init__(self, transport: asyncio.Transport, batch: WriteBatch) -> None:
        self._transport = transport
        self._batch = batch
        self._parts: list[bytes] = []
        self._size = 0

    def write(self, data: bytes) -> None:
        parts = self._parts
        parts.append(data)
        if len(parts) == 1:
            self._batch.add(self)
        self._size += len(data)
        if self._size >= _MAX_BYTES:
            self.flush()

    def writelines(self, parts: Iterable[bytes]) -> None:
        self.write(b"".join(parts))

    def flush(self) -> None:
        """Give the bytes to the wrapped transport now."""
        parts = self._parts
        if parts:
            self._parts = []
            self._size = 0
            self._transport.write(parts[0] if len(parts) == 1 else b"".join(parts))

    def close(self) -> None:
        self.flush()
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


_batches: WeakKeyDictionary[asyncio.AbstractEventLoop, WriteBatch] = WeakKeyDictionary()


def write_batch_of(loop: asyncio.AbstractEventLoop) -> WriteBatch:
    """The one batch that all connections of `loop` share."""
    batch = _batches.get(loop)
    if batch is None:
        batch = _batches[loop] = WriteBatch(loop)
    return batch


def batched_transport(transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> BatchedTransport:
    """Wrap the transport so that its writes are batched with those of the loop's other connections."""
    return BatchedTransport(transport, write_batch_of(loop))
