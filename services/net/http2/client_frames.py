"""The client's side of HTTP/2 (RFC 9113), as much of it as gRPC needs: encodes and decodes frames.

Does no I/O. h2 is not used here: its state machine takes 90 µs of a call to check a peer that is one of
inferd's own runtimes. A peer that breaks the protocol loses its connection.
"""

from hpack import Decoder, HPACKError

from inferd.services.net.http2.frames import (
    ACK,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PADDED,
    PING,
    PRIORITY,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    frame_bytes,
)
from inferd.services.net.http2.header_block import EMPTY_TABLE, header_frames

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_TABLE_SIZE, _ENABLE_PUSH, _MAX_STREAMS, _INITIAL_WINDOW, _MAX_FRAME, _MAX_HEADERS = range(1, 7)
_MAX_WINDOW = 2**31 - 1
#: CONTINUATION frames that a header block may have.
_MAX_CONTINUATIONS = 512
#: Of decoded header blocks that are kept: the greatest size in bytes, and the greatest number.
_MAX_KEPT_BYTES, _MAX_KEPT_BLOCKS = 256, 64
#: A block that resizes the dynamic table begins with a byte of this range (RFC 7541, 6.3).
_FIRST_RESIZE, _LAST_RESIZE = b"\x20", b"\x3f"


class ProtocolError(Exception):
    """The server has broken HTTP/2's rules."""


class ClientStream:
    """An open stream. `outbound_flow_control_window` is the number of bytes that may be sent on it."""

    __slots__ = ("closed", "outbound_flow_control_window")

    def __init__(self, window: int) -> None:
        self.outbound_flow_control_window = window
        self.closed = False


