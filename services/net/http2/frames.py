"""HTTP/2's frames (RFC 9113, sections 4.1 and 6): types, flags and layout. Knows no order of frames."""

DATA, HEADERS, RST_STREAM, SETTINGS, PUSH_PROMISE = 0, 1, 3, 4, 5
PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 6, 7, 8, 9

END_STREAM = ACK = 1
END_HEADERS, PADDED, PRIORITY = 4, 8, 32

#: Bytes before each frame's payload: length (3), type (1), flags (1), stream id (4).
FRAME_HEADER = 9


def frame_bytes(kind: int, flags: int, stream_id: int, payload: bytes) -> bytes:
    """A frame of type `kind`."""
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream_id.to_bytes(4, "big") + payload
