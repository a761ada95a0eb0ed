"""A connection that a client made: each of its streams becomes a call, and its appetite is bounded."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any

import grpc
import h2.events
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes, Settings
from h2.stream import StreamInputs
from inferd.services.net.batched_writes import batched_transport
from inferd.services.net.http2.connection import Connection
from inferd.services.net.http2.frame_budget import Budget
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
from inferd.services.net.http2.framing import encode_metadata
from inferd.services.net.http2.header_block import NO_TABLE, header_block, header_frames
from inferd.services.net.http2.method import Method
from inferd.services.net.http2.request_head import BadRequest, NotGrpc, RequestHead, parse_head
from inferd.services.net.http2.server_call import HEAD, ServerCall, status_block

log = logging.getLogger("inferd.rpc")

#: Calls that may run on one connection; others are refused, and gRPC's clients then wait.
MAX_STREAMS = 2048
#: Bytes of requests that a client may send ahead, on one stream and on all.
STREAM_WINDOW = 1 << 20
CONNECTION_WINDOW = 16 << 20
#: Bytes of requests that have not come whole, on all streams; or twice what one may have, if that is more.
HELD_BYTES = 64 << 20
MAX_FRAME_BYTES = 16 << 10
#: Bytes of a request's headers: names, values, and 32 for each.
MAX_HEADER_BYTES = 64 << 10
#: Bytes that wait in this process for a client to read, before handlers have to wait.
WRITE_BUFFER = 1 << 20

#: Seconds after which a client must have said that it speaks HTTP/2.
PREFACE_TIMEOUT = 30.0
#: Seconds without a word from a client, after which it is asked whether it is there.
QUIET_SECONDS = 30.0

_PREFACE_BYTES = 24
_MAX_WINDOW = 2**31 - 1
#: Settings that HTTP/2 and its extensions know are fewer.
_MAX_SETTINGS = 64


class ServerConnection(Connection):
    """`methods` are served by path, with requests of `limit` bytes at most. `on_made` is called once it is
    open, and `on_gone` once it is closed and all its handlers are done."""

    def __init__(
        self,
        methods: Mapping[str, Method],
        limit: int,
        on_made: "Callable[[ServerConnection], None]",
        on_gone: "Callable[[ServerConnection], None]",
    ) -> None:
        self.h2 = _h2_connection()
        super().__init__(self.h2, quiet_seconds=QUIET_SECONDS)
        self.peer = ""
        self._methods = methods
        self._limit = limit
        self._on_made = on_made
        self._on_gone = on_gone
        self._calls: dict[int, ServerCall] = {}
        self._held = 0
        self._most_held = max(HELD_BYTES, 2 * limit)
        self._is_draining = False
        self._is_greeted = False
        self._greeting: asyncio.TimerHandle | None = None
        #: Bytes of the client's preface that have not come, and a frame that has not come whole.
        self._preface = _PREFACE_BYTES
        self._rest = b""
        self._shrinks_table = False
        #: For frames that carry nothing, and for calls that are cancelled before they are answered
        #: (CVE-2019-9512 and others, CVE-2023-44487).
        self._noise = Budget(10_000, 5_000)
        self._resets = Budget(1_000, 200)

    # What its server does.

    def drain(self) -> None:
        """Take no more calls, and close the connection when those that run are done."""
        self._is_draining = True
        if not self.is_lost:
            self.send_goaway(self.h2.highest_inbound_stream_id)
            self._close_if_done()

    def cancel_calls(self) -> None:
        """End all calls."""
        for call in list(self._calls.values()):
            call.fail(grpc.StatusCode.UNAVAILABLE, "the server is stopping")

    def abort(self) -> None:
        """Close the connection now."""
        self.transport.abort()

    # What its calls do.

    def send_headers(self, stream_id: int, block: bytes, *, end_stream: bool) -> None:
        """Send headers, or trailers. On a stream that is closed nothing is sent."""
        stream = self.h2.streams.get(stream_id)
        if stream is None or stream.closed or self.is_lost:
            return
        stream.state_machine.process_input(StreamInputs.SEND_HEADERS)
        if end_stream:
            stream.state_machine.process_input(StreamInputs.SEND_END_STREAM)
        if self._shrinks_table:
            self._shrinks_table = False
            block = NO_TABLE + block
        max_frame = self.h2.max_outbound_frame_size
        self.transport.write(header_frames(stream_id, block, end_stream=end_stream, max_frame=max_frame))
        if end_stream and not stream.closed:
            # Nobody reads what the client still sends.
            self._reset(stream_id, ErrorCodes.NO_ERROR)

    def acknowledge(self, stream_id: int, size: int) -> None:
        """Let the client send as much more."""
        if size and not self.is_lost:
            self.h2.acknowledge_received_data(size, stream_id)
            self.flush()

    def hold(self, size: int) -> bool:
        """Count bytes of requests that have not come whole; whether there is room for them."""
        self._held += size
        return self._held <= self._most_held

    def forget(self, stream_id: int) -> None:
        """The call on this stream, and its handler, are done."""
        self._calls.pop(stream_id, None)
        if not self._calls:
            self._close_if_done()

    # Connection.

    def connection_made(self, transport: Any) -> None:
        transport.set_write_buffer_limits(WRITE_BUFFER)
        self.peer = _peer(transport.get_extra_info("peername"))
        self._greeting = self._loop.call_later(PREFACE_TIMEOUT, self._check_greeted)
        super().connection_made(batched_transport(transport, self._loop))
        self._on_made(self)

    def pause_writing(self) -> None:
        super().pause_writing()
        # Who does not read what is sent is not read either: what answers frames and calls would pile up.
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        super().resume_writing()
        if not self.transport.is_closing():
            self.transport.resume_reading()

    def receive(self, data: bytes) -> None:
        """Frames go to h2 when they are whole, and while there is budget for their kind, unless `_handle` is
        enough for them."""
        data = self._rest + data if self._rest else data
        start = min(self._preface, len(data))
        self._preface -= start
        passed, end = 0, len(data)
        while end - start >= FRAME_HEADER and not self.is_lost:
            length = int.from_bytes(data[start : start + 3], "big")
            stop = start + FRAME_HEADER + length
            if length > MAX_FRAME_BYTES:
                self._pass(data[passed:start])
                self._end(ErrorCodes.FRAME_SIZE_ERROR)
                return
            if stop > end:
                break
            cost = _cost(data[start + 3], data[start + 4], length)
            if cost and not self._noise.spend(cost):
                self._end(ErrorCodes.ENHANCE_YOUR_CALM)
                return
            if cost and self._handle(data, start, stop):
                self._pass(data[passed:start])
                passed = stop
            start = stop
        self._rest = data[start:]
        self._pass(data[passed:start])

    def _on_event(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.RequestReceived):
            self._open(event)
        elif isinstance(event, h2.events.DataReceived):
            call = self._calls.get(event.stream_id)
            if call is not None:
                call.data(event.data, event.flow_controlled_length)
            else:
                self.acknowledge(event.stream_id, event.flow_controlled_length)
        elif isinstance(event, h2.events.StreamEnded):
            call = self._calls.get(event.stream_id)
            if call is not None:
                call.end()
        elif isinstance(event, h2.events.StreamReset):
            call = self._calls.get(event.stream_id)
            if call is not None:
                call.cancel()
            if (call is None or not call.has_answered) and not self._resets.spend():
                self._end(ErrorCodes.ENHANCE_YOUR_CALM)
        elif isinstance(event, h2.events.RemoteSettingsChanged):
            self._is_greeted = True
            if SettingCodes.HEADER_TABLE_SIZE in event.changed_settings:
                self._shrinks_table = True
            if len(self.h2.remote_settings) > _MAX_SETTINGS:
                self._end(ErrorCodes.ENHANCE_YOUR_CALM)

    def on_lost(self) -> None:
        if self._greeting is not None:
            self._greeting.cancel()
        for call in list(self._calls.values()):
            call.cancel()
        if not self._calls:
            self._on_gone(self)

    # Its own.

    def _pass(self, data: bytes) -> None:
        if not data or self.is_lost:
            return
        try:
            for event in self.h2.receive_data(data):
                if isinstance(event, h2.events.WindowUpdated):
                    self._widened(event.stream_id)
                elif isinstance(event, h2.events.RemoteSettingsChanged):
                    self._wake()
                self._on_event(event)
            self.flush()
        except ProtocolError:
            # h2 has written a GOAWAY that says why.
            self.shut()
        except Exception:
            log.exception("unexpected error on the connection of %s", self.peer)
            self.transport.abort()

    def _handle(self, data: bytes, start: int, stop: int) -> bool:
        """Handle the frame at `data[start:stop]`, if it is one of those that are as frequent as our own and
        need no more than 2 µs, where h2 takes 20. Or GOAWAY: h2 would then let no call finish."""
        kind, flags = data[start + 3], data[start + 4]
        stream_id = int.from_bytes(data[start + 5 : start + FRAME_HEADER], "big")
        size = stop - start - FRAME_HEADER
        if kind == GOAWAY:
            return True
        if kind == PING and size == 8 and not stream_id and self._is_greeted:
            if not flags & ACK:
                self.transport.write(frame_bytes(PING, ACK, 0, data[stop - 8 : stop]))
            return True
        if kind == WINDOW_UPDATE and size == 4 and self._is_greeted:
            window = self.h2.streams.get(stream_id) if stream_id else self.h2
            if window is None and stream_id % 2 and stream_id <= self.h2.highest_inbound_stream_id:
                # One that has ended.
                return True
            more = int.from_bytes(data[stop - 4 : stop], "big") & _MAX_WINDOW
            # What is wrong, h2 says.
            if window is None or not more or window.outbound_flow_control_window + more > _MAX_WINDOW:
                return False
            window.outbound_flow_control_window += more
            self._widened(stream_id)
            return True
        return False

    def _open(self, event: h2.events.RequestReceived) -> None:
        """A new stream."""
        if self.is_lost:
            return
        stream_id = event.stream_id
        if self._is_draining or len(self._calls) >= MAX_STREAMS:
            self._reset(stream_id, ErrorCodes.REFUSED_STREAM)
            return
        try:
            head = parse_head(event.headers)
            method = self._find(head)
        except NotGrpc as error:
            block = header_block([(b":status", str(error.http_status).encode())])
            self.send_headers(stream_id, block, end_stream=True)
            return
        except BadRequest as error:
            block = HEAD + status_block(error.code, error.details)
            self.send_headers(
                stream_id, block + header_block(encode_metadata(error.trailers)), end_stream=True
            )
            return
        self._calls[stream_id] = ServerCall(self, stream_id, method, head, self._limit)

    def _find(self, head: RequestHead) -> Method:
        method = self._methods.get(head.path)
        if method is None:
            raise BadRequest(grpc.StatusCode.UNIMPLEMENTED, "there is no such method")
        return method

    def _reset(self, stream_id: int, code: ErrorCodes) -> None:
        # The client may have ended it in the same breath.
        stream = self.h2.streams.get(stream_id)
        if stream is not None and not stream.closed and not self.is_lost:
            self.h2.reset_stream(stream_id, code)
            self.flush()

    def _end(self, code: ErrorCodes) -> None:
        """Close the connection for this reason."""
        if not self.is_lost:
            self.h2.close_connection(code)
            self.shut()

    def _check_greeted(self) -> None:
        if not self._is_greeted:
            self.shut()

    def _close_if_done(self) -> None:
        if self._calls:
            return
        if self.is_lost:
            self._on_gone(self)
        elif self._is_draining:
            self.transport.close()


class _H2Connection(H2Connection):
    """h2 looks at all streams whenever one is opened, to count those that are open and to forget the others.
    The calls are counted already: here it looks when half of its streams may be forgotten."""

    #: Each takes some hundred bytes as long as the connection lives.
    MAX_CLOSED_STREAMS = 1024

    _looks_at = 64

    @property
    def open_inbound_streams(self) -> int:
        if len(self.streams) >= self._looks_at:
            self._looks_at = 2 * super().open_inbound_streams + 64
        return 0


def _h2_connection() -> H2Connection:
    connection = _H2Connection(
        H2Configuration(
            client_side=False,
            header_encoding=None,
            # Ours are made in lower case and well formed.
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
            # Only joins cookies.
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


def _cost(kind: int, flags: int, length: int) -> float:
    """What a frame takes of the budget for those that carry nothing."""
    if kind in (PING, WINDOW_UPDATE):
        # Clients send several for each call, and they cost little.
        return 0.1
    if kind == DATA:
        return 0 if length or flags & END_STREAM else 1
    if kind in (HEADERS, RST_STREAM):
        return 0
    # Each stream may have to be looked at.
    return 100 if kind == SETTINGS and not flags & ACK else 1


def _peer(address: Any) -> str:
    """As gRPC writes it."""
    if not isinstance(address, tuple):
        return "unknown"
    host, port = address[:2]
    return f"ipv6:%5B{host}%5D:{port}" if ":" in host else f"ipv4:{host}:{port}"
