"""Several continuations as one stream of pieces; one that fails does not end the others.

Knows nothing of prompts or of what the continuations are of.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence

import grpc
from inferd.services.errors import ServiceError
from inferd.services.generation.piece_reader import Piece
from inferd.services.generation.stream import Stream


async def interleave(
    streams: Sequence[Stream[Piece]], *, all_or_none: bool = False
) -> AsyncGenerator[tuple[int, Piece], None]:
    """Pieces of several continuations, each with its stream's index, as they come.

    A stream that fails ends with a piece whose `finish` is "error", which comes once another stream has given
    one. Raises the first error where all fail; at once where the request itself is at fault
    (INVALID_ARGUMENT), or `all_or_none` is asked for. Closing the generator closes all streams.
    """
    # Bounded, so that a slow reader slows the runtimes and not the memory.
    queue: asyncio.Queue[tuple[int, Piece | Exception | None]] = asyncio.Queue(len(streams))

    async def pump(index: int, stream: Stream[Piece]) -> None:
        try:
            async for piece in stream:
                await queue.put((index, piece))
            await queue.put((index, None))
        except Exception as error:
            await queue.put((index, error))
        finally:
            await stream.aclose()

    pumps = [asyncio.create_task(pump(index, stream)) for index, stream in enumerate(streams)]
    failures = _Failures(len(streams), all_or_none)
    try:
        running = len(pumps)
        while running:
            index, item = await queue.get()
            if isinstance(item, Piece):
                failures.delivered(index)
                yield index, item
            else:
                running -= 1
                if item is not None:
                    failures.add(index, item)
            for failed, error in failures.due():
                yield failed, Piece("", (), "error", error=error)
    finally:
        for task in pumps:
            task.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)


class _Failures:
    """Errors of streams, while it is open whether all of them fail."""

    def __init__(self, streams: int, all_or_none: bool) -> None:
        self._streams = streams
        self._all_or_none = all_or_none
        self._first: ServiceError | None = None
        self._count = 0
        self._held: list[tuple[int, ServiceError]] = []
        #: Streams that have given a piece, up to two: enough to know of another one than any.
        self._delivered: set[int] = set()

    def delivered(self, index: int) -> None:
        """That stream has given a piece."""
        if len(self._delivered) < 2:
            self._delivered.add(index)

    def add(self, index: int, error: Exception) -> None:
        """That stream has failed. Raises where no stream is to go on, or none is left."""
        if not isinstance(error, ServiceError) or error.code is grpc.StatusCode.INVALID_ARGUMENT:
            raise error
        self._count += 1
        self._first = self._first or error
        if self._all_or_none or self._count == self._streams:
            raise self._first
        self._held.append((index, error))

    def due(self) -> list[tuple[int, ServiceError]]:
        """The failures to tell now: another stream than theirs has given a piece."""
        if not self._held:
            return []
        due = [held for held in self._held if self._delivered - {held[0]}]
        self._held = [held for held in self._held if held not in due]
        return due
