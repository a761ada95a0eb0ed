"""HTTP/2 frames and the prefix of gRPC's messages, for the simulated runtime and the load generator.

This is only what those two need. hpack makes header blocks. A general library costs several times more a
frame, and the benchmark would then measure itself. Source: RFC 9113.
"""

import struct
from collections.abc import Iterator

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
ACK = END_STREAM = 0x1
END_HEADERS = 0x4
_PADDED, _PRIORITY = 0x8, 0x20
INITIAL_WINDOW_SIZE = 0x4
DEFAULT_WINDOW = 65535
LARGEST_WINDOW = 2**31 - 1
LARGEST_FRAME = 16384

_HEAD = struct.Struct(">IBI")
_U32 = struct.Struct(">I")
_SETTING = struct.Struct(">HI")
_PREFIX = struct.Struct(">BI")


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """The bytes of one frame (RFC 9113, section 4.1)."""
    return _HEAD.pack(len(payload) << 8 | kind, flags, stream) + payload


def data_head(length: int, stream: int) -> bytes:
    """The head of a DATA frame of `length` bytes that does not end its stream."""
    return _HEAD.pack(length << 8, 0, stream)


def settings(values: dict[int, int]) -> bytes:
    """A SETTINGS frame with these values, by the setting's number."""
    return frame(SETTINGS, 0, 0, b"".join(_SETTING.pack(key, value) for key, value in values.items()))


def window_update(stream: int, increment: int) -> bytes:
    """A WINDOW_UPDATE frame. `increment` is in bytes."""
    return frame(WINDOW_UPDATE, 0, stream, _U32.pack(increment))


def read_settings(payload: bytes) -> dict[int, int]:
    """The values in the payload of a SETTINGS frame, by the setting's number."""
    return dict(_SETTING.iter_unpack(payload))


def read_increment(payload: bytes) -> int:
    """The increment in the payload of a WINDOW_UPDATE frame, in bytes."""
    return int(_U32.unpack(payload)[0]) & LARGEST_WINDOW


def grpc_message(message: bytes) -> bytes:
    """A message with gRPC's prefix of five bytes. The message is not compressed."""
    return _PREFIX.pack(0, len(message)) + message


class FrameReader:
    """Cuts received bytes into frames: (kind, flags, stream, payload). Padding and priority are removed."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
        """The frames that are complete now. The rest of the bytes is kept for the next call."""
        if self._rest:
            data = self._rest + data
        size, at = len(data), 0
        while size - at >= 9:
            length_kind, flags, stream = _HEAD.unpack_from(data, at)
            end = at + 9 + (length_kind >> 8)
            if end > size:
                break
            kind = length_kind & 0xFF
            payload = data[at + 9 : end]
            if kind <= HEADERS and flags & (_PADDED | _PRIORITY):
                payload = _unpadded(kind, flags, payload)
            at = end
            yield kind, flags, stream & LARGEST_WINDOW, payload
        self._rest = data[at:]


def _unpadded(kind: int, flags: int, payload: bytes) -> bytes:
    if flags & _PADDED:
        payload = payload[1 : len(payload) - payload[0]]
    return payload[5:] if kind == HEADERS and flags & _PRIORITY else payload
