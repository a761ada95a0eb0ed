"""The most frequent of a connection's frames, one a token: DATA that carries nothing but data."""

from inferd.services.net.http2.client_call import ClientCall
from inferd.services.net.http2.frames import FRAME_HEADER

#: Bytes of a frame at most.
MAX_FRAME_BYTES = 16384


def hand_out(data: bytes, start: int, calls: dict[int, ClientCall]) -> tuple[int, int]:
    """Give the calls, by their streams' ids, what such frames bring, from `start` on. Returns where the first
    frame begins that is another one, or has not come whole; and how many bytes of data there were."""
    end, received = len(data), 0
    while end - start >= FRAME_HEADER:
        # Kind DATA (0) and no flags.
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
            call.data(data[begin:stop])
    return start, received
