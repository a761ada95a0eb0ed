"""One HTTP/2 connection: what speaks the protocol, between a socket and those who use its streams.

Here is what that leaves to its user: the socket, waiting for room to send, and finding out that the other
side is gone. DATA frames, one a token, go around h2's machinery where it would only count them: that is 2 µs
instead of 7.
"""

import asyncio
from collections import deque
from collections.abc import Mapping
from typing import Any, Protocol

from inferd.services.net.http2.frames import GOAWAY, frame_bytes

#: Seconds that the other side may take to answer a ping.
PING_TIMEOUT = 10.0


class ConnectionLost(ConnectionError):
    """The connection, or the stream that was written to, is closed."""


class Http2Stream(Protocol):
    """A stream, as h2 has it. The window is what may be sent, in bytes."""

    outbound_flow_control_window: int

    @property
    def closed(self) -> bool: ...


class Http2(Protocol):
    """What speaks the protocol: h2, or as much of it as is used here, under the same names."""

    outbound_flow_control_window: int
    max_outbound_frame_size: int

    @property
    def streams(self) -> Mapping[int, Http2Stream]: ...
    def data_to_send(self) -> bytes: ...
    def send_data(self, stream_id: int, data: memoryview, end_stream: bool = False) -> None: ...
    def ping(self, opaque_data: bytes) -> None: ...


class Connection(asyncio.Protocol):
    """To be subclassed: `receive` gets what comes, `on_lost` the end.

    After `quiet_seconds` in which nothing came, the other side is sent a ping; without an answer the
    connection is closed.
    """

    transport: asyncio.Transport

    def __init__(self, connection: Http2, *, quiet_seconds: float) -> None:
        self._http2 = connection
        self.is_lost = False
        self._loop = asyncio.get_running_loop()
        self._is_paused = False
        #: Those who wait for room in the connection, in turn: each wakes the next one while there is some.
        self._queue: deque[asyncio.Future[None]] = deque()
        #: The one whose turn it is, until it runs.
        self._turn: asyncio.Future[None] | None = None
        #: Those who wait for room in their stream, by its id.
        self._blocked: dict[int, asyncio.Future[None]] = {}
        self._quiet_seconds = quiet_seconds
        self._heard = True
        self._timer: asyncio.TimerHandle | None = None

    # What a subclass does.

    def receive(self, data: bytes) -> None:
        """These bytes came."""
        raise NotImplementedError

    def on_lost(self) -> None:
        """The connection is closed: its streams are dead."""
        raise NotImplementedError

    # asyncio.Protocol.

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self._timer = self._loop.call_later(self._quiet_seconds, self._check_quiet)
        self.flush()

    def data_received(self, data: bytes) -> None:
        self._heard = True
        self.receive(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.is_lost:
            return
        self.is_lost = True
        if self._timer is not None:
            self._timer.cancel()
        self._wake()
        self.on_lost()

    def pause_writing(self) -> None:
        self._is_paused = True

    def resume_writing(self) -> None:
        self._is_paused = False
        self._wake_next()

    # For subclasses and those who use streams.

    def shut(self) -> None:
        """Close the connection, whether or not the other side reads what is still to be sent."""
        self.flush()
        self.transport.close()
        self._loop.call_later(PING_TIMEOUT, self.transport.abort)
        # Its streams are dead from now on.
        self.connection_lost(None)

    def flush(self) -> None:
        """Send what there is to send."""
        data = self._http2.data_to_send()
        if data and not self.transport.is_closing():
            self.transport.write(data)

    def send_now(self, stream_id: int, data: bytes) -> bool:
        """Send all of `data` as one DATA frame, if there is room. Raises ConnectionLost."""
        connection = self._http2
        stream = connection.streams.get(stream_id)
        if stream is None or self.is_lost or stream.closed:
            raise ConnectionLost
        size = len(data)
        if (
            self._is_paused
            or self._queue
            or size > stream.outbound_flow_control_window
            or size > connection.outbound_flow_control_window
            or size > connection.max_outbound_frame_size
        ):
            return False
        # What h2's send_data does, without the objects that it makes.
        stream.outbound_flow_control_window -= size
        connection.outbound_flow_control_window -= size
        self.transport.write(size.to_bytes(3, "big") + b"\0\0" + stream_id.to_bytes(4, "big") + data)
        return True

    async def send(self, stream_id: int, data: bytes, *, end_stream: bool = False) -> None:
        """Send `data`, as room for it comes. Raises ConnectionLost."""
        rest = memoryview(data)
        connection = self._http2
        has_turn = False
        try:
            while rest or end_stream:
                stream = connection.streams.get(stream_id)
                if self.is_lost or stream is None or stream.closed:
                    raise ConnectionLost
                window = stream.outbound_flow_control_window
                if rest and window <= 0:
                    await self._wait_for_stream(stream_id)
                    continue
                has_room = connection.outbound_flow_control_window > 0 or not rest
                if self._is_paused or not has_room or (self._queue and rest and not has_turn):
                    await self._wait_for_turn()
                    has_turn = True
                    continue
                has_turn = False
                room = min(
                    window, connection.outbound_flow_control_window, connection.max_outbound_frame_size
                )
                part, rest = rest[: max(0, room)], rest[max(0, room) :]
                last = end_stream and not rest
                connection.send_data(stream_id, part, end_stream=last)
                self.flush()
                if last:
                    return
        finally:
            self._wake_next()

    def send_goaway(self, last_stream_id: int) -> None:
        """Tell the other side that no stream after this one will be served. Those that run go on, which h2's
        `close_connection` would not let them."""
        payload = last_stream_id.to_bytes(4, "big") + b"\0\0\0\0"
        self.flush()
        self.transport.write(frame_bytes(GOAWAY, 0, 0, payload))

    async def _wait_for_stream(self, stream_id: int) -> None:
        # Others can use what room the connection has.
        self._wake_next()
        self._blocked[stream_id] = waiter = self._loop.create_future()
        try:
            await waiter
        finally:
            self._blocked.pop(stream_id, None)

    async def _wait_for_turn(self) -> None:
        waiter = self._loop.create_future()
        self._queue.append(waiter)
        self._wake_next()
        try:
            await waiter
        finally:
            if self._turn is waiter:
                self._turn = None

    def _widened(self, stream_id: int) -> None:
        """There is room in a stream, or in the connection (0)."""
        if stream_id == 0:
            self._wake_next()
        elif stream_id in self._blocked:
            _release(self._blocked[stream_id])

    def _wake_next(self) -> None:
        """Give the room that the connection has to the first who waits for it."""
        while self._queue and self._turn is None:
            if self._is_paused or self._http2.outbound_flow_control_window <= 0:
                return
            waiter = self._queue.popleft()
            if not waiter.done():
                self._turn = waiter
                waiter.set_result(None)

    def _wake(self) -> None:
        """Have all who wait look again."""
        for waiter in (*self._queue, *self._blocked.values()):
            _release(waiter)
        self._queue.clear()

    def _check_quiet(self) -> None:
        if self._heard:
            self._heard = False
            self._timer = self._loop.call_later(self._quiet_seconds, self._check_quiet)
            return
        self._http2.ping(b"inferd\0\0")
        self.flush()
        self._timer = self._loop.call_later(PING_TIMEOUT, self._check_answered)

    def _check_answered(self) -> None:
        if self._heard:
            self._check_quiet()
        else:
            # Not close(): that waits until what is written was sent.
            self.transport.abort()


def _release(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
