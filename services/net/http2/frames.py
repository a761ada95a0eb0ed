"""HTTP/2's frames (RFC 9113, section 6): their kinds, their flags, their bytes."""

DATA, HEADERS, RST_STREAM, SETTINGS, PUSH_PROMISE = 0, 1, 3, 4, 5
PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 6, 7, 8, 9

END_STREAM = ACK = 1
END_HEADERS, PADDED, PRIORITY = 4, 8, 32

#: Bytes before each frame's payload.
FRAME_HEADER = 9


def frame_bytes(kind: int, flags: int, stream_id: int, payload: bytes) -> bytes:
    """A frame."""
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream_id.to_bytes(4, "big") + payload
