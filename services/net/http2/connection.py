"""One HTTP/2 connection: the socket, waiting for room to send, and pings of a silent peer.

Leaves the protocol to h2 (server) or `client_frames` (client). Only DATA frames, one a token, are written
without h2, because that takes 2 µs instead of 7.
"""

import asyncio
from collections import deque
from collections.abc import Mapping
from typing import Any, Protocol

from inferd.services.net.http2.frames import GOAWAY, frame_bytes

#: Seconds that the peer may take to answer a ping.
PING_TIMEOUT = 10.0


class ConnectionLost(ConnectionError):
    """The connection is closed, or the stream is."""


class Http2Stream(Protocol):
    """The part of h2's stream that is used here. The window is the number of bytes that may be sent."""

    outbound_flow_control_window: int

    @property
    def closed(self) -> bool: ...


class Http2(Protocol):
    """The part of h2's connection that is used here. `ClientFrames` has the same names."""

    outbound_flow_control_window: int
    max_outbound_frame_size: int

    @property
    def streams(self) -> Mapping[int, Http2Stream]: ...
    def data_to_send(self) -> bytes: ...
    def send_data(self, stream_id: int, data: memoryview, end_stream: bool = False) -> None: ...
    def ping(self, opaque_data: bytes) -> None: ...


class Connection(asyncio.Protocol):
    """To be subclassed.

    After `quiet_seconds` in which nothing arrived, the peer is sent a ping (RFC 9113, 6.7). If nothing
    arrives within `PING_TIMEOUT` either, the connection is closed.
    """

    transport: asyncio.Transport

    def __init__(self, connection: Http2, *, quiet_seconds: float) -> None:
        self._http2 = connection
        self.is_lost = False
        self._loop = asyncio.get_running_loop()
        self._is_paused = False
        #: Senders that wait for room in the connection, in order. Each wakes the next one.
        self._connection_waiters: deque[asyncio.Future[None]] = deque()
        #: The sender that was woken and has not run yet.
        self._woken: asyncio.Future[None] | None = None
        #: Senders that wait for room in their stream, by the id of the stream.
        self._stream_waiters: dict[int, asyncio.Future[None]] = {}
        self._quiet_seconds = quiet_seconds
        self._has_received = True
        self._timer: asyncio.TimerHandle | None = None

    # Implemented by a subclass.

    def receive(self, data: bytes) -> None:
        """Handle bytes that arrived."""
        raise NotImplementedError

    def on_lost(self) -> None:
        """End all streams, because the connection is closed."""
        raise NotImplementedError

    # Called by asyncio.

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self._timer = self._loop.call_later(self._quiet_seconds, self._check_quiet)
        self.flush()

    def data_received(self, data: bytes) -> None:
        self._has_received = True
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

    # For subclasses and for senders.

    def close_soon(self) -> None:
        """Close the connection once the rest is sent, but after `PING_TIMEOUT` at the latest."""
        self.flush()
        self.transport.close()
        self._loop.call_later(PING_TIMEOUT, self.transport.abort)
        # The streams end now, and not when the socket is closed.
        self.connection_lost(None)

    def flush(self) -> None:
        """Write the frames that the protocol has collected."""
        data = self._http2.data_to_send()
        if data and not self.transport.is_closing():
            self.transport.write(data)

    def send_now(self, stream_id: int, data: bytes) -> bool:
        """Send `data` as one DATA frame, if there is room for all of it; else return False.

        Raises ConnectionLost.
        """
        connection = self._http2
        stream = connection.streams.get(stream_id)
        if stream is None or self.is_lost or stream.closed:
            raise ConnectionLost
        size = len(data)
        if (
            self._is_paused
            or self._connection_waiters
            or size > stream.outbound_flow_control_window
            or size > connection.outbound_flow_control_window
            or size > connection.max_outbound_frame_size
        ):
            return False
        # As h2's `send_data`, but without its objects.
        stream.outbound_flow_control_window -= size
        connection.outbound_flow_control_window -= size
        self.transport.write(size.to_bytes(3, "big") + b"\0\0" + stream_id.to_bytes(4, "big") + data)
        return True

    async def send(self, stream_id: int, data: bytes, *, end_stream: bool = False) -> None:
        """Send `data` in DATA frames, and wait whenever there is no room. Raises ConnectionLost."""
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
                if self._is_paused or not has_room or (self._connection_waiters and rest and not has_turn):
                    await self._wait_for_connection()
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
        """Send GOAWAY (RFC 9113, 6.8): streams after this one are not served.

        Open streams go on. After h2's `close_connection` they could not.
        """
        payload = last_stream_id.to_bytes(4, "big") + b"\0\0\0\0"
        self.flush()
        self.transport.write(frame_bytes(GOAWAY, 0, 0, payload))

    async def _wait_for_stream(self, stream_id: int) -> None:
        # Other streams may use the room that the connection has.
        self._wake_next()
        self._stream_waiters[stream_id] = waiter = self._loop.create_future()
        try:
            await waiter
        finally:
            self._stream_waiters.pop(stream_id, None)

    async def _wait_for_connection(self) -> None:
        waiter = self._loop.create_future()
        self._connection_waiters.append(waiter)
        self._wake_next()
        try:
            await waiter
        finally:
            if self._woken is waiter:
                self._woken = None

    def _on_window_opened(self, stream_id: int) -> None:
        """There is more room in a stream, or in the connection (0)."""
        if stream_id == 0:
            self._wake_next()
        elif stream_id in self._stream_waiters:
            _release(self._stream_waiters[stream_id])

    def _wake_next(self) -> None:
        """Wake the first sender that waits for room in the connection, if there is room."""
        while self._connection_waiters and self._woken is None:
            if self._is_paused or self._http2.outbound_flow_control_window <= 0:
                return
            waiter = self._connection_waiters.popleft()
            if not waiter.done():
                self._woken = waiter
                waiter.set_result(None)

    def _wake(self) -> None:
        """Wake all senders, because the state of the connection has changed."""
        for waiter in (*self._connection_waiters, *self._stream_waiters.values()):
            _release(waiter)
        self._connection_waiters.clear()

    def _check_quiet(self) -> None:
        if self._has_received:
            self._has_received = False
            self._timer = self._loop.call_later(self._quiet_seconds, self._check_quiet)
            return
        self._http2.ping(b"inferd\0\0")
        self.flush()
        self._timer = self._loop.call_later(PING_TIMEOUT, self._check_answered)

    def _check_answered(self) -> None:
        if self._has_received:
            self._check_quiet()
        else:
            # Not close(), which waits until everything is sent.
            self.transport.abort()


def _release(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
