"""A connection that we made: calls go out on its streams, and what comes is handed to them."""

import asyncio
from collections.abc import Callable

import grpc
from h2.errors import ErrorCodes
from inferd.services.net.batched_writes import write_batch_of
from inferd.services.net.http2.client_call import ClientCall
from inferd.services.net.http2.client_frames import ClientFrames, ProtocolError, unpadded
from inferd.services.net.http2.connection import Connection, ConnectionLost
from inferd.services.net.http2.data_frames import MAX_FRAME_BYTES, hand_out
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

#: Bytes of messages that one call may have unread, and all calls of a connection together in flight.
STREAM_WINDOW = 256 << 10
CONNECTION_WINDOW = 16 << 20

_MAX_STREAM_ID = 2**31 - 1


class ClientConnection(Connection):
    """`max_message_bytes` is the most of one message, `max_header_bytes` of one answer's headers. `on_lost`
    is called when it is lost, or is to take no more calls."""

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
        #: A frame that has not come whole.
        self._rest = b""
        #: Bytes of messages that the connection's window was not opened for again.
        self._received = 0
        self._is_leaving = False
        self._flushes = False
        #: Done once the other side has shown that it speaks HTTP/2, and with what settings; or never will.
        self.greeted: asyncio.Future[None] = self._loop.create_future()

    @property
    def takes_calls(self) -> bool:
        """Whether another call may be started."""
        return not (
            self.is_lost
            or self._is_leaving
            or self.transport.is_closing()
            or len(self._calls) >= self._frames.max_streams
            or self._frames.last_stream_id >= _MAX_STREAM_ID - 2
        )

    @property
    def calls(self) -> int:
        """How many calls run."""
        return len(self._calls)

    async def start(self, header_block: bytes, message: bytes) -> ClientCall:
        """Send a call's one request."""
        frames = self._frames
        stream_id = frames.open(header_block)
        call = ClientCall(_CallStream(self, stream_id), self._max_message_bytes)
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
            # The call itself knows why.
            pass
        except BaseException:
            call.cancel()
            raise
        return call

    def _flush_soon(self) -> None:
        """Send it together with what else this turn of the loop makes."""
        if not self._flushes:
            self._flushes = True
            self._loop.call_soon(self._flush_now)

    def _flush_now(self) -> None:
        self._flushes = False
        if not self.is_lost:
            self.flush()

    def close(self) -> None:
        """Close the connection. Calls that run fail with UNAVAILABLE."""
        self.transport.close()

    # Connection.

    def data_received(self, data: bytes) -> None:
        # What a step of the engine brings for many streams is sent on in one go.
        with self._write_batch:
            super().data_received(data)

    def receive(self, data: bytes) -> None:
        if self._rest:
            data = self._rest + data
        start, end = 0, len(data)
        try:
            while True:
                start, received = hand_out(data, start, self._calls)
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
                    self._data(flags, stream_id, payload)
                else:
                    self._control(kind, flags, stream_id, payload)
        except ProtocolError:
            self.transport.abort()
            return
        self._rest = data[start:]
        # Calls bound what they have unread, each for itself: the connection's window is not to stop them.
        if self._received >= CONNECTION_WINDOW // 4:
            self._frames.acknowledge(0, self._received)
            self._received = 0
        self.flush()

    def on_lost(self) -> None:
        self._greet()
        calls, self._calls = self._calls, {}
        for call in calls.values():
            call.fail(grpc.StatusCode.UNAVAILABLE, "the connection was closed")
        self._on_lost()

    # What its calls do.

    def acknowledge(self, stream_id: int, size: int) -> None:
        """Let the other side send that many bytes more on this stream."""
        self._frames.acknowledge(stream_id, size)
        self.flush()

    def reset(self, stream_id: int) -> None:
        """End a stream that nobody reads on."""
        if self._calls.pop(stream_id, None) is None or self.is_lost:
            return
        self._frames.reset(stream_id, ErrorCodes.CANCEL)
        self.flush()
        self._wake()
        self._close_if_left()

    # Its own.

    def _data(self, flags: int, stream_id: int, payload: bytes) -> None:
        call = self._calls.get(stream_id)
        self._received += len(payload)
        data = unpadded(flags, payload)
        padding = len(payload) - len(data)
        if call is not None and padding and not flags & END_STREAM:
            self._frames.acknowledge(stream_id, padding)
        if call is not None and data:
            call.data(data)
        if flags & END_STREAM:
            self._ended(stream_id)

    def _control(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        frames = self._frames
        if kind in (HEADERS, CONTINUATION):
            found = frames.headers(kind, flags, stream_id, payload)
            if found is None:
                return
            stream_id, is_last, headers = found
            call = self._calls.get(stream_id)
            if call is not None:
                call.headers(headers)
            if is_last:
                self._ended(stream_id)
        elif kind == WINDOW_UPDATE:
            frames.widened(stream_id, payload)
            self._widened(stream_id)
        elif kind == PING:
            frames.pinged(flags, payload)
        elif kind == SETTINGS:
            frames.settings(flags, payload)
            self._greet()
            self._wake()
        elif kind == RST_STREAM:
            frames.forget(stream_id)
            call = self._calls.pop(stream_id, None)
            if call is not None:
                call.reset(int.from_bytes(payload, "big"))
            self._wake()
            self._close_if_left()
        elif kind == GOAWAY:
            self._leave(payload)
        elif kind == PUSH_PROMISE:
            raise ProtocolError("a push, which was switched off")

    def _greet(self) -> None:
        if not self.greeted.done():
            self.greeted.set_result(None)

    def _ended(self, stream_id: int) -> None:
        self._frames.forget(stream_id)
        # It may still be written to.
        self._widened(stream_id)
        call = self._calls.pop(stream_id, None)
        if call is not None:
            call.end()
        self._close_if_left()

    def _leave(self, payload: bytes) -> None:
        """The other side takes no more calls, and has not taken those after the last one it names."""
        self._is_leaving = True
        self._on_lost()
        last = int.from_bytes(payload[:4], "big") & _MAX_STREAM_ID
        for stream_id in [stream_id for stream_id in self._calls if stream_id > last]:
            self._frames.forget(stream_id)
            self._widened(stream_id)
            self._calls.pop(stream_id).fail(grpc.StatusCode.UNAVAILABLE, "the server is going away")
        self._close_if_left()

    def _close_if_left(self) -> None:
        if self._is_leaving and not self._calls:
            self.transport.close()


class _CallStream:
    """A call's stream, for the call."""

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
