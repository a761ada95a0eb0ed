"""The server's side of one connection: makes a call of each stream, and bounds all that a client may do.

Leaves the protocol to h2, and messages to `server_call`.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any

import h2.events
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes, Settings
from h2.stream import StreamInputs

from inferd.services.net.batched_writes import batched_transport
from inferd.services.net.http2.call_errors import method_not_found, server_stopping
from inferd.services.net.http2.connection import Connection
from inferd.services.net.http2.frames import (
    ACK,
    DATA,
    END_STREAM,
    FRAME_HEADER,
    GOAWAY,
    HEADERS,
    PING,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    frame_bytes,
)
from inferd.services.net.http2.header_block import EMPTY_TABLE, header_block, header_frames, metadata_block
from inferd.services.net.http2.method import Method
from inferd.services.net.http2.rate_limit import RateLimit
from inferd.services.net.http2.request_head import (
    BadRequest,
    NotGrpc,
    RequestHead,
    parse_head,
    read_request_id,
)
from inferd.services.net.http2.server_call import ServerCall, error_block, response_headers

log = logging.getLogger("inferd.rpc")

#: Calls that may run on one connection (RFC 9113, 5.1.2). gRPC's clients wait if there are as many.
MAX_STREAMS = 2048
#: Flow-control windows (RFC 9113, 5.2), in bytes: of one stream, and of all streams of a connection together.
STREAM_WINDOW = 1 << 20
CONNECTION_WINDOW = 16 << 20
#: Bytes of incomplete requests on all streams of a connection. At least two requests fit.
BUFFERED_BYTES = 64 << 20
#: The greatest payload of a frame, in bytes (RFC 9113, 4.2).
MAX_FRAME_BYTES = 16 << 10
#: Bytes of a request's headers: names, values, and 32 for each header (RFC 9113, 6.5.2).
MAX_HEADER_BYTES = 64 << 10
#: Bytes that may wait in this process for a slow client, before handlers have to wait.
WRITE_BUFFER = 1 << 20

#: Seconds after which the client's preface, with its SETTINGS frame, must have arrived (RFC 9113, 3.4).
PREFACE_TIMEOUT = 30.0
#: Seconds in which a client sends nothing, after which it is sent a ping.
QUIET_SECONDS = 30.0

_PREFACE_BYTES = 24
_MAX_WINDOW = 2**31 - 1
#: Settings that a client may send. HTTP/2 and its extensions define fewer.
_MAX_SETTINGS = 64


class ServerConnection(Connection):
    """Serves `methods`, by their paths. A request has at most `limit` bytes.

    `on_open` is called when the connection is open, and `on_closed` when all handlers are done, too.
    """

    def __init__(
        self,
        methods: Mapping[str, Method],
        limit: int,
        on_open: "Callable[[ServerConnection], None]",
        on_closed: "Callable[[ServerConnection], None]",
    ) -> None:
        self.h2 = _h2_connection()
        super().__init__(self.h2, quiet_seconds=QUIET_SECONDS)
        self.peer = ""
        self._methods = methods
        self._limit = limit
        self._on_open = on_open
        self._on_closed = on_closed
        self._calls: dict[int, ServerCall] = {}
        self._buffered = 0
        self._max_buffered = max(BUFFERED_BYTES, 2 * limit)
        self._is_draining = False
        self._has_settings = False
        self._settings_timer: asyncio.TimerHandle | None = None
        #: Bytes of the client's preface that have not arrived, and the beginning of an incomplete frame.
        self._preface_left = _PREFACE_BYTES
        self._partial_frame = b""
        self._must_empty_table = False
        #: Bounds frames that carry no data, such as PING and SETTINGS (CVE-2019-9512 and others).
        self._control_frames = RateLimit(10_000, 5_000)
        #: Bounds calls that the client resets before their response begins (CVE-2023-44487).
        self._resets = RateLimit(1_000, 200)

    # Called by the server.

    def drain(self) -> None:
        """Send GOAWAY, and close the connection when the running calls are done."""
        self._is_draining = True
        if not self.is_lost:
            self.send_goaway(self.h2.highest_inbound_stream_id)
            self._close_if_done()

    def cancel_calls(self) -> None:
        """End all calls with UNAVAILABLE."""
        for call in list(self._calls.values()):
            call.fail(server_stopping())

    def abort(self) -> None:
        """Close the connection now."""
        self.transport.abort()

    # Called by the calls.

    def send_headers(self, stream_id: int, block: bytes, *, end_stream: bool) -> None:
        """Send headers, or trailers if `end_stream` is set. Sends nothing on a closed stream."""
        stream = self.h2.streams.get(stream_id)
        if stream is None or stream.closed or self.is_lost:
            return
        stream.state_machine.process_input(StreamInputs.SEND_HEADERS)
        if end_stream:
            stream.state_machine.process_input(StreamInputs.SEND_END_STREAM)
        if self._must_empty_table:
            self._must_empty_table = False
            block = EMPTY_TABLE + block
        max_frame = self.h2.max_outbound_frame_size
        self.transport.write(header_frames(stream_id, block, end_stream=end_stream, max_frame=max_frame))
        if end_stream and not stream.closed:
            # The rest of the request is not needed (RFC 9113, 8.1).
            self._reset(stream_id, ErrorCodes.NO_ERROR)

    def acknowledge(self, stream_id: int, size: int) -> None:
        """Let the client send `size` more bytes on this stream (RFC 9113, 6.9)."""
        if size and not self.is_lost:
            self.h2.acknowledge_received_data(size, stream_id)
            self.flush()

    def count_buffered(self, size: int) -> bool:
        """Count bytes of incomplete requests. Returns False if there are too many."""
        self._buffered += size
        return self._buffered <= self._max_buffered

    def remove_call(self, stream_id: int) -> None:
        """Remove the call of this stream, because its handler is done."""
        self._calls.pop(stream_id, None)
        if not self._calls:
            self._close_if_done()

    # Called by `Connection` and asyncio.

    def connection_made(self, transport: Any) -> None:
        transport.set_write_buffer_limits(WRITE_BUFFER)
        self.peer = _peer(transport.get_extra_info("peername"))
        self._settings_timer = self._loop.call_later(PREFACE_TIMEOUT, self._check_settings_received)
        super().connection_made(batched_transport(transport, self._loop))
        self._on_open(self)

    def pause_writing(self) -> None:
        super().pause_writing()
        # A client that does not read is not read either, because answers to its frames would pile up.
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        super().resume_writing()
        if not self.transport.is_closing():
            self.transport.resume_reading()

    def receive(self, data: bytes) -> None:
        """Hand complete frames to h2, except for those that `_handle_control_frame` handles.

        Closes the connection if a frame is too large, or if the client sends too many control frames.
        """
        data = self._partial_frame + data if self._partial_frame else data
        start = min(self._preface_left, len(data))
        self._preface_left -= start
        handled, end = 0, len(data)
        while end - start >= FRAME_HEADER and not self.is_lost:
            length = int.from_bytes(data[start : start + 3], "big")
            stop = start + FRAME_HEADER + length
            if length > MAX_FRAME_BYTES:
                self._pass_to_h2(data[handled:start])
                self._close_with_error(ErrorCodes.FRAME_SIZE_ERROR)
                return
            if stop > end:
                break
            cost = _frame_cost(data[start + 3], data[start + 4], length)
            if cost and not self._control_frames.spend(cost):
                self._close_with_error(ErrorCodes.ENHANCE_YOUR_CALM)
                return
            if cost and self._handle_control_frame(data, start, stop):
                self._pass_to_h2(data[handled:start])
                handled = stop
            start = stop
        self._partial_frame = data[start:]
        self._pass_to_h2(data[handled:start])

    def _on_event(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.RequestReceived):
            self._open_call(event)
        elif isinstance(event, h2.events.DataReceived):
            call = self._calls.get(event.stream_id)
            if call is not None:
                call.receive_data(event.data, event.flow_controlled_length)
            else:
                self.acknowledge(event.stream_id, event.flow_controlled_length)
        elif isinstance(event, h2.events.StreamEnded):
            call = self._calls.get(event.stream_id)
            if call is not None:
                call.receive_end()
        elif isinstance(event, h2.events.StreamReset):
            call = self._calls.get(event.stream_id)
            if call is not None:
                call.cancel()
            if (call is None or not call.has_sent_headers) and not self._resets.spend():
                self._close_with_error(ErrorCodes.ENHANCE_YOUR_CALM)
        elif isinstance(event, h2.events.RemoteSettingsChanged):
            self._has_settings = True
            if SettingCodes.HEADER_TABLE_SIZE in event.changed_settings:
                self._must_empty_table = True
            if len(self.h2.remote_settings) > _MAX_SETTINGS:
                self._close_with_error(ErrorCodes.ENHANCE_YOUR_CALM)

    def on_lost(self) -> None:
        if self._settings_timer is not None:
            self._settings_timer.cancel()
        for call in list(self._calls.values()):
            call.cancel()
        if not self._calls:
            self._on_closed(self)

    # Frames.

    def _pass_to_h2(self, data: bytes) -> None:
        if not data or self.is_lost:
            return
        try:
            for event in self.h2.receive_data(data):
                if isinstance(event, h2.events.WindowUpdated):
                    self._on_window_opened(event.stream_id)
                elif isinstance(event, h2.events.RemoteSettingsChanged):
                    self._wake()
                self._on_event(event)
            self.flush()
        except ProtocolError:
            # h2 has written a GOAWAY with the reason.
            self.close_soon()
        except Exception:
            log.exception("unexpected error on the connection of %s", self.peer)
            self.transport.abort()

    def _handle_control_frame(self, data: bytes, start: int, stop: int) -> bool:
        """Handle the frame at `data[start:stop]` without h2, if possible; else return False.

        PING and WINDOW_UPDATE are as frequent as responses: they take 2 µs here, and 20 µs in h2. GOAWAY is
        handled because h2 would let no call finish after it.
        """
        kind, flags = data[start + 3], data[start + 4]
        stream_id = int.from_bytes(data[start + 5 : start + FRAME_HEADER], "big")
        size = stop - start - FRAME_HEADER
        if kind == GOAWAY:
            return True
        if kind == PING and size == 8 and not stream_id and self._has_settings:
            if not flags & ACK:
                self.transport.write(frame_bytes(PING, ACK, 0, data[stop - 8 : stop]))
            return True
        if kind == WINDOW_UPDATE and size == 4 and self._has_settings:
            window = self.h2.streams.get(stream_id) if stream_id else self.h2
            if window is None and stream_id % 2 and stream_id <= self.h2.highest_inbound_stream_id:
                # The stream has ended (RFC 9113, 5.1).
                return True
            more = int.from_bytes(data[stop - 4 : stop], "big") & _MAX_WINDOW
            # h2 answers an invalid frame.
            if window is None or not more or window.outbound_flow_control_window + more > _MAX_WINDOW:
                return False
            window.outbound_flow_control_window += more
            self._on_window_opened(stream_id)
            return True
        return False

    def _open_call(self, event: h2.events.RequestReceived) -> None:
        """Start the call of a new stream."""
        if self.is_lost:
            return
        stream_id = event.stream_id
        if self._is_draining or len(self._calls) >= MAX_STREAMS:
            self._reset(stream_id, ErrorCodes.REFUSED_STREAM)
            return
        head = None
        try:
            head = parse_head(event.headers)
            method = self._find_method(head)
        except NotGrpc as error:
            status, request_id = str(error.http_status).encode(), read_request_id(event.headers)
            block = header_block([(b":status", status), (b"x-request-id", request_id.encode())])
            self.send_headers(stream_id, block, end_stream=True)
            return
        except BadRequest as error:
            request_id = read_request_id(event.headers) if head is None else head.request_id
            block = response_headers(request_id) + error_block(error.error, request_id)
            block += metadata_block(error.trailers)
            self.send_headers(stream_id, block, end_stream=True)
            return
        self._calls[stream_id] = ServerCall(self, stream_id, method, head, self._limit)

    def _find_method(self, head: RequestHead) -> Method:
        method = self._methods.get(head.path)
        if method is None:
            raise BadRequest(method_not_found(head.path))
        return method

    def _reset(self, stream_id: int, code: ErrorCodes) -> None:
        # The client may have reset the stream itself.
        stream = self.h2.streams.get(stream_id)
        if stream is not None and not stream.closed and not self.is_lost:
            self.h2.reset_stream(stream_id, code)
            self.flush()

    def _close_with_error(self, code: ErrorCodes) -> None:
        """Send GOAWAY with this error code (RFC 9113, 5.4.1), and close the connection."""
        if not self.is_lost:
            self.h2.close_connection(code)
            self.close_soon()

    def _check_settings_received(self) -> None:
        if not self._has_settings:
            self.close_soon()

    def _close_if_done(self) -> None:
        if self._calls:
            return
        if self.is_lost:
            self._on_closed(self)
        elif self._is_draining:
            self.transport.close()


class _H2Connection(H2Connection):
    """h2 without its count of the open streams.

    h2 walks through all streams whenever one is opened: it counts the open ones, and removes the closed ones.
    The calls are counted by `ServerConnection`. Here h2 walks only if half of them may be closed.
    """

    #: Ids of closed streams that h2 remembers. Each takes some hundred bytes until the connection is closed.
    MAX_CLOSED_STREAMS = 1024

    _next_walk = 64

    @property
    def open_inbound_streams(self) -> int:
        if len(self.streams) >= self._next_walk:
            self._next_walk = 2 * super().open_inbound_streams + 64
        return 0


def _h2_connection() -> H2Connection:
    connection = _H2Connection(
        H2Configuration(
            client_side=False,
            header_encoding=None,
            # The headers that inferd sends are in lower case and well formed.
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
            # This would only join cookies.
            normalize_inbound_headers=False,
        )
    )
    connection.local_settings = Settings(
        client=False,
        initial_values={
            SettingCodes.MAX_CONCURRENT_STREAMS: MAX_STREAMS,
            SettingCodes.INITIAL_WINDOW_SIZE: STREAM_WINDOW,
            SettingCodes.MAX_HEADER_LIST_SIZE: MAX_HEADER_BYTES,
        },
    )
    connection.decoder.max_header_list_size = MAX_HEADER_BYTES
    connection.initiate_connection()
    connection.increment_flow_control_window(CONNECTION_WINDOW - connection.inbound_flow_control_window)
    return connection


def _frame_cost(kind: int, flags: int, length: int) -> float:
    """The units of a frame for `_control_frames`."""
    if kind in (PING, WINDOW_UPDATE):
        # Clients send several for each call, and they cost little.
        return 0.1
    if kind == DATA:
        return 0 if length or flags & END_STREAM else 1
    if kind in (HEADERS, RST_STREAM):
        return 0
    # A change of settings may change the window of every stream.
    return 100 if kind == SETTINGS and not flags & ACK else 1


def _peer(address: Any) -> str:
    """The address as gRPC writes it."""
    if not isinstance(address, tuple):
        return "unknown"
    host, port = address[:2]
    return f"ipv6:%5B{host}%5D:{port}" if ":" in host else f"ipv4:{host}:{port}"
