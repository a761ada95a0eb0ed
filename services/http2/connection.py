"""One HTTP/2 connection: h2's state machine between a socket and those who use its streams.

h2 knows the protocol. Here is what it leaves to its user: the socket, waiting for room to send, and finding
out that the other side is gone. DATA frames, one a token, go around h2's per-frame machinery where it would
only count them: that is 2 µs instead of 7.
"""

import asyncio
from collections.abc import Iterable
from typing import Any

import h2.events
from h2.connection import H2Connection
from h2.exceptions import ProtocolError

Headers = Iterable[tuple[bytes, bytes]]

#: Seconds that the other side may take to answer a ping.
PING_TIMEOUT = 10.0


class ConnectionLost(ConnectionError):
    """The connection, or the stream that was written to, is closed."""


class Connection(asyncio.Protocol):
    """To be subclassed: `on_event` gets each of h2's events, `on_lost` the end.

    After `quiet_seconds` in which nothing came, the other side is sent a ping; without an answer the
    connection is closed. `h2` is free to be used by subclasses, who then call `flush`.
    """

    transport: asyncio.Transport

    def __init__(self, connection: H2Connection, *, quiet_seconds: float) -> None:
        self.h2 = connection
        self.is_lost = False
        self._loop = asyncio.get_running_loop()
        self._is_paused = False
        #: Those who wait for room to send: all are woken when there may be some.
        self._waiting: set[asyncio.Future[None]] = set()
        self._quiet_seconds = quiet_seconds
        self._heard = True
        self._timer: asyncio.TimerHandle | None = None

    # What a subclass does.

    def on_event(self, event: h2.events.Event) -> None:
        """One of h2's events. What it sends is flushed afterwards."""
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
        # Who does not read what is sent is not read either: answers to pings would pile up.
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        self._is_paused = False
        self.transport.resume_reading()
        self._wake()

    # For subclasses and those who use streams.

    def receive(self, data: bytes) -> None:
        """Have h2 read these bytes, and handle its events."""
        try:
            events = self.h2.receive_data(data)
        except ProtocolError:
            # h2 has written a GOAWAY that says why.
            self.flush()
            self.transport.close()
            return
        for event in events:
            if isinstance(event, h2.events.WindowUpdated | h2.events.RemoteSettingsChanged):
                self._wake()
            self.on_event(event)
        self.flush()

    def flush(self) -> None:
        """Send what h2 has to send."""
        data = self.h2.data_to_send()
        if data and not self.transport.is_closing():
            self.transport.write(data)

    def send_now(self, stream_id: int, data: bytes) -> bool:
        """Send all of `data` as one DATA frame, if there is room. Raises ConnectionLost."""
        connection = self.h2
        stream = connection.streams.get(stream_id)
        if stream is None or self.is_lost or stream.closed:
            raise ConnectionLost
        size = len(data)
        if (
            self._is_paused
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
        while rest or end_stream:
            if self.is_lost or stream_id not in self.h2.streams or self.h2.streams[stream_id].closed:
                raise ConnectionLost
            room = 0
            if not self._is_paused:
                window = self.h2.local_flow_control_window(stream_id)
                room = min(window, self.h2.max_outbound_frame_size, len(rest))
            if room <= 0 and (rest or self._is_paused):
                await self._room()
                continue
            part, rest = rest[:room], rest[room:]
            last = end_stream and not rest
            self.h2.send_data(stream_id, part, end_stream=last)
            self.flush()
            if last:
                return

    def send_goaway(self, last_stream_id: int) -> None:
        """Tell the other side that no stream after this one will be served. Those that run go on, which h2's
        `close_connection` would not let them."""
        payload = last_stream_id.to_bytes(4, "big") + b"\0\0\0\0"
        self.flush()
        self.transport.write(len(payload).to_bytes(3, "big") + b"\7\0\0\0\0\0" + payload)

    async def _room(self) -> None:
        waiter = self._loop.create_future()
        self._waiting.add(waiter)
        try:
            await waiter
        finally:
            self._waiting.discard(waiter)

    def _wake(self) -> None:
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)

    def _check_quiet(self) -> None:
        if self._heard:
            self._heard = False
            self._timer = self._loop.call_later(self._quiet_seconds, self._check_quiet)
            return
        self.h2.ping(b"inferd\0\0")
        self.flush()
        self._timer = self._loop.call_later(PING_TIMEOUT, self._check_answered)

    def _check_answered(self) -> None:
        if self._heard:
            self._check_quiet()
        else:
            # Not close(): that waits until what is written was sent.
            self.transport.abort()
