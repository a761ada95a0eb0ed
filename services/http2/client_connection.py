"""A connection that we made: calls go out on its streams, and what comes is handed to them."""

import grpc
import h2.events
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.settings import SettingCodes, Settings

from services.http2.client_call import ClientCall, Headers
from services.http2.connection import Connection, ConnectionLost
from services.http2.framing import frame

#: Bytes of messages that one call may have unread, and all calls of a connection together in flight.
STREAM_WINDOW = 256 << 10
CONNECTION_WINDOW = 16 << 20

_MAX_STREAM_ID = 2**31 - 1
_FRAME_HEADER = 9
_DATA, _GOAWAY = 0, 7
_WINDOW_UPDATE = b"\0\0\4\10\0"


class ClientConnection(Connection):
    """`max_message_bytes` is the most of one message, `max_header_bytes` of one answer's headers."""

    def __init__(self, *, max_message_bytes: int, max_header_bytes: int, quiet_seconds: float) -> None:
        config = H2Configuration(
            client_side=True,
            header_encoding=None,
            # Ours are lower case and well formed.
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
        )
        super().__init__(H2Connection(config), quiet_seconds=quiet_seconds)
        self._max_message_bytes = max_message_bytes
        self._calls: dict[int, ClientCall] = {}
        #: A frame that has not come whole.
        self._rest = b""
        #: Bytes of messages that the window was not opened for again.
        self._received = 0
        self._is_leaving = False
        # All at once, before the preface: what is set later is sent when the other side has taken these.
        self.h2.local_settings = Settings(
            client=True,
            initial_values={
                SettingCodes.ENABLE_PUSH: 0,
                SettingCodes.INITIAL_WINDOW_SIZE: STREAM_WINDOW,
                SettingCodes.MAX_HEADER_LIST_SIZE: max_header_bytes,
            },
        )
        self.h2.decoder.max_header_list_size = max_header_bytes
        self.h2.initiate_connection()
        self.h2.increment_flow_control_window(CONNECTION_WINDOW)

    @property
    def takes_calls(self) -> bool:
        """Whether another call may be started."""
        return not (
            self.is_lost
            or self._is_leaving
            or self.transport.is_closing()
            or len(self._calls) >= self.h2.remote_settings.max_concurrent_streams
            or self.h2.highest_outbound_stream_id >= _MAX_STREAM_ID - 2
        )

    @property
    def calls(self) -> int:
        """How many calls run."""
        return len(self._calls)

    async def start(self, headers: Headers, message: bytes) -> ClientCall:
        """Send a call's one request. Raises ConnectionLost."""
        stream_id = self.h2.get_next_available_stream_id()
        self.h2.send_headers(stream_id, headers)
        call = ClientCall(_ClientStream(self, stream_id), self._max_message_bytes)
        self._calls[stream_id] = call
        body = frame(message)
        window = min(self.h2.local_flow_control_window(stream_id), self.h2.max_outbound_frame_size)
        if len(body) <= window and not self._is_paused:
            self.h2.send_data(stream_id, body, end_stream=True)
            self.flush()
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

    def receive(self, data: bytes) -> None:
        """DATA frames go to their calls at once, a GOAWAY ends the taking of calls; h2 gets the others."""
        if self._rest:
            data = self._rest + data
        start = others = 0
        end = len(data)
        while end - start >= _FRAME_HEADER:
            length = int.from_bytes(data[start : start + 3], "big")
            stop = start + _FRAME_HEADER + length
            if length > self.h2.max_inbound_frame_size:
                # h2 says what is wrong.
                start = end
                break
            if stop > end:
                break
            kind = data[start + 3]
            if kind == _DATA and not data[start + 4]:
                call = self._calls.get(int.from_bytes(data[start + 5 : start + 9], "big"))
                if call is not None:
                    if others < start:
                        super().receive(data[others:start])
                    others = stop
                    call.data(data[start + _FRAME_HEADER : stop])
                    self._count(length)
            elif kind == _GOAWAY:
                if others < start:
                    super().receive(data[others:start])
                others = stop
                self._leave(data[start + _FRAME_HEADER : stop])
            start = stop
        self._rest = data[start:]
        if others < start:
            super().receive(data[others:start])

    def on_event(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
            call = self._calls.get(event.stream_id)
            if call is not None:
                call.headers(event.headers)
        elif isinstance(event, h2.events.DataReceived):
            call = self._calls.get(event.stream_id)
            if call is not None:
                call.data(event.data)
            self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.StreamEnded):
            call = self._calls.pop(event.stream_id, None)
            if call is not None:
                call.end()
            self._close_if_left()
        elif isinstance(event, h2.events.StreamReset):
            call = self._calls.pop(event.stream_id, None)
            if call is not None:
                call.reset(event.error_code)
            self._close_if_left()

    def on_lost(self) -> None:
        calls, self._calls = self._calls, {}
        for call in calls.values():
            call.fail(grpc.StatusCode.UNAVAILABLE, "the connection was closed")

    def close(self) -> None:
        """Close the connection. Calls that run fail with UNAVAILABLE."""
        self.transport.close()

    def acknowledge(self, stream_id: int, size: int) -> None:
        """Let the other side send that many bytes more on this stream, or on all (0)."""
        self.transport.write(_WINDOW_UPDATE + stream_id.to_bytes(4, "big") + size.to_bytes(4, "big"))

    def reset(self, stream_id: int) -> None:
        """End a stream that nobody reads on."""
        if self._calls.pop(stream_id, None) is None or self.is_lost:
            return
        self.h2.reset_stream(stream_id, ErrorCodes.CANCEL)
        self.flush()
        self._wake()
        self._close_if_left()

    def _count(self, size: int) -> None:
        """Calls bound what they have unread, each for itself: the connection's window is not to stop them."""
        self._received += size
        if self._received >= CONNECTION_WINDOW // 4:
            self.acknowledge(0, self._received)
            self._received = 0

    def _leave(self, payload: bytes) -> None:
        """The other side takes no more calls, and has not taken those after the last one it names."""
        self._is_leaving = True
        last = int.from_bytes(payload[:4], "big") & _MAX_STREAM_ID
        for stream_id in [stream_id for stream_id in self._calls if stream_id > last]:
            self._calls.pop(stream_id).fail(grpc.StatusCode.UNAVAILABLE, "the server is going away")
        self._close_if_left()

    def _close_if_left(self) -> None:
        if self._is_leaving and not self._calls:
            self.transport.close()


class _ClientStream:
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
