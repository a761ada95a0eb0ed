"""The HTTP/1.1 clients of the load generator, on plain bytes: one kept connection for each stream."""

import asyncio
import itertools
import re
from typing import TYPE_CHECKING, Any

from benchmarks.suite.job import NUMBER, Job

if TYPE_CHECKING:
    from benchmarks.suite.load import Call

#: Bytes that are kept of the end of an answer. The last events (finish, usage, [DONE]) are shorter.
_TAIL = 2048
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_numbers = itertools.count(100_000)


class RestClient(asyncio.Protocol):
    """One connection. If the server has closed it, the next call opens it again."""

    def __init__(self, job: Job) -> None:
        body = bytes.fromhex(job.request)
        head = (
            f"POST {job.path} HTTP/1.1\r\nhost: 127.0.0.1:{job.port}\r\ncontent-type: application/json\r\n"
            f"accept: */*\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        self._before, self._after = (head.encode() + body).split(NUMBER.encode())
        self._port = job.port
        self._streamed = job.streamed
        self._first = job.first.encode()
        self._transport: Any = None
        self._done: asyncio.Future[None] | None = None

    async def ask(self, call: "Call") -> None:
        """Send the request, and wait for the end of its answer."""
        loop = asyncio.get_running_loop()
        if self._transport is None:
            await loop.create_connection(lambda: self, "127.0.0.1", self._port)
        self._call = call
        self._tail = b""
        self._head_read = False
        self._left: int | None = None
        self._done = loop.create_future()
        number = b"%06d" % (next(_numbers) % 1_000_000)
        self._transport.write(number.join((self._before, self._after)))
        await self._done

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._end(f"the connection was lost: {error}")

    def data_received(self, data: bytes) -> None:
        if self._done is None:
            return
        if not self._head_read:
            data = self._tail + data
            head, blank, rest = data.partition(b"\r\n\r\n")
            if not blank:
                self._tail = data
                return
            self._head_read = True
            self._tail = b""
            if not head.startswith(b"HTTP/1.1 200"):
                self._end(f"{head[:40]!r} {rest[:200]!r}")
                self._transport.abort()
                return
            if found := _LENGTH.search(head):
                self._left = int(found[1])
            data = rest
        events = data.count(b"data: ")
        self._call.received(len(data), events, bool(data) and self._first in data)
        tail = self._tail = data if len(data) > _TAIL else (self._tail + data)[-_TAIL:]
        if self._left is not None:
            self._left -= len(data)
            if self._left <= 0:
                self._end()
        elif tail.endswith(b"0\r\n\r\n") and (tail[-7:-5] == b"\r\n" or tail == b"0\r\n\r\n"):
            self._end()

    def _end(self, error: str = "") -> None:
        done, self._done = self._done, None
        if done is not None and not done.done():
            self._call.ended(self._tail, error)
            done.set_result(None)


async def open_rest(job: Job) -> list[RestClient]:
    """A client for each stream of the job. A client connects when it is first used."""
    return [RestClient(job) for _ in range(job.streams)]
