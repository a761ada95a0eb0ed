"""Reads the most frequent frames of a runtime, one a token: DATA without padding, not the last of its stream.

Reads no other frames: `client_connection` does.
"""

from inferd.services.net.http2.client_call import ClientCall
from inferd.services.net.http2.frames import FRAME_HEADER

#: The greatest payload of a frame, in bytes (RFC 9113, 6.5.2: SETTINGS_MAX_FRAME_SIZE).
MAX_FRAME_BYTES = 16384


def deliver_data_frames(data: bytes, start: int, calls: dict[int, ClientCall]) -> tuple[int, int]:
    """Hand the payloads of the frames from `start` on to `calls`, by the id of the stream (RFC 9113, 4.1).

    Stops at the first frame that is of another kind or incomplete. Returns where this frame begins, and the
    number of payload bytes before it.
    """
    end, received = len(data), 0
    while end - start >= FRAME_HEADER:
        # Type DATA is 0.
        if data[start + 3] or data[start + 4]:
            break
        length = data[start] << 16 | data[start + 1] << 8 | data[start + 2]
        begin = start + FRAME_HEADER
        stop = begin + length
        if stop > end or length > MAX_FRAME_BYTES:
            break
        call = calls.get(
            (data[start + 5] & 0x7F) << 24 | data[start + 6] << 16 | data[start + 7] << 8 | data[start + 8]
        )
        received += length
        start = stop
        if call is not None:
            call.receive_data(data[begin:stop])
    return start, received