class ClientFrames:
    """The state of one connection. Frames to send are collected for `data_to_send`."""

    def __init__(self, *, stream_window: int, connection_window: int, max_header_bytes: int) -> None:
        #: The open streams, by id.
        self.streams: dict[int, ClientStream] = {}
        #: Bytes that may be sent on all streams together, and in one frame.
        self.outbound_flow_control_window = 65535
        self.max_outbound_frame_size = 16384
        #: Streams that the server allows at once.
        self.max_streams = 2**31 - 1
        self.last_stream_id = -1
        self._initial_window = 65535
        self._must_empty_table = False
        self._decoder = Decoder(max_header_list_size=max_header_bytes)
        #: Short blocks decoded since the dynamic table last changed. Most calls have the same.
        self._decoded: dict[bytes, list[tuple[bytes, bytes]]] = {}
        #: A header block that is incomplete: its stream, the flags of its HEADERS frame, its parts.
        self._block: tuple[int, int, list[bytes]] | None = None
        settings = ((_ENABLE_PUSH, 0), (_INITIAL_WINDOW, stream_window), (_MAX_HEADERS, max_header_bytes))
        payload = b"".join(name.to_bytes(2, "big") + value.to_bytes(4, "big") for name, value in settings)
        self._out = [_PREFACE, frame_bytes(SETTINGS, 0, 0, payload)]
        self.acknowledge(0, connection_window - 65535)

    # Frames to send.

    def data_to_send(self) -> bytes:
        """The bytes of the frames to send. Each is returned once."""
        if not self._out:
            return b""
        data = b"".join(self._out)
        self._out.clear()
        return data

    def open(self, block: bytes) -> int:
        """Open a stream with this header block. Returns the id of the stream."""
        self.last_stream_id += 2
        stream_id = self.last_stream_id
        self.streams[stream_id] = ClientStream(self._initial_window)
        if self._must_empty_table:
            self._must_empty_table = False
            block = EMPTY_TABLE + block
        self._out.append(
            header_frames(stream_id, block, end_stream=False, max_frame=self.max_outbound_frame_size)
        )
        return stream_id

    def send_data(self, stream_id: int, data: bytes | memoryview, end_stream: bool = False) -> None:
        """Send a DATA frame (RFC 9113, 6.1). The caller has checked that the windows have room."""
        size = len(data)
        self.streams[stream_id].outbound_flow_control_window -= size
        self.outbound_flow_control_window -= size
        self._out.append(frame_bytes(DATA, END_STREAM if end_stream else 0, stream_id, bytes(data)))

    def acknowledge(self, stream_id: int, size: int) -> None:
        """Send WINDOW_UPDATE (RFC 9113, 6.9): the server may send `size` more bytes, on a stream or on all
        (0)."""
        self._out.append(frame_bytes(WINDOW_UPDATE, 0, stream_id, size.to_bytes(4, "big")))

    def ping(self, opaque_data: bytes) -> None:
        """Send a PING (RFC 9113, 6.7)."""
        self._out.append(frame_bytes(PING, 0, 0, opaque_data))

    def reset(self, stream_id: int, error_code: int) -> None:
        """Send RST_STREAM (RFC 9113, 6.4)."""
        self.close_stream(stream_id)
        self._out.append(frame_bytes(RST_STREAM, 0, stream_id, error_code.to_bytes(4, "big")))

    def close_stream(self, stream_id: int) -> None:
        """Remove a closed stream."""
        stream = self.streams.pop(stream_id, None)
        if stream is not None:
            stream.closed = True

    # Frames that arrived. All methods raise ProtocolError.

    def receive_settings(self, flags: int, payload: bytes) -> None:
        """SETTINGS (RFC 9113, 6.5): take the server's settings, and acknowledge them."""
        if flags & ACK:
            return
        if len(payload) % 6:
            raise ProtocolError("settings of a wrong size")
        for start in range(0, len(payload), 6):
            name = int.from_bytes(payload[start : start + 2], "big")
            value = int.from_bytes(payload[start + 2 : start + 6], "big")
            if name == _TABLE_SIZE:
                # Calls do not use the dynamic table. A smaller table must still be confirmed (RFC 7541, 4.2).
                self._must_empty_table = True
            elif name == _MAX_STREAMS:
                self.max_streams = value
            elif name == _MAX_FRAME:
                if not 16384 <= value < 2**24:
                    raise ProtocolError("a wrong size of frames")
                self.max_outbound_frame_size = value
            elif name == _INITIAL_WINDOW:
                if value > _MAX_WINDOW:
                    raise ProtocolError("a window too large")
                for stream in self.streams.values():
                    stream.outbound_flow_control_window += value - self._initial_window
                self._initial_window = value
        self._out.append(frame_bytes(SETTINGS, ACK, 0, b""))

    def receive_ping(self, flags: int, payload: bytes) -> None:
        """PING (RFC 9113, 6.7): answer it. An answer to a ping needs nothing."""
        if not flags & ACK:
            self._out.append(frame_bytes(PING, ACK, 0, payload))

    def receive_window_update(self, stream_id: int, payload: bytes) -> None:
        """WINDOW_UPDATE (RFC 9113, 6.9): more bytes may be sent on a stream, or on all (0)."""
        more = int.from_bytes(payload, "big") & _MAX_WINDOW
        window = self.streams.get(stream_id) if stream_id else self
        if window is None:
            return
        if window.outbound_flow_control_window + more > _MAX_WINDOW:
            raise ProtocolError("a window too large")
        window.outbound_flow_control_window += more

    def receive_headers(
        self, kind: int, flags: int, stream_id: int, payload: bytes
    ) -> tuple[int, bool, list[tuple[bytes, bytes]]] | None:
        """HEADERS or CONTINUATION (RFC 9113, 6.2 and 6.10).

        If the frame completes a header block, returns the stream's id, whether the stream has ended, the
        headers.
        """
        if kind == HEADERS:
            if self._block is not None:
                raise ProtocolError("headers within headers")
            payload = remove_padding(flags, payload)
            if flags & PRIORITY:
                payload = payload[5:]
            self._block = stream_id, flags, [payload]
        else:
            if self._block is None or self._block[0] != stream_id:
                raise ProtocolError("a continuation of nothing")
            self._block[2].append(payload)
        if not flags & END_HEADERS:
            if len(self._block[2]) > _MAX_CONTINUATIONS:
                raise ProtocolError("headers without end")
            return None
        (_, first, parts), self._block = self._block, None
        return stream_id, bool(first & END_STREAM), self._decode(b"".join(parts))

    def _decode(self, block: bytes) -> list[tuple[bytes, bytes]]:
        headers = self._decoded.get(block)
        if headers is not None:
            return headers
        entries = self._decoder.header_table.dynamic_entries
        size, newest = len(entries), entries[0] if entries else None
        try:
            headers = list[tuple[bytes, bytes]](self._decoder.decode(block, raw=True))
        except HPACKError as error:
            raise ProtocolError(f"headers that cannot be read: {error}") from None
        entries = self._decoder.header_table.dynamic_entries
        if len(entries) != size or (entries[0] if entries else None) is not newest:
            self._decoded.clear()
        elif (
            len(block) <= _MAX_KEPT_BYTES
            and len(self._decoded) < _MAX_KEPT_BLOCKS
            # A block that resizes the table must be decoded each time.
            and not _FIRST_RESIZE <= block[:1] <= _LAST_RESIZE
        ):
            self._decoded[block] = headers
        return headers


def remove_padding(flags: int, payload: bytes) -> bytes:
    """The payload of a DATA or HEADERS frame without its padding (RFC 9113, 6.1). Raises ProtocolError."""
    if not flags & PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise ProtocolError("padding that is longer than its frame")
    return payload[1 : len(payload) - payload[0]]
