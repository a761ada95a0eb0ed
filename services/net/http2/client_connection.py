"""The client's side of one connection: opens a stream for each call, and hands arriving frames to the calls.

Knows nothing of how frames are encoded (`client_frames`), or of how a message is read (`client_call`).
"""

import asyncio
from collections.abc import Callable

import grpc
from h2.errors import ErrorCodes

from inferd.services.net.batched_writes import write_batch_of
from inferd.services.net.http2.client_call import ClientCall
from inferd.services.net.http2.client_frames import ClientFrames, ProtocolError, remove_padding
from inferd.services.net.http2.connection import Connection, ConnectionLost
from inferd.services.net.http2.data_frames import MAX_FRAME_BYTES, deliver_data_frames
from inferd.services.net.http2.frames import (
    CONTINUATION,
    DATA,
    END_STREAM,
    FRAME_HEADER,
    GOAWAY,
    HEADERS,
    PING,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
)
from inferd.services.net.http2.framing import frame

#: Flow-control windows (RFC 9113, 5.2), in bytes: of one call, and of all calls of a connection together.
STREAM_WINDOW = 256 << 10
CONNECTION_WINDOW = 16 << 20

_MAX_STREAM_ID = 2**31 - 1


class ClientConnection(Connection):
    """`max_message_bytes` limits one message, and `max_header_bytes` the headers of one response.

    `on_lost` is called when the connection is lost, or takes no more calls.
    """

    def __init__(
        self,
        *,
        max_message_bytes: int,
        max_header_bytes: int,
        quiet_seconds: float,
        on_lost: Callable[[], None],
    ) -> None:
        self._on_lost = on_lost
        self._frames = ClientFrames(
            stream_window=STREAM_WINDOW,
            connection_window=CONNECTION_WINDOW,
            max_header_bytes=max_header_bytes,
        )
        super().__init__(self._frames, quiet_seconds=quiet_seconds)
        self._write_batch = write_batch_of(self._loop)
        self._max_message_bytes = max_message_bytes
        self._calls: dict[int, ClientCall] = {}
        #: The beginning of a frame whose rest has not arrived.
        self._partial_frame = b""
        #: Bytes that were received and not acknowledged for the whole connection.
        self._received = 0
        self._is_going_away = False
        self._will_flush = False
        #: Done when the server's first SETTINGS frame has arrived (RFC 9113, 3.4), or the connection is lost.
        self.ready: asyncio.Future[None] = self._loop.create_future()

    @property
    def takes_calls(self) -> bool:
        """Whether another call may be started."""
        return not (
            self.is_lost
            or self._is_going_away
            or self.transport.is_closing()
            or len(self._calls) >= self._frames.max_streams
            or self._frames.last_stream_id >= _MAX_STREAM_ID - 2
        )

    @property
    def calls(self) -> int:
        """The number of calls that run."""
        return len(self._calls)

    async def start(self, header_block: bytes, message: bytes) -> ClientCall:
        """Start a call, and send its one request."""
        frames = self._frames
        stream_id = frames.open(header_block)
        call = ClientCall(_Stream(self, stream_id), self._max_message_bytes)
        self._calls[stream_id] = call
        body = frame(message)
        room = min(
            frames.streams[stream_id].outbound_flow_control_window,
            frames.outbound_flow_control_window,
            frames.max_outbound_frame_size,
        )
        if len(body) <= room and not self._is_paused:
            frames.send_data(stream_id, body, end_stream=True)
            self._flush_soon()
            return call
        self.flush()
        try:
            await self.send(stream_id, body, end_stream=True)
        except ConnectionLost:
            # The call was ended by `on_lost`, or by a reset.
            pass
        except BaseException:
            call.cancel()
            raise
        return call

    def _flush_soon(self) -> None:
        """Send the frames at the end of this turn of the event loop, together with those of other calls."""
        if not self._will_flush:
            self._will_flush = True
            self._loop.call_soon(self._flush_now)

    def _flush_now(self) -> None:
        self._will_flush = False
        if not self.is_lost:
            self.flush()

    def close(self) -> None:
        """Close the connection. Running calls fail with UNAVAILABLE."""
        self.transport.close()

    # Called by `Connection`.

    def data_received(self, data: bytes) -> None:
        # One step of the engine has tokens for many calls. Their writes to one client become one write.
        with self._write_batch:
            super().data_received(data)

    def receive(self, data: bytes) -> None:
        if self._partial_frame:
            data = self._partial_frame + data
        start, end = 0, len(data)
        try:
            while True:
                start, received = deliver_data_frames(data, start, self._calls)
                self._received += received
                if end - start < FRAME_HEADER:
                    break
                length = int.from_bytes(data[start : start + 3], "big")
                if length > MAX_FRAME_BYTES:
                    raise ProtocolError("a frame too large")
                stop = start + FRAME_HEADER + length
                if stop > end:
                    break
                kind, flags = data[start + 3], data[start + 4]
                stream_id = int.from_bytes(data[start + 5 : start + FRAME_HEADER], "big") & _MAX_STREAM_ID
                payload = data[start + FRAME_HEADER : stop]
                start = stop
                if kind == DATA:
                    self._receive_data(flags, stream_id, payload)
                else:
                    self._receive_control(kind, flags, stream_id, payload)
        except ProtocolError:
            self.transport.abort()
            return
        self._partial_frame = data[start:]
        # Acknowledged at once, read or not: each call's own window bounds its unread bytes, and one slow call
        # must not use up the connection's window.
        if self._received >= CONNECTION_WINDOW // 4:
            self._frames.acknowledge(0, self._received)
            self._received = 0
        self.flush()

    def on_lost(self) -> None:
        self._set_ready()
        calls, self._calls = self._calls, {}
        for call in calls.values():
            call.fail(grpc.StatusCode.UNAVAILABLE, "the connection was closed")
        self._on_lost()

    # Called by the calls.

    def acknowledge(self, stream_id: int, size: int) -> None:
        """Let the server send `size` more bytes on this stream."""
        self._frames.acknowledge(stream_id, size)
        self.flush()

    def reset(self, stream_id: int) -> None:
        """Reset a stream, if it is open."""
        if self._calls.pop(stream_id, None) is None or self.is_lost:
            return
        self._frames.reset(stream_id, ErrorCodes.CANCEL)
        self.flush()
        self._wake()
        self._close_if_done()

    # Frames.

    def _receive_data(self, flags: int, stream_id: int, payload: bytes) -> None:
        call = self._calls.get(stream_id)
        self._received += len(payload)
        data = remove_padding(flags, payload)
        padding = len(payload) - len(data)
        if call is not None and padding and not flags & END_STREAM:
            self._frames.acknowledge(stream_id, padding)
        if call is not None and data:
            call.receive_data(data)
        if flags & END_STREAM:
            self._on_stream_end(stream_id)

    def _receive_control(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        frames = self._frames
        if kind in (HEADERS, CONTINUATION):
            found = frames.receive_headers(kind, flags, stream_id, payload)
            if found is None:
                return
            stream_id, is_last, headers = found
            call = self._calls.get(stream_id)
            if call is not None:
                call.receive_headers(headers)
            if is_last:
                self._on_stream_end(stream_id)
        elif kind == WINDOW_UPDATE:
            frames.receive_window_update(stream_id, payload)
            self._on_window_opened(stream_id)
        elif kind == PING:
            frames.receive_ping(flags, payload)
        elif kind == SETTINGS:
            frames.receive_settings(flags, payload)
            self._set_ready()
            self._wake()
        elif kind == RST_STREAM:
            frames.close_stream(stream_id)
            call = self._calls.pop(stream_id, None)
            if call is not None:
                call.receive_reset(int.from_bytes(payload, "big"))
            self._wake()
            self._close_if_done()
        elif kind == GOAWAY:
            self._on_goaway(payload)
        elif kind == PUSH_PROMISE:
            raise ProtocolError("a push, which was switched off")

    def _set_ready(self) -> None:
        if not self.ready.done():
            self.ready.set_result(None)

    def _on_stream_end(self, stream_id: int) -> None:
        self._frames.close_stream(stream_id)
        # A request that is still being sent waits no longer for room.
        self._on_window_opened(stream_id)
        call = self._calls.pop(stream_id, None)
        if call is not None:
            call.receive_end()
        self._close_if_done()

    def _on_goaway(self, payload: bytes) -> None:
        """The server takes no more calls, and none after the last stream that it names (RFC 9113, 6.8)."""
        self._is_going_away = True
        self._on_lost()
        last = int.from_bytes(payload[:4], "big") & _MAX_STREAM_ID
        for stream_id in [stream_id for stream_id in self._calls if stream_id > last]:
            self._frames.close_stream(stream_id)
            self._on_window_opened(stream_id)
            self._calls.pop(stream_id).fail(grpc.StatusCode.UNAVAILABLE, "the server is going away")
        self._close_if_done()

    def _close_if_done(self) -> None:
        if self._is_going_away and not self._calls:
            self.transport.close()


class _Stream:
    """A `CallStream`. Acknowledges in larger portions, because each one is a frame."""

    __slots__ = ("_connection", "_id", "_read")

    def __init__(self, connection: ClientConnection, stream_id: int) -> None:
        self._connection = connection
        self._id = stream_id
        self._read = 0

    def acknowledge(self, size: int) -> None:
        self._read += size
        if self._read >= STREAM_WINDOW // 2:
            self._connection.acknowledge(self._id, self._read)
            self._read = 0

    def reset(self) -> None:
        self._connection.reset(self._id)
